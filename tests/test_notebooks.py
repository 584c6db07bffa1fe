"""Every notebook runs from a clean kernel, and is committed with its outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from data import data_folder
from sharing import shared_cache  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DATA_SETS = {
    "04-few-shot-logit-bias": ("research_only_imagenet_samples",),
    "05-interview-with-gaps": ("face_au_series", "sequences_av_text"),
    "06-lidar-camera-objects": ("kitti",),
    "07-severity-with-gaps": ("sequences_av_text",),
}
"""Sets that a notebook reads and that do not come with the package."""


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, shared_cache, monkeypatch):  # noqa: F811
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for name in DATA_SETS.get(path.stem, ()):
        monkeypatch.setenv("MMFUSE_DATA", str(data_folder(name).parent))
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=1200, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    # a path of the machine that ran the notebook says nothing to its readers
    assert not re.search(r"(/home/|/root/|/tmp/|/work/|/Users/|[A-Z]:\\\\)", text)
