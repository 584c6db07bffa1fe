"""The list that the common tests iterate: every encoder, small samples, and a broken one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.encoders import (
    BaseEncoder,
    ImageEncoder,
    LogMelEncoder,
    NumericEncoder,
    PrecomputedEncoder,
    SentenceEncoder,
)

__all__ = ["ENCODERS", "Case"]


@dataclass(frozen=True)
class Case:
    """An encoder that is quick to run and what to feed it.

    `samples` are six different present cells; `broken` makes a cell that cannot be encoded, as a
    file in the given folder where the encoder reads files.
    """

    encoder: BaseEncoder
    samples: Callable[[], list[Any]]
    broken: Callable[[Path], Any]
    reads_files: bool = True


def _pictures() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + 5 * i, 30, 3), dtype=np.uint8) for i in range(6)]


def _sounds() -> list[Any]:
    rng = np.random.default_rng(1)
    lengths = (300, 1600, 1601, 5000, 9000, 16000)
    return [rng.normal(size=n).astype(np.float32) * np.linspace(0.1, 1, n) for n in lengths]


def _texts() -> list[Any]:
    return [
        "Hello.",
        "The patient sleeps badly and wakes early.",
        ["I feel fine.", "Nothing hurts today."],
        "galaxy",
        "A long text. " * 20,
        "Zwei Sprachen, une phrase.",
    ]


def _records() -> list[Any]:
    ages = [31.0, 42.5, None, 18.0, 77.0, 55.0]
    return [{"age": age, "sex": "fm"[i % 2], "smokes": i > 3} for i, age in enumerate(ages)]


@cache
def _vector_folder() -> tempfile.TemporaryDirectory:
    """A folder of six vector files, and one file of all six; gone when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="mmfuse-vectors-")
    vectors = np.random.default_rng(2).normal(size=(6, 5)).astype(np.float32)
    vectors[2, 1] = np.nan
    for i, vector in enumerate(vectors):
        np.save(Path(folder.name) / f"{i}.npy", vector)
    np.savez(Path(folder.name) / "all.npz", x=vectors, names=[f"p{i}" for i in range(6)])
    return folder


def _vectors() -> list[Any]:
    return [Path(_vector_folder().name) / f"{i}.npy" for i in range(6)]


def _bad_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(b"\xff\xfe\x00 neither a picture nor a sound nor text")
        return path

    return write


ENCODERS: dict[str, Case] = {
    "image": Case(
        ImageEncoder(weights=None, image_size=32, device="cpu"), _pictures, _bad_file("a.png")
    ),
    "log-mel": Case(
        LogMelEncoder(n_mels=20, n_segments=2, device="cpu"), _sounds, _bad_file("a.wav")
    ),
    "sentence": Case(SentenceEncoder(device="cpu"), _texts, _bad_file("a.txt")),
    "numeric": Case(
        NumericEncoder(),
        _records,
        lambda folder: {"age": np.inf, "sex": "f", "smokes": False},
        reads_files=False,
    ),
    "precomputed": Case(PrecomputedEncoder(), _vectors, _bad_file("a.npy")),
    "precomputed-keys": Case(
        PrecomputedEncoder(source=Path(_vector_folder().name) / "all.npz", array="x", keys="names"),
        lambda: [f"p{i}" for i in range(6)],
        lambda folder: "p6",
        reads_files=False,
    ),
}
