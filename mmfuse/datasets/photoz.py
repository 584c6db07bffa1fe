"""Simulated photometry of galaxies with redshifts, in two groups of bands."""

from __future__ import annotations

from functools import cache
from numbers import Integral
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from mmfuse.table import ModalityTable

__all__ = ["load_photoz"]

_FILE = Path(__file__).parent / "data" / "photoz.npz"
_GROUPS = {"blue": "ugr", "red": "izy"}
_DESCR = """\
Photometric redshifts
=====================

3000 simulated galaxies, two modalities, one number to predict:

blue     magnitudes in the bands u, g and r, then their errors (AB magnitudes)
red      magnitudes in the bands i, z and y, then their errors
target   the redshift, 0.04 to 2.98

A band in which the galaxy was not detected is NaN, magnitude and error; it happens in u only, in
one row of fourteen. The rows are in random order, so the first rows are a sample of all.

The galaxies are SIMULATED: they are from the second data challenge (DC2) of the LSST Dark Energy
Science Collaboration, with errors as expected of the Rubin observatory. Magnitudes are rounded to
0.001, errors and redshifts to 0.0001.

Licence: MIT (LSST Dark Energy Science Collaboration); see LICENSE-PHOTOZ.txt beside the data file.
"""


@cache
def _read() -> dict[str, np.ndarray]:
    with np.load(_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def load_photoz(n_rows: int | None = None) -> Bunch:
    """Load 3000 simulated galaxies: magnitudes in two groups of bands, and the redshift.

    The data come with the package.

    Parameters
    ----------
    n_rows : int, default=None
        How many rows, from the first on; all 3000 by default.

    Returns
    -------
    Bunch
        ``X`` : ModalityTable with the modalities ``blue`` and ``red``, float32 of shape
        (n_rows, 6): three magnitudes, then their errors, in AB magnitudes; NaN where a galaxy was
        not detected in a band;
        ``y`` : ndarray of shape (n_rows,), float64, the redshifts;
        ``feature_names`` : dict of the names of the columns of each modality;
        ``DESCR``.

    Raises
    ------
    ValueError
        If ``n_rows`` is not an integer from 1 to 3000.

    Examples
    --------
    >>> from mmfuse.datasets import load_photoz
    >>> galaxies = load_photoz(n_rows=100)
    >>> galaxies.X.modalities, galaxies.X["red"].shape
    (('blue', 'red'), (100, 6))
    >>> galaxies.feature_names["blue"]
    ['mag_u', 'mag_g', 'mag_r', 'err_u', 'err_g', 'err_r']
    """
    data = _read()
    total = len(data["redshift"])
    n = total if n_rows is None else n_rows
    if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= n <= total:
        raise ValueError(
            f"load_photoz: n_rows must be an integer from 1 to {total}, got {n_rows!r}."
        )
    columns = {
        f"{kind}_{band}": np.where(values < 0, np.nan, values / scale).astype(np.float32)
        for kind, key, scale in (("mag", "magnitude", 1e3), ("err", "error", 1e4))
        for band, values in zip(data["bands"], data[key][:, : int(n)], strict=True)
    }
    names = {
        group: [f"{kind}_{band}" for kind in ("mag", "err") for band in bands]
        for group, bands in _GROUPS.items()
    }
    views = {
        group: np.stack([columns[name] for name in parts], axis=1) for group, parts in names.items()
    }
    return Bunch(
        X=ModalityTable(views),
        y=data["redshift"][: int(n)] / 1e4,
        feature_names=names,
        DESCR=_DESCR,
    )
