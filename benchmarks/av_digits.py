"""Spoken and written digits, one speaker left out: fusion against single modalities.

Run from the root of the repository::

    python benchmarks/av_digits.py            # prints the section and writes docs/benchmarks.md
    python benchmarks/av_digits.py --dry-run  # prints it only
"""

from __future__ import annotations

import argparse

import numpy as np
from page import write_section

from mmfuse import FusionClassifier, ModalityEncoder
from mmfuse.blocks import Blocks
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import ImageEncoder, LogMelEncoder
from mmfuse.metrics import expected_calibration_error, log_loss

ROWS = {
    "image + audio": (("image", "audio"), None),
    "image + audio, audio missing in every test row": (("image", "audio"), "audio"),
    "image only, trained alone": (("image",), None),
    "image + audio, image missing in every test row": (("image", "audio"), "image"),
    "audio only, trained alone": (("audio",), None),
}


def encode(n_rows: int | None = None) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """Blocks, digits and speakers; the default encoders learn nothing from the rows."""
    digits = load_av_digits(n_rows)
    encoders = {"image": ImageEncoder(), "audio": LogMelEncoder()}
    return ModalityEncoder(encoders).fit_transform(digits.X), digits.y, digits.groups


def held_out_probabilities(
    blocks: Blocks, y: np.ndarray, speakers: np.ndarray
) -> dict[str, np.ndarray]:
    """Probabilities of every row by models that did not hear its speaker, for every case."""
    found = {case: np.empty((len(y), 10)) for case in ROWS}
    for speaker in np.unique(speakers):
        test = speakers == speaker
        models = {}
        for names in {names for names, _ in ROWS.values()}:
            model = FusionClassifier(random_state=0)
            models[names] = model.fit(blocks.select(names)[~test], y[~test], groups=speakers[~test])
        for case, (names, hidden) in ROWS.items():
            rows = blocks.select(names)[test]
            found[case][test] = models[names].predict_proba(rows.hide(hidden) if hidden else rows)
    return found


def scores(y: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Accuracy, log loss and expected calibration error."""
    return {
        "accuracy": float((probabilities.argmax(axis=1) == y).mean()),
        "log loss": float(log_loss(y, probabilities, classes=np.arange(10))),
        "ECE": float(expected_calibration_error(y, probabilities, classes=np.arange(10))),
    }


def section(y: np.ndarray, speakers: np.ndarray, found: dict[str, np.ndarray]) -> str:
    """The section as markdown."""
    lines = [
        "## Spoken and written digits, one speaker left out",
        "",
        f"`mmfuse.datasets.load_av_digits()`, {len(y)} rows, 10 digits, 4 speakers; each speaker "
        "is predicted by a model trained on the other three. Default settings: `ImageEncoder()` "
        "(a network trained on photographs, never on digits), `LogMelEncoder()`, "
        "`FusionClassifier(random_state=0)`. Scores are over all rows together.",
        "",
        "| model | accuracy | log loss | ECE |",
        "| --- | --- | --- | --- |",
    ]
    for case, probabilities in found.items():
        values = scores(y, probabilities).values()
        lines.append(f"| {case} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    names = list(np.unique(speakers))
    lines += ["", "Accuracy by speaker who was left out:", "", f"| model | {' | '.join(names)} |"]
    lines.append("| --- " * (len(names) + 1) + "|")
    for case, probabilities in found.items():
        right = probabilities.argmax(axis=1) == y
        each = " | ".join(f"{right[speakers == name].mean():.3f}" for name in names)
        lines.append(f"| {case} | {each} |")
    return "\n".join([*lines, "", "Made by `benchmarks/av_digits.py`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print only")
    dry = parser.parse_args().dry_run
    blocks, y, speakers = encode()
    text = section(y, speakers, held_out_probabilities(blocks, y, speakers))
    print(text)
    if not dry:
        write_section("av_digits", text)


if __name__ == "__main__":
    main()
