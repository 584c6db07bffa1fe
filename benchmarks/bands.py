"""Redshifts and land cover from multi-band cutouts: early against late, and instruments removed.

Writes its section of docs/benchmarks.md. Run from the root of the repository, with the development
data beside it or in ``MMFUSE_DATA``::

    python benchmarks/bands.py [redshift] [cover]

The galaxies are SIMULATED; their six bands are taken as two instruments, of which the second is
binned two by two. The land is real: Sentinel-2 bands of 10 m and of 20 m, whose pixels repeat here
and are averaged two by two.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page import write_section
from sklearn.model_selection import GroupKFold, KFold

from mmfuse import Blocks, FusionClassifier, FusionRegressor, ModalityTable
from mmfuse.encoders import MultiBandEncoder, add_instrument_gaps
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import cde_loss, crps, log_loss, nmad, outlier_fraction

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
PHOTO_Z = {
    "ugri": {"bands": list("ugri"), "pixel_scale": 0.2, "zero_point": 27.0},
    "zy": {"bands": list("zy"), "pixel_scale": 0.4, "zero_point": 27.0},
}
LAND = {
    "10 m": {
        "bands": ["B02", "B03", "B04", "B08"],
        "pixel_scale": 10.0,
        "quantity": "brightness",
        "noise": 0.005,
    },
    "20 m": {
        "bands": ["B05", "B06", "B07", "B8A", "B11", "B12"],
        "pixel_scale": 20.0,
        "quantity": "brightness",
        "noise": 0.005,
    },
}
MODES = {
    "one encoder per instrument": "split",
    '`fusion="late"`': "late",
    '`fusion="early"`': "early",
    '`fusion="early"`, gaps in training': "gaps",
}
Cells = list[dict[str, np.ndarray]]
Score = Callable[[Any, Blocks, np.ndarray], list[float]]


def blocks(train: Cells, spec: dict, mode: str, **params: Any) -> Callable:
    """Encoders fitted on training cells; what returns blocks of any cells."""
    fusion = "early" if mode in ("early", "gaps") else "late"
    encoder = MultiBandEncoder(spec, fusion=fusion, cache=False, **params)
    parts = {"cutout": encoder} if mode != "split" else encoder.split()

    def columns(cells: Cells) -> dict[str, Any]:
        return {"cutout": cells} if mode != "split" else encoder.split_column(cells)

    for name, column in columns(train).items():
        parts[name].fit(column)

    def encode(cells: Cells) -> Blocks:
        found = {n: parts[n].encode(column) for n, column in columns(cells).items()}
        states = np.stack([one.presence for one in found.values()], axis=1)
        return Blocks({name: one.values for name, one in found.items()}, states)

    return encode


def without(cells: Cells, name: str | None) -> Cells:
    return [{k: v for k, v in cell.items() if k != name} for cell in cells]


def compare(
    cells: Cells,
    y: np.ndarray,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    spec: dict,
    make: Callable[[], Any],
    score: Score,
    **params: Any,
) -> pd.DataFrame:
    """Mean scores over folds, for each mode and each instrument removed from the test rows."""
    rows: dict[tuple[str, str], list[list[float]]] = {}
    for label, mode in MODES.items():
        for train, test in folds:
            seen, held = [cells[i] for i in train], [cells[i] for i in test]
            encode = blocks(seen, spec, mode, **params)
            shown, source = seen, train
            if mode == "gaps":
                table = ModalityTable({"cutout": seen})
                copies = add_instrument_gaps(table, "cutout", MultiBandEncoder(spec), groups=train)
                shown, source = list(copies.X["cutout"]), copies.groups
            model = make().fit(encode(shown), y[source], groups=source)
            for removed in (None, *spec):
                found = score(model, encode(without(held, removed)), y[test])
                key = (label, "as recorded" if removed is None else f"no {removed}")
                rows.setdefault(key, []).append(found)
        print(label, {k[1]: np.mean(v, axis=0).round(3) for k, v in rows.items() if k[0] == label})
    return pd.DataFrame({key: np.mean(v, axis=0) for key, v in rows.items()}).T


def table(frame: pd.DataFrame, names: Sequence[str]) -> list[str]:
    head = ["fusion", "test rows", *names]
    lines = [f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for (label, removed), values in frame.iterrows():
        numbers = ("" if np.isnan(value) else f"{value:.3f}" for value in values)
        lines.append(f"| {label} | {removed} | {' | '.join(numbers)} |")
    return lines


def galaxies() -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cells, redshifts, and the magnitudes of the catalogue with their differences."""
    folder = DATA / "galaxy_sim"
    images = np.load(folder / "cutouts.npz")["images"].astype(np.float32)
    catalogue = pd.read_csv(folder / "catalog.csv")
    coarse = images[:, 4:].reshape(len(images), 2, 16, 2, 16, 2).sum(axis=(3, 5))
    cells = [{"ugri": a, "zy": b} for a, b in zip(images[:, :4], coarse, strict=True)]
    mags = catalogue[[f"mag_{band}" for band in "ugrizy"]].to_numpy(np.float32)
    mags[~(mags < 90)] = np.nan
    return cells, catalogue["redshift"].to_numpy(), np.hstack([mags, np.diff(mags, axis=1)])


def redshift() -> list[str]:
    cells, y, mags = galaxies()
    folds = list(KFold(3, shuffle=True, random_state=0).split(y))

    def make() -> FusionRegressor:
        return FusionRegressor(EarlyFusion(), output="mixture", cv=3, random_state=0)

    def score(model: FusionRegressor, X: Blocks, target: np.ndarray) -> list[float]:
        point, density = model.predict(X), model.predict_density(X)
        return [
            nmad(target, point),
            outlier_fraction(target, point),
            crps(density, target),
            cde_loss(density, target),
        ]

    frame = compare(cells, y, folds, PHOTO_Z, make, score)
    network = '`fusion="early"`, `features="cnn"`, random weights'
    reference = {network: [], "magnitudes of the catalogue": [], "mean of the training rows": []}
    for train, test in folds:
        seen = [cells[i] for i in train]
        encode = blocks(seen, PHOTO_Z, "early", features="cnn")
        model = make().fit(encode(seen), y[train])
        reference[network].append(score(model, encode([cells[i] for i in test]), y[test]))
        model = make().fit(Blocks({"mags": mags[train]}), y[train])
        reference["magnitudes of the catalogue"].append(
            score(model, Blocks({"mags": mags[test]}), y[test])
        )
        point = np.full(len(test), y[train].mean())
        reference["mean of the training rows"].append(
            [nmad(y[test], point), outlier_fraction(y[test], point), np.nan, np.nan]
        )
    for name, found in reference.items():
        frame.loc[(name, "as recorded"), :] = np.mean(found, axis=0)
    return [
        "### Redshifts of simulated galaxies",
        "",
        "galaxy_sim (SIMULATED, ours): 300 cutouts in ugrizy, taken as two instruments, ugri at "
        '0.2 and zy at 0.4 arcsec per pixel; 3 folds. `MultiBandEncoder(features="photometry")`, '
        'then `FusionRegressor(EarlyFusion(), output="mixture")`. Outliers: |dz| / (1 + z) above '
        "0.15. Lower is better throughout. *Gaps in training*: every training row also comes "
        "without each instrument (`add_instrument_gaps`); elsewhere training rows are complete. "
        "One encoder per instrument makes each a modality that the head learns to do without, at "
        "a price where nothing is "
        "missing; in one block whose gaps were never seen, an absent instrument is its training "
        "mean, which can be worse than to predict the mean redshift. The "
        "catalogue is `catalog.csv`, with its own noise.",
        "",
        *table(frame, ["NMAD", "outliers", "CRPS", "CDE loss"]),
    ]


def land() -> tuple[Cells, np.ndarray, np.ndarray]:
    """Cutouts of 60 m in three clear scenes averaged, class at the centre, and block of 100 m."""
    file = np.load(DATA / "sentinel2" / "patch.npz")
    names = file["band_names"].tolist()
    scene, cover = file["bands"][2:].mean(axis=0), file["lulc"]
    cells, classes, groups = [], [], []
    for top in range(0, cover.shape[0] - 9, 10):
        for left in range(0, cover.shape[1] - 9, 10):
            for down in (0, 2, 4):
                for right in (0, 2, 4):
                    i, j = top + down, left + right
                    window = np.moveaxis(scene[i : i + 6, j : j + 6], 2, 0)
                    fine = window[[names.index(b) for b in LAND["10 m"]["bands"]]]
                    rest = window[[names.index(b) for b in LAND["20 m"]["bands"]]]
                    coarse = rest.reshape(len(rest), 3, 2, 3, 2).mean(axis=(2, 4))
                    cells.append({"10 m": fine, "20 m": coarse})
                    classes.append(
                        np.bincount(cover[i + 2 : i + 4, j + 2 : j + 4].ravel()).argmax()
                    )
                    groups.append((top // 10) * 10 + left // 10)
    y, group = np.array(classes), np.array(groups)
    counts = np.bincount(y)
    kept = np.flatnonzero(counts[y] >= 20)
    return [cells[i] for i in kept], y[kept], group[kept]


def cover() -> list[str]:
    cells, y, groups = land()
    folds = list(GroupKFold(3, shuffle=True, random_state=0).split(y, groups=groups))

    def make() -> FusionClassifier:
        return FusionClassifier(EarlyFusion(), cv=3, random_state=0)

    def score(model: FusionClassifier, X: Blocks, target: np.ndarray) -> list[float]:
        proba = model.predict_proba(X)
        hit = (model.classes_[proba.argmax(axis=1)] == target).mean()
        return [float(hit), log_loss(target, proba, classes=model.classes_)]

    frame = compare(cells, y, folds, LAND, make, score, apertures=(10.0, 20.0, 30.0))
    shares = np.bincount(y)[np.unique(y)] / len(y)
    return [
        "### Land cover",
        "",
        f"sentinel2 (real): {len(y)} cutouts of 60 m, mean of three clear scenes, four bands of "
        f"10 m and six of 20 m; {len(shares)} classes, the largest {shares.max():.2f} of all; 3 "
        'folds by blocks of 100 m. `MultiBandEncoder(features="photometry")`, then '
        "`FusionClassifier(EarlyFusion())`.",
        "",
        *table(frame, ["accuracy", "log loss"]),
    ]


def main() -> None:
    parts = {"redshift": redshift, "cover": cover}
    for name in sys.argv[1:] or parts:
        title = ["## Cutouts in several bands", ""] if name == "redshift" else []
        end = ["", "Made by `benchmarks/bands.py`."]
        write_section(f"bands {name}", "\n".join([*title, *parts[name](), *end]))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
