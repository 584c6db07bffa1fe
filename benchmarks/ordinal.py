"""Ordered against unordered classes where labelled rows are few, on graded real data.

Prints the ranked probability score, quadratic kappa and log loss of ``target="nominal"`` and
``target="ordinal"`` over the same draws of training rows. Run from the root of the repository, with
the development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/ordinal.py [reviews] [films] [simulated]
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from mmfuse import Blocks, FusionClassifier
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.metrics import log_loss, quadratic_kappa, ranked_probability_score

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
HEADS = {"LateFusion()": LateFusion(), "EarlyFusion()": EarlyFusion()}
SIZES = (60, 150)
DRAWS = 8


def reviews() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Ratings 1 to 5 of clothes, from the words and from the table."""
    frame = pd.read_csv(DATA / "clothing_reviews" / "reviews.csv.gz")
    words = frame["Title"].fillna("") + " " + frame["Review Text"].fillna("")
    counts = TfidfVectorizer(min_df=5, sublinear_tf=True, stop_words="english")
    text = TruncatedSVD(40, random_state=0).fit_transform(counts.fit_transform(words))
    table = pd.get_dummies(frame[["Department Name"]]).astype(float)
    table["age"] = frame["Age"]
    table["feedback"] = np.log1p(frame["Positive Feedback Count"])
    return {"text": text, "table": table.to_numpy()}, frame["Rating"].to_numpy()


def films() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores 1 to 5 that speakers give films, rounded; words are there in 80 of 300 videos."""
    with_text = np.load(DATA / "sequences_av_text" / "mmmo_atv.npz")
    without = np.load(DATA / "sequences_av_text" / "mmmo_train_av.npz")
    mean = {
        name: np.concatenate(
            [part[name].astype(float).mean(axis=1) for part in (with_text, without)]
        )
        for name in ("audio", "video")
    }
    text = np.full((len(mean["audio"]), with_text["text"].shape[2]), np.nan)
    text[: len(with_text["text"])] = with_text["text"].astype(float).mean(axis=1)
    label = np.concatenate([with_text["label"], without["label"]]).ravel()
    return {"text": text, **mean}, np.floor(label + 0.5).astype(int)


def simulated() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Five grades of one latent score with logistic noise; 3 of 20 features count."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(3000, 10)), rng.normal(size=(3000, 10))
    latent = a[:, 0] + a[:, 1] + b[:, 0] + rng.logistic(size=3000)
    return {"a": a, "b": b}, np.digitize(latent, [-2.0, -0.7, 0.7, 2.0])


def scores(model: FusionClassifier, X: Blocks, y: np.ndarray, classes: np.ndarray) -> list[float]:
    """RPS, kappa and log loss; a class that the draw lacked has no probability."""
    proba = np.zeros((len(y), len(classes)))
    proba[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(X)
    return [
        ranked_probability_score(y, proba, classes=classes),
        quadratic_kappa(y, classes[proba.argmax(axis=1)], classes=classes),
        log_loss(y, 0.999 * proba + 0.001 / len(classes), classes=classes),
    ]


def compare(load: Callable[[], tuple[dict[str, np.ndarray], np.ndarray]]) -> None:
    arrays, y = load()
    blocks, classes = Blocks(arrays), np.unique(y)
    print(f"\n{load.__name__}: {load.__doc__}", flush=True)
    for size in SIZES:
        for name, head in HEADS.items():
            found: dict[str, list] = {"nominal": [], "ordinal": []}
            for draw in range(DRAWS):
                order = np.random.default_rng(draw).permutation(len(y))
                train, test = order[:size], order[size:]
                for target, rows in found.items():
                    model = FusionClassifier(head, target=target, random_state=0)
                    model.fit(blocks[train], y[train])
                    rows.append(scores(model, blocks[test], y[test], classes))
            both = {target: np.array(rows) for target, rows in found.items()}
            gain = both["nominal"][:, 0] - both["ordinal"][:, 0]
            means = "; ".join(
                f"{target} RPS {m[0]:.3f} kappa {m[1]:.3f} log loss {m[2]:.3f}"
                for target, m in ((t, rows.mean(axis=0)) for t, rows in both.items())
            )
            better = f"ordinal better in {(gain > 0).sum()} of {DRAWS} draws"
            print(f"{size} rows, {name}: {means}; {better}", flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sets = {one.__name__: one for one in (reviews, films, simulated)}
    for chosen in sys.argv[1:] or sets:
        compare(sets[chosen])
