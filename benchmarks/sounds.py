"""Spoken digits and environmental sounds from sound alone, by the default classifier.

Writes its section of docs/benchmarks.md. Each figure is kept in a file once it is measured, so that
a run that was stopped goes on where it was. Run from the root of the repository, with the
development data beside it or in ``MMFUSE_DATA``::

    python benchmarks/sounds.py --results /tmp/sounds.json [--task esc10] [--variant statistics]
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from page import write_section
from sklearn.model_selection import StratifiedKFold

from mmfuse import Blocks, FusionClassifier
from mmfuse.encoders import BaseEncoder, LogMelEncoder, OpenSmileEncoder
from mmfuse.metrics import log_loss

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
Task = tuple[list[Path], np.ndarray, np.ndarray]

VARIANTS: dict[str, Callable[[], BaseEncoder]] = {
    "statistics": lambda: LogMelEncoder(),
    "statistics, n_scales=0": lambda: LogMelEncoder(n_scales=0),
    "statistics, trim='energy'": lambda: LogMelEncoder(trim="energy"),
    "sequence, n_frames=16": lambda: LogMelEncoder(output="sequence", n_frames=16),
    "sequence, n_frames=16, trim='energy'": lambda: LogMelEncoder(
        output="sequence", n_frames=16, trim="energy"
    ),
    "eGeMAPS": lambda: OpenSmileEncoder(),
}
TITLES = {
    "esc10": "environmental sounds",
    "speaker": "digits, new speaker",
    "random": "digits, known speakers",
}


def _digits() -> tuple[list[Path], np.ndarray, np.ndarray]:
    files = sorted((DATA / "fsdd" / "recordings").glob("*.wav"))
    parts = [file.stem.split("_") for file in files]
    return files, np.array([int(part[0]) for part in parts]), np.array([p[1] for p in parts])


def esc10() -> Task:
    """240 clips, 10 kinds, its own three folds, which separate source recordings."""
    table = pd.read_csv(DATA / "esc10" / "meta.csv")
    files = [DATA / "esc10" / "audio" / name for name in table["file"]]
    return files, table["class"].to_numpy(), table["fold"].to_numpy()


def speaker() -> Task:
    """320 digits, each of four speakers left out in turn."""
    return _digits()


def random() -> Task:
    """The same digits in three stratified folds."""
    files, digit, person = _digits()
    strata = np.char.add(digit.astype(str), person)
    folds = np.empty(len(files), dtype=int)
    cut = StratifiedKFold(3, shuffle=True, random_state=0).split(files, strata)
    for fold, (_, test) in enumerate(cut):
        folds[test] = fold
    return files, digit, folds


TASKS: dict[str, Callable[[], Task]] = {"esc10": esc10, "speaker": speaker, "random": random}


def measure(task: Task, encoder: BaseEncoder) -> dict[str, float]:
    files, y, folds = task
    encoded = encoder.set_params(cache=False, device="cpu").fit(files).encode(files)
    blocks = Blocks({"audio": encoded.values}, encoded.presence[:, None])
    classes = np.unique(y)
    proba = np.zeros((len(y), len(classes)))
    started = time.process_time()
    for fold in np.unique(folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        model = FusionClassifier(random_state=0).fit(blocks[train], y[train])
        proba[test] = model.predict_proba(blocks[test])
    return {
        "width": encoder.n_features_out_,
        "accuracy": float((classes[proba.argmax(axis=1)] == y).mean()),
        "log loss": float(log_loss(y, np.maximum(proba, 1e-6), classes=classes)),
        "empty": int((encoded.presence != 1).sum()),
        "fit s": (time.process_time() - started) / len(np.unique(folds)),
    }


def page(results: dict[str, dict[str, dict[str, float]]]) -> str:
    rows = []
    for variant in VARIANTS:
        cells = [variant]
        for task in TASKS:
            found = results.get(task, {}).get(variant)
            cells.append("" if found is None else f"{found['accuracy']:.3f}")
            cells.append("" if found is None else f"{found['log loss']:.3f}")
            if task == "esc10":
                cells.append("" if found is None else str(found["empty"]))
        rows.append("| " + " | ".join(cells) + " |")
    head = ["encoder"]
    for task, title in TITLES.items():
        head += [f"{title}: accuracy", "log loss"] + (["EMPTY"] if task == "esc10" else [])
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(["---"] * len(head)) + " |", *rows]
    tasks = " ".join(f"*{TITLES[name]}*: {load.__doc__}" for name, load in TASKS.items())
    return (
        "## Sounds alone\n\n"
        f"{tasks} `FusionClassifier(random_state=0)` on the block of one encoder, `LogMelEncoder` "
        "unless another is named; accuracy over all rows together, standard error about 0.025. A "
        "recording in which `trim` finds no voice is EMPTY (their number is given) and gets the "
        "training prior. Empty cells were not measured. The digits are in 8 kHz.\n\n"
        + "\n".join(lines)
        + "\n\nMade by `benchmarks/sounds.py`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, help="JSON file of figures")
    parser.add_argument("--task", choices=list(TASKS), action="append")
    parser.add_argument("--variant", choices=list(VARIANTS), action="append")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    results = json.loads(args.results.read_text()) if args.results.exists() else {}
    for name in args.task or TASKS:
        for variant in args.variant or VARIANTS:
            if variant in results.setdefault(name, {}):
                continue
            try:
                encoder = VARIANTS[variant]()
                results[name][variant] = measure(TASKS[name](), encoder)
            except ModuleNotFoundError as exc:
                print(f"left out: {exc}")
                continue
            args.results.write_text(json.dumps(results, indent=1))
            print(name, variant, results[name][variant], flush=True)
    write_section("sounds", page(results))


if __name__ == "__main__":
    main()
