"""The labelled sets of the accuracy benchmark: views, labels, groups of rows.

A view that a row does not have is all NaN in that row. Nothing here looks at a label to make a
feature; encoders are pretrained ones or fixed statistics.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

__all__ = ["DATA", "SETS", "Set", "sequence_mean", "with_and_without_text"]

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Set:
    """One set.

    Attributes
    ----------
    views : dict of str to ndarray of shape (n, d)
        A row of NaN is a view that this row does not have.
    y : ndarray of shape (n,)
        Classes.
    groups : ndarray of shape (n,) or None
        Rows of one group never stand on both sides of a split.
    anchor : str or None
        The view that the weaker ones may query.
    n_folds : int
    """

    views: dict[str, np.ndarray]
    y: np.ndarray
    groups: np.ndarray | None = None
    anchor: str | None = None
    n_folds: int = 5


def htad() -> Set:
    """Home tasks: sound and wrist motion, 7 activities."""
    frame = pd.read_csv(DATA / "htad_audio_motion" / "htad.csv")
    views = {"audio": frame.filter(like="v1_"), "motion": frame.filter(like="v2_")}
    arrays = {name: view.to_numpy(np.float32) for name, view in views.items()}
    return Set(arrays, frame["class"].to_numpy(dtype=str))


def mosi() -> Set:
    """Opinions in videos: text, sound and picture features, 2 sentiments, grouped by video."""
    z = np.load(DATA / "mosi" / "clean.npz", allow_pickle=False)
    views = {name: z[name] for name in ("text", "audio", "video")}
    return Set(views, z["label"], z["video_id"], anchor="text")


def mfeat() -> Set:
    """Handwritten numerals described in six ways, 10 digits."""
    z = np.load(DATA / "mfeat_six_views" / "views.npz", allow_pickle=False)
    return Set({name: z[name] for name in z.files if z[name].ndim == 2}, z["label"])


def av_digits() -> Set:
    """Spoken and handwritten digits, 10 digits, grouped by speaker."""
    from av_digits import encode

    blocks, y, speakers = encode()
    return Set({name: blocks[name] for name in blocks.names}, y, speakers.astype(str), n_folds=4)


def clothing() -> Set:
    """Reviews of clothes: title (absent in one of seven), text, and a table; recommended or not."""
    from mmfuse.encoders import NumericEncoder, SentenceEncoder

    frame = pd.read_csv(DATA / "clothing_reviews" / "reviews.csv.gz")
    facts = ["Age", "Positive Feedback Count", "Division Name", "Department Name", "Class Name"]
    encoder = SentenceEncoder()
    views = {
        "title": encoder.fit(frame["Title"]).transform(frame["Title"]),
        "review": encoder.fit(frame["Review Text"]).transform(frame["Review Text"]),
        "table": NumericEncoder().fit(frame[facts]).transform(frame[facts]),
    }
    return Set(views, frame["Recommended IND"].to_numpy(), anchor="review")


def sequence_mean(steps: np.ndarray) -> np.ndarray:
    """Mean over the steps that are not padding: (n, steps, d) to (n, d), NaN where none is left."""
    real = (steps != 0).any(axis=2)
    total = np.where(real[:, :, None], steps, 0).astype(np.float64).sum(axis=1)
    count = real.sum(axis=1)[:, None]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def with_and_without_text(name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Both parts of a set of sequences; the larger part was published without its text."""
    folder = DATA / "sequences_av_text"
    full = np.load(folder / f"{name}_atv.npz", allow_pickle=False)
    bare = np.load(folder / f"{name}_train_av.npz", allow_pickle=False)
    views = {
        view: np.concatenate([sequence_mean(full[view]), sequence_mean(bare[view])])
        for view in ("audio", "video")
    }
    text = sequence_mean(full["text"])
    absent = np.full((len(bare["label"]), text.shape[1]), np.nan, dtype=np.float32)
    return {"text": np.concatenate([text, absent]), **views}, np.concatenate(
        [full["label"], bare["label"]]
    )


def mmmo() -> Set:
    """Film reviews on video, text in 80 of 300 rows; score up to 2, between, 4 and more."""
    views, score = with_and_without_text("mmmo")
    classes = np.array(["bad", "middling", "good"])
    return Set(views, classes[(score > 2).astype(int) + (score >= 4)], anchor="text")


def youtube() -> Set:
    """Opinions on video, text in 60 of 233 rows; 3 sentiments."""
    views, one_hot = with_and_without_text("youtube")
    return Set(views, one_hot.argmax(axis=1), anchor="text")


def sentinel2() -> Set:
    """Land cover of pixels: three clear scenes, an NDVI series, terrain; grouped by block."""
    z = np.load(DATA / "sentinel2" / "patch.npz", allow_pickle=False)
    dem, cover = z["dem"].astype(np.float64), z["lulc"]
    steps_down, steps_right = np.gradient(dem, 10.0)
    maps = {
        "scenes": np.moveaxis(z["bands"][2:], (0, 3), (2, 3)).reshape(*dem.shape, -1),
        "ndvi": np.moveaxis(z["ndvi"].astype(np.float32), 0, 2),
        "terrain": np.stack([dem, steps_down, steps_right], axis=2),
    }
    row, column = np.divmod(np.arange(dem.size), dem.shape[1])
    names, counts = np.unique(cover, return_counts=True)
    kept = (row % 2 == 1) & (column % 2 == 1) & np.isin(cover.ravel(), names[counts >= 100])
    views = {
        name: part.reshape(dem.size, -1)[kept].astype(np.float32) for name, part in maps.items()
    }
    blocks = (row // 10) * 10 + column // 10
    return Set(views, cover.ravel()[kept].astype(int), blocks[kept])


SETS: dict[str, Callable[[], Set]] = {
    "htad": htad,
    "mosi": mosi,
    "mfeat": mfeat,
    "av_digits": av_digits,
    "clothing": clothing,
    "mmmo": mmmo,
    "youtube": youtube,
    "sentinel2": sentinel2,
}
