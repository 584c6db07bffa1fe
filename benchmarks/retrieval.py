"""Zero-shot classification, retrieval by caption, and few shots, with packaged weights only.

`ConSEEncoder` gives the zero-shot logits and the joint space of pictures and texts. Run from the
root of the repository, with the development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/retrieval.py [zero-shot] [kinds] [digits]
"""

from __future__ import annotations

import csv
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from page import write_section
from picture_kinds import NAMES, load_kinds

from mmfuse import Blocks, FusionClassifier
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import ConSEEncoder, ImageEncoder, SentenceEncoder
from mmfuse.heads import EarlyFusion, LogitBiasFusion
from mmfuse.metrics import log_loss

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
SHOTS = (1, 2, 4, 8, 16)
DRAWS = {"kinds": 6, "digits": 3}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def ranks(similarity: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Place of the wanted column in every row, from 1."""
    own = similarity[np.arange(len(wanted)), wanted]
    return 1 + (similarity > own[:, None]).sum(axis=1)


def recall(found: np.ndarray, k: int) -> str:
    return f"{(found <= k).mean():.3f}"


def captions(name: str) -> tuple[list[Path], list[str], np.ndarray]:
    """Files, captions, and the file that each caption is of."""
    folder = DATA / name
    listed = "images.csv" if (folder / "images.csv").exists() else "captions.csv"
    with open(folder / listed, encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = [folder / "images" / row["image"] for row in rows]
    owner = np.array([i for i, row in enumerate(rows) if row["caption"]])
    return files, [rows[i]["caption"] for i in owner], owner


def retrieval_rows() -> list[str]:
    lines = []
    for name, what in (
        ("research_only_imagenet_samples", "ImageNet samples"),
        ("open_pictures", "open pictures"),
    ):
        files, texts, owner = captions(name)
        pictures = ConSEEncoder().fit_transform(files)
        similarity = SentenceEncoder().fit_transform(texts) @ pictures.T
        to_picture = ranks(similarity, owner)
        to_text = ranks(similarity[:, owner].T, np.arange(len(owner)))
        lines.append(
            f"| {what}: {len(texts)} captions, {len(files)} pictures | {recall(to_picture, 1)} | "
            f"{recall(to_picture, 5)} | {recall(to_text, 1)} | {recall(to_text, 5)} | "
            f"{1 / len(files):.3f} |"
        )
    return lines


def hidden_rows() -> list[str]:
    """Find the true name among ImageNet's, with and without the true class in the classifier."""
    files, _, rows = load_kinds(DATA / "research_only_imagenet_samples")
    truth = np.array([int(row["imagenet_index"]) for row in rows])
    logits = ImageEncoder(pooling="logits").fit_transform(files)
    words = ConSEEncoder().fit([]).last()
    lines = []
    for what, seen in (("in the classifier", True), ("hidden from it", False)):
        used = torch.from_numpy(logits.copy())
        if not seen:
            used[np.arange(len(truth)), truth] = -torch.inf
        found = ranks((words(used) @ words.source.T).numpy(), truth)
        lines.append(
            f"| {what} | {recall(found, 1)} | {recall(found, 5)} | {recall(found, 10)} | "
            f"{np.median(found):.0f} |"
        )
    lines.append("| by chance | 0.001 | 0.005 | 0.010 | 500 |")
    return lines


def zero_shot() -> None:
    files, kinds, _ = load_kinds(DATA / "research_only_imagenet_samples")
    encoder = ConSEEncoder(NAMES)
    logits = encoder.fit_transform(files)
    classes = np.unique(kinds)
    accuracy = (classes[logits.argmax(axis=1)] == kinds).mean()
    proba = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    loss = log_loss(kinds, proba, classes=classes)
    share = np.unique(kinds, return_counts=True)[1].max() / len(kinds)
    text = f"""## Pictures by name, without CLIP weights

`ConSEEncoder()` (packaged weights, nothing trained) on {len(files)} ImageNet sample pictures, one
of each class, probably pictures that the classifier was trained with; and on 12 freely licensed
pictures that it was not.

Seven kinds, asked for by name ({"; ".join(NAMES.values())}): accuracy {accuracy:.3f} (always the
largest kind: {share:.3f}), log loss {loss:.3f} (uniform: {np.log(len(classes)):.3f}). The scale of
the logits was chosen on these pictures, the names were not.

One of ImageNet's 1000 names, the true class being

| | R@1 | R@5 | R@10 | median rank |
| --- | --- | --- | --- | --- |
{chr(10).join(hidden_rows())}

Nearest pictures of a caption, and nearest captions of a picture:

| set | picture R@1 | picture R@5 | caption R@1 | caption R@5 | picture R@1 by chance |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(retrieval_rows())}

Made by `benchmarks/retrieval.py`."""
    write_section("zero-shot", text)


# Few shots.


def kinds() -> tuple[Blocks, np.ndarray]:
    files, y, _ = load_kinds(DATA / "research_only_imagenet_samples")
    prior = ConSEEncoder(NAMES).fit_transform(files)
    return Blocks({"prior": prior, "image": ImageEncoder().fit_transform(files)}), y


def digits() -> tuple[Blocks, np.ndarray]:
    """Handwritten digits: nothing that a classifier of photographs has a word for."""
    loaded = load_av_digits()
    rows = np.random.default_rng(0).permutation(len(loaded.y))[:360]
    pictures, y = loaded.X["image"][rows], loaded.y[rows]
    names = {digit: f"the handwritten digit {name}" for digit, name in enumerate(DIGITS)}
    prior = ConSEEncoder(names).fit_transform(pictures)
    return Blocks({"prior": prior, "image": ImageEncoder().fit_transform(pictures)}), y


def draw(y: np.ndarray, shots: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows, at most two thirds of a class, and the rest."""
    rng, train = np.random.default_rng(seed), []
    for label in np.unique(y):
        rows = rng.permutation(np.flatnonzero(y == label))
        train.extend(rows[: min(shots, 2 * len(rows) // 3)])
    return np.array(train), np.setdiff1d(np.arange(len(y)), train)


def score(y: np.ndarray, proba: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    return (classes[proba.argmax(axis=1)] == y).mean(), log_loss(y, proba, classes=classes)


METHODS: dict[str, Callable[[], tuple[object, list[str]]]] = {
    "LogitBiasFusion('prior')": lambda: (LogitBiasFusion("prior"), ["prior", "image"]),
    "EarlyFusion(), features alone": lambda: (EarlyFusion(), ["image"]),
}


def few_shot_tables(load: Callable[[], tuple[Blocks, np.ndarray]]) -> str:
    blocks, y = load()
    classes = np.unique(y)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for shots in SHOTS:
        for seed in range(DRAWS[load.__name__]):
            train, test = draw(y, shots, seed)
            proba = torch.from_numpy(blocks["prior"][test]).double().softmax(dim=1).numpy()
            found.setdefault(("prior alone", shots), []).append(score(y[test], proba, classes))
            for name, make in METHODS.items():
                head, names = make()
                used = Blocks({n: blocks[n] for n in names})
                model = FusionClassifier(head, random_state=0).fit(used[train], y[train])
                result = score(y[test], model.predict_proba(used[test]), classes)
                found.setdefault((name, shots), []).append(result)
        print(load.__name__, shots, flush=True)
    return "\n\n".join(_table(found, which) for which in (0, 1))


def _table(found: dict[tuple[str, int], list[tuple[float, float]]], which: int) -> str:
    title = ("accuracy", "log loss")[which]
    lines = [
        f"| {title} | " + " | ".join(str(shots) for shots in SHOTS) + " |",
        "| --- |" + " --- |" * len(SHOTS),
    ]
    for name in ("prior alone", *METHODS):
        values = [np.array(found[name, shots])[:, which] for shots in SHOTS]
        cells = " | ".join(f"{v.mean():.3f} ± {v.std():.3f}" for v in values)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


SETS = {
    "kinds": (
        kinds,
        """Seven kinds of ImageNet sample pictures, as above. A kind has 12 to 20 pictures and gives
two thirds of them at most, so that the last column is of 8 to 13.""",
    ),
    "digits": (
        digits,
        "Handwritten digits (360 of `load_av_digits()`), of which the prior knows nothing.",
    ),
}


def few_shot(name: str) -> None:
    load, what = SETS[name]
    text = f"""### Few shots with a zero-shot prior: {name}

{what} Training rows per class in the columns, other rows are scored; mean and deviation over
{DRAWS[name]} draws. The prior is `ConSEEncoder`, the features are those of `ImageEncoder()`.

{few_shot_tables(load)}

Made by `benchmarks/retrieval.py`."""
    write_section(f"few-shot {name}", text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for chosen in sys.argv[1:] or ("zero-shot", *SETS):
        zero_shot() if chosen == "zero-shot" else few_shot(chosen)
