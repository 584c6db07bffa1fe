"""A broken file is warned of once in a process, however often it is encoded."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.model_selection import GridSearchCV

from mmfuse import FusionClassifier, Presence
from mmfuse.encoders import ImageEncoder, PrecomputedEncoder
from mmfuse.heads import EarlyFusion


def pictures(folder: Path, n: int = 30) -> list[str]:
    rng = np.random.default_rng(0)
    for row in range(n):
        grey = rng.integers(0, 100, (8, 8), dtype=np.uint8) + 100 * (row % 2)
        Image.fromarray(grey.astype(np.uint8)).save(folder / f"{row}.png")
    return [str(folder / f"{row}.png") for row in range(n)]


def encoder() -> ImageEncoder:
    options = {"weights": None, "image_size": 32, "device": "cpu", "cache": False}
    return ImageEncoder("test_efficientnet", on_error="mark", **options)


def told(caught: list) -> list[str]:
    return [str(w.message) for w in caught if "marked FAILED" in str(w.message)]


def test_a_search_warns_of_each_broken_file_once(tmp_path: Path) -> None:
    files = pictures(tmp_path)
    for row in (4, 17):
        Path(files[row]).write_bytes(b"no picture")
    head = EarlyFusion(C=1.0)
    model = FusionClassifier(head, encoders={"photo": encoder()}, cv=2, random_state=0)
    X, y = pd.DataFrame({"photo": files}), np.arange(30) % 2
    search = GridSearchCV(model, {"head__C": [0.1, 1.0]}, cv=3, error_score="raise")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(X, y)
    messages = told(caught)
    assert len(messages) in (1, 2)  # where both are in the first fold, one message counts both
    assert any("4.png" in message or "17.png" in message for message in messages)


def test_another_file_another_column_and_another_reason_are_told_of(tmp_path: Path) -> None:
    files = pictures(tmp_path, 4)
    Path(files[1]).write_bytes(b"no picture")
    one = encoder().fit(files)
    with pytest.warns(UserWarning, match=r"photo: 1 of 4 cells .* first: row 1 \(.*1.png\)"):
        one.encode(files, name="photo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = one.encode(files, name="photo")
    assert again.presence[1] == Presence.FAILED and list(again.errors) == [1]
    with pytest.warns(UserWarning, match=r"scan: 1 of 4 cells .* first: row 1 \(.*1.png\)"):
        one.encode(files, name="scan")
    Path(files[3]).write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"photo: 2 of 4 cells .* first: row 3 \(.*3.png\)"):
        one.encode(files, name="photo")
    Path(files[1]).unlink()
    with pytest.warns(UserWarning, match=r"photo: 2 of 4 cells .* first: row 1 \(.*1.png\)"):
        one.encode(files, name="photo")


def test_cells_that_are_no_files_are_told_of_each_time() -> None:
    cells = [np.zeros((2, 2), dtype=np.uint8), np.full((8, 8, 7), 9, dtype=np.uint8)]
    one = encoder().fit(cells)
    for _ in range(2):
        with pytest.warns(UserWarning, match="1 of 2 cells could not be encoded"):
            one.encode(cells)


def test_files_of_vectors_too(tmp_path: Path) -> None:
    files = []
    for row in range(3):
        np.save(tmp_path / f"{row}.npy", np.arange(4.0))
        files.append(str(tmp_path / f"{row}.npy"))
    one = PrecomputedEncoder(on_error="mark").fit(files)
    Path(files[2]).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="1 of 3 cells could not be encoded"):
        one.encode(files, name="vectors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert one.encode(files, name="vectors").presence[2] == Presence.FAILED
