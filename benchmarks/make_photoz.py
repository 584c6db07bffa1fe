"""Build the data set that mmfuse carries: simulated photometry of galaxies with redshifts.

Run once, from the root of the repository, by whoever changes the data set; needs the source file::

    python benchmarks/make_photoz.py --source ../shared/data

The rows of the source are in random order; the first ones are taken. Magnitudes are kept to a
thousandth, their errors and the redshifts to a ten-thousandth, as whole numbers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

ROWS = 3000
BANDS = "ugrizy"
NOT_DETECTED = 99.0
TARGET = Path(__file__).parents[1] / "mmfuse" / "datasets" / "data" / "photoz.npz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path("../shared/data"))
    source = parser.parse_args().source
    frame = pd.read_csv(source / "photoz_dc2" / "photometry.csv.gz").iloc[:ROWS]
    magnitude = frame[[f"mag_{band}_lsst" for band in BANDS]].to_numpy()
    error = frame[[f"mag_err_{band}_lsst" for band in BANDS]].to_numpy()
    unseen = ~(magnitude < NOT_DETECTED)  # NaN too
    np.savez_compressed(
        TARGET,
        bands=np.array(list(BANDS)),
        # by columns, which compress better; -1 is not detected
        magnitude=np.where(unseen, -1, np.rint(magnitude * 1e3)).astype(np.int32).T,
        error=np.where(unseen, -1, np.rint(error * 1e4)).astype(np.int32).T,
        redshift=np.rint(frame["redshift"].to_numpy() * 1e4).astype(np.int32),
    )
    print(f"{TARGET.name}: {len(frame)} rows, {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
