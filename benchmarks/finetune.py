"""Fine-tuning against the frozen encoder: what is trained, what it brings and what it costs.

Run from the root of the repository::

    python benchmarks/finetune.py            # prints the section and writes docs/benchmarks.md
    python benchmarks/finetune.py --dry-run  # prints it only
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from page import write_section

from mmfuse import FineTuning, FusionClassifier
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import ImageEncoder
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import expected_calibration_error, log_loss

TRAIN, TEST, DRAWS, SIZE = 240, 240, 2, 64
FIRST = 480  # rows before it served to choose the rates
CASES: dict[str, tuple[Any, float | str]] = {
    "frozen": (False, "auto"),
    '`trainable="head"`': ("head", 1e-3),
    '`trainable="lora"`': ("lora", 5e-3),
    "`trainable=True`": (True, 5e-4),
}


@dataclass
class Scores:
    """Of one case, a value for every draw."""

    accuracy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    trained: int = 0


def model_of(trainable: Any, rate: float | str) -> FusionClassifier:
    """Small pictures, so that a CPU does it in minutes."""
    encoder = ImageEncoder(image_size=SIZE, crop_pct=1.0, trainable=trainable)
    rule = FineTuning(epochs=6, encoder_lr=rate) if trainable else None
    return FusionClassifier(
        EarlyFusion(), encoders={"image": encoder}, finetune=rule, random_state=0
    )


def compare() -> dict[str, Scores]:
    """Every case on the same draws of rows; rows that train are never tested."""
    digits, classes = load_av_digits(), np.arange(10)
    X, found = digits.X.select("image"), {case: Scores() for case in CASES}
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(np.arange(FIRST, len(X)))
        train, test = order[:TRAIN], order[-TEST:]
        for case, (trainable, rate) in CASES.items():
            scores, start = found[case], time.perf_counter()
            model = model_of(trainable, rate).fit(X[train], digits.y[train])
            scores.seconds.append(time.perf_counter() - start)
            proba, y = model.predict_proba(X[test]), digits.y[test]
            scores.accuracy.append(float((proba.argmax(axis=1) == y).mean()))
            scores.loss.append(float(log_loss(y, proba, classes=classes)))
            scores.error.append(float(expected_calibration_error(y, proba, classes=classes)))
            if trainable:
                report = model.history_["finetune"]
                scores.trained = report["parameters"]["image"]["trained"]
                print(case, draw, np.round(report["validation_loss"], 3), flush=True)
            print(case, draw, {k: np.round(v, 3) for k, v in vars(scores).items()}, flush=True)
    return found


def section(found: dict[str, Scores]) -> str:
    """The section as markdown."""
    lines = [
        "## Fine-tuning",
        "",
        f"Handwritten digits of `load_av_digits()`, {TRAIN} rows to train and {TEST} to test, "
        f"mean of {DRAWS} draws (lowest to highest in brackets). `ImageEncoder(image_size={SIZE}, "
        "crop_pct=1.0)` is a network trained on photographs, never on digits; the head is "
        "`EarlyFusion()`. `FineTuning(epochs=6, encoder_lr=...)` with the rate in the table; the "
        "rates were chosen on the other half of the set. A tenth of the training rows decides "
        "when to stop, and a fifth is held out for calibration. Seconds of `fit` are of two shared "
        "CPU cores, and say little more than the order of size.",
        "",
        "| encoder | rate | trained parameters | accuracy | log loss | ECE | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case, s in found.items():
        rate = CASES[case][1] if s.trained else "-"
        trained = f"{s.trained:,}".replace(",", " ")
        cells = [
            f"{np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})"
            for v in (s.accuracy, s.loss, s.error)
        ]
        lines.append(
            f"| {case} | {rate} | {trained} | {' | '.join(cells)} | {np.mean(s.seconds):.0f} |"
        )
    return "\n".join([*lines, "", "Made by `benchmarks/finetune.py`."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print only")
    dry = parser.parse_args().dry_run
    warnings.simplefilter("ignore")
    text = section(compare())
    print(text)
    if not dry:
        write_section("finetune", text)


if __name__ == "__main__":
    main()
