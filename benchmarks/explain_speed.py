"""Seconds to explain rows exactly by modality, by head, in CPU seconds of the process.

Run from the root of the repository::

    python benchmarks/explain_speed.py              # writes docs/benchmarks.md
    python benchmarks/explain_speed.py --dry-run
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from page import write_section
from sklearn.ensemble import RandomForestClassifier

from mmfuse import FusionClassifier, explain
from mmfuse.heads import EarlyFusion, LateFusion, TextCentricFusion

MODALITIES, WIDTH, ROWS, CLASSES = 6, 256, 1000, 7


def make(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Six blocks, a tenth of the cells absent."""
    rng = np.random.default_rng(seed)
    y = rng.integers(CLASSES, size=n)
    X = {}
    for m in range(MODALITIES):
        means = np.random.default_rng(m).normal(0, 0.15, size=(CLASSES, WIDTH))
        X[f"m{m}"] = (means[y] + rng.normal(size=(n, WIDTH))).astype(np.float32)
        X[f"m{m}"][rng.random(n) < 0.1] = np.nan
    return X, y


def heads() -> dict[str, object]:
    quick = {"max_epochs": 3, "patience": 2}
    return {
        "EarlyFusion('linear')": EarlyFusion(C=0.01),
        "EarlyFusion('mlp')": EarlyFusion("mlp", **quick),
        "LateFusion": LateFusion(C=0.01),
        "TextCentricFusion": TextCentricFusion(anchor="m0", **quick),
        "EarlyFusion(RandomForestClassifier(50))": EarlyFusion(RandomForestClassifier(50)),
    }


def measure(head: object) -> tuple[float, float, float]:
    """CPU seconds and seconds of the clock for all rows, and the largest gap."""
    X, y = make(400, 0)
    model = FusionClassifier(head, cv=2, random_state=0).fit(X, y)
    rows, _ = make(ROWS, 1)
    blocks = model.encode(rows)
    cpu, clock = time.process_time(), time.perf_counter()
    found = explain(model, blocks)
    spent = time.process_time() - cpu, time.perf_counter() - clock
    return *spent, float(np.abs(found.gap).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    dry = parser.parse_args().dry_run
    lines = []
    for name, head in heads().items():
        cpu, clock, gap = measure(head)
        lines.append(f"| `{name}` | {cpu:.2f} | {clock:.2f} | {gap:.0e} |")
        print(lines[-1], flush=True)
    text = "\n".join(
        [
            "## Explaining rows",
            "",
            f"Exact Shapley values of {MODALITIES} modalities of {WIDTH} features, a tenth of the "
            f"cells absent, for {ROWS:,} rows and {CLASSES} classes "
            f"(`benchmarks/explain_speed.py`, {torch.get_num_threads()} thread(s) of torch, a "
            "machine that others were using, so that the clock says less than the CPU seconds). "
            "The gap is the largest difference between the model's log odds and base plus "
            "contributions. Simulated data; networks are fitted for three epochs, which does not "
            "change the time of an answer.",
            "",
            "| head | CPU seconds | seconds | largest gap |",
            "| --- | --- | --- | --- |",
            *lines,
        ]
    )
    if not dry:
        write_section("explain speed", text)


if __name__ == "__main__":
    main()
