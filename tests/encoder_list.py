"""The list that the common tests iterate: every encoder, small samples, and a broken one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tiny_clip import TINY

from mmfuse.encoders import (
    ActionUnitEncoder,
    BaseEncoder,
    CLIPImageEncoder,
    CLIPTextEncoder,
    CLIPZeroShotEncoder,
    ConSEEncoder,
    ImageEncoder,
    LidarCameraEncoder,
    LogMelEncoder,
    MultiBandEncoder,
    NumericEncoder,
    OpenSmileEncoder,
    PrecomputedEncoder,
    SentenceEncoder,
)

__all__ = ["CAMERA", "ENCODERS", "Case"]


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
    needs: str | None = None  # a package without which the case is skipped


def _pictures() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20 + 5 * i, 30, 3), dtype=np.uint8) for i in range(6)]


def _regions() -> list[Any]:
    boxes = [(0, 0, 12, 9), (3, 3, 30, 20), (1, 0, 8, 20), (5, 5, 25, 15), (0, 10, 30, 20)]
    pictures = _pictures()
    return [*zip(pictures, boxes, strict=False), {"image": pictures[5], "box": (2, 2, 20, 30)}]


def _sounds() -> list[Any]:
    rng = np.random.default_rng(1)
    lengths = (300, 1600, 1601, 5000, 9000, 16000)
    return [rng.normal(size=n).astype(np.float32) * np.linspace(0.1, 1, n) for n in lengths]


def _voices() -> list[Any]:
    return [
        0.3 * np.sin(2 * np.pi * (100 + 40 * i) * np.arange(4000 + 900 * i) / 16000)
        for i in range(6)
    ]


def _texts() -> list[Any]:
    return [
        "Hello.",
        "The patient sleeps badly and wakes early.",
        ["I feel fine.", "Nothing hurts today."],
        "galaxy",
        "A long text. " * 20,
        "Zwei Sprachen, une phrase.",
    ]


def _talks() -> list[Any]:
    return [
        [("I", "How are you?"), ("P", "I am fine."), ("p", "Really.")],
        [{"speaker": "P", "text": "It rains. " * 12}, {"speaker": "I", "text": "Yes."}],
        "P: Hello there.\nI: Hello.\nP: A word " + "again " * 25,
        [("P", "galaxy")],
        ["P: One line.", "and another"],
        "Q: Well?\nP: The patient sleeps badly. Wakes early! Eats little?",
    ]


def _records() -> list[Any]:
    ages = [31.0, 42.5, None, 18.0, 77.0, 55.0]
    return [{"age": age, "sex": "fm"[i % 2], "smokes": i > 3} for i, age in enumerate(ages)]


def _objects() -> list[Any]:
    """Six boxes; the second has no picture, the third no points."""
    rng = np.random.default_rng(2)
    cells = []
    for i in range(6):
        box = (9.0 + i, 1.0 - 0.4 * i, 0.2, 4.0, 2.0 + 0.1 * i, 1.6, 0.3 * i)
        points = rng.uniform(-0.6, 0.6, (30 + 10 * i, 4)) + [*box[:3], 0.6]
        image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        cells.append({"points": points, "image": image, "calib": CAMERA, "box": box})
    del cells[1]["image"], cells[2]["points"]
    return cells


def _bad_sweep(folder: Path) -> dict[str, Any]:
    path = folder / "a.bin"
    path.write_bytes(b"\x00" * 17)
    return {"points": path, "box": (10, 0, 0, 4, 2, 2, 0)}


CAMERA = np.array([[48.0, -50, 0, 0], [32, 0, -50, 0], [1, 0, 0, 0]])
"""Projection of a camera of 64 x 96 pixels that looks along x."""


def _faces() -> list[Any]:
    """Recordings as OpenFace writes them, of different lengths, some frames without a face."""
    rng = np.random.default_rng(2)
    return [
        {
            "frame": np.arange(n),
            " success": np.arange(n) % 4 != 3,
            " AU01_r": rng.uniform(0, 5, n),
            " AU12_r": np.where(rng.random(n) < 0.2, np.nan, rng.uniform(0, 5, n)),
            " AU12_c": rng.integers(0, 2, n),
            " AU28_c": rng.integers(0, 2, n),
            " pose_Rx": rng.normal(size=n),
        }
        for n in (1, 2, 3, 50, 51, 200)
    ]


def _cutouts() -> list[Any]:
    rng = np.random.default_rng(2)
    x, y = np.meshgrid(np.arange(16) - 7.5, np.arange(16) - 7.5)
    galaxy = np.exp(-np.hypot(x, y) / 3)
    return [rng.normal(20 * (i + 1) * galaxy, 1, (2, 16, 16)) for i in range(6)]


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
    "lidar-camera": Case(
        LidarCameraEncoder(weights=None, image_size=32, device="cpu"),
        _objects,
        _bad_sweep,
        reads_files=False,
    ),
    "logonet": Case(
        LidarCameraEncoder(
            features="logonet", weights=None, n_cells=3, width=8, frame_size=(32, 96), device="cpu"
        ),
        _objects,
        _bad_sweep,
        reads_files=False,
    ),
    "image-map": Case(
        ImageEncoder(
            "resnet10t", weights=None, image_size=64, features="map", grid=(2, 1), device="cpu"
        ),
        _regions,
        _bad_file("a.png"),
    ),
    "clip image": Case(
        CLIPImageEncoder(TINY, device="cpu", random_state=1), _pictures, _bad_file("a.png")
    ),
    "clip text": Case(CLIPTextEncoder(TINY, device="cpu"), _texts, _bad_file("a.txt")),
    "clip zero-shot": Case(
        CLIPZeroShotEncoder(["cat", "dog", "galaxy"], model=TINY, device="cpu"),
        _pictures,
        _bad_file("a.png"),
    ),
    "conse": Case(
        ConSEEncoder(
            ["cat", "dog", "galaxy"],
            image_size=32,
            source_names=["lynx", "wolf", "star", "chair", "car"] * 200,  # few texts: quick
            device="cpu",
        ),
        _pictures,
        _bad_file("a.png"),
    ),
    "log-mel": Case(
        LogMelEncoder(n_mels=20, n_segments=2, device="cpu"), _sounds, _bad_file("a.wav")
    ),
    "log-mel sequence": Case(
        LogMelEncoder(n_mels=20, output="sequence", n_frames=6, device="cpu"),
        _sounds,
        _bad_file("a.wav"),
    ),
    "opensmile": Case(
        OpenSmileEncoder(device="cpu"), _voices, _bad_file("a.wav"), needs="opensmile"
    ),
    "sentence": Case(SentenceEncoder(device="cpu"), _texts, _bad_file("a.txt")),
    "bands": Case(
        MultiBandEncoder({"bands": ["g", "r"], "pixel_scale": 0.2}, device="cpu"),
        _cutouts,
        _bad_file("a.fits"),
    ),
    "bands-cnn": Case(
        MultiBandEncoder({"bands": ["g", "r"], "pixel_scale": 0.2}, features="cnn", device="cpu"),
        _cutouts,
        _bad_file("a.npy"),
    ),
    "transcript": Case(
        SentenceEncoder(
            max_length=24,
            speakers="P",
            pooling="stats",
            prompts={"mood": "Mood of: ", "energy": "Is {text} lively?"},
            device="cpu",
        ),
        _talks,
        _bad_file("a.txt"),
    ),
    "face": Case(ActionUnitEncoder(device="cpu"), _faces, _bad_file("a.csv")),
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
