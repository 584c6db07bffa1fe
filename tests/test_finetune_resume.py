"""A training that was killed goes on and ends as it would have ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tuning import PictureEncoder, classifier, digits, plan

from mmfuse.exceptions import SavedModelError
from mmfuse.finetune.loop import Trainer

TESTS = Path(__file__).parent


class Killed(BaseException):
    """Nothing catches it."""


@pytest.fixture(scope="module")
def rows():
    table, y, _ = digits(120, gaps=0.2)
    return table, y


def model(folder=None, **params):
    encoder = PictureEncoder(trainable=True, dropout=0.2)
    options = {"epochs": 4, "checkpoint": folder, "checkpoint_every": 2, **params}
    return classifier(encoder, finetune=plan(**options))


@pytest.fixture(scope="module")
def uninterrupted(rows):
    X, y = rows
    return model().fit(X, y)


def killed_at(step: int, monkeypatch):
    """Raise in the step of that number, counted from 0 over this fit."""
    seen = []
    whole = Trainer._step

    def one(self, rows):
        if len(seen) == step:
            raise Killed
        seen.append(len(rows))
        return whole(self, rows)

    monkeypatch.setattr(Trainer, "_step", one)
    return seen


def same(one, two, X) -> bool:
    digests = {m.encoders_["image"].tuned_.digest() for m in (one, two)}
    reports = [dict(m.history_["finetune"]) for m in (one, two)]
    for report in reports:
        del report["seconds"]
    probabilities = [m.predict_proba(X) for m in (one, two)]
    return len(digests) == 1 and reports[0] == reports[1] and np.array_equal(*probabilities)


@pytest.mark.parametrize("step", [1, 3, 6, 15])  # six steps are an epoch
def test_killed_and_resumed(rows, uninterrupted, tmp_path, step):
    X, y = rows
    with pytest.MonkeyPatch.context() as patch:
        killed_at(step, patch)
        with pytest.raises(Killed):
            model(tmp_path).fit(X, y)
    torch.manual_seed(99)  # another process has other generators
    with pytest.MonkeyPatch.context() as patch:
        done = killed_at(10_000, patch)
        resumed = model(tmp_path).fit(X, y)
    assert len(done) == 24 - (step - step % 6) - (step % 6) // 2 * 2
    assert same(resumed, uninterrupted, X)


def test_what_is_done_is_not_trained_again(rows, uninterrupted, tmp_path, monkeypatch):
    X, y = rows
    first = model(tmp_path).fit(X, y)
    assert same(first, uninterrupted, X)
    killed_at(0, monkeypatch)
    assert same(model(tmp_path).fit(X, y), uninterrupted, X)
    with pytest.raises(Killed):
        model(tmp_path, epochs=5).fit(X, y)  # another training, in a folder of its own
    with pytest.raises(Killed):
        model(tmp_path).fit(X, np.roll(y, 1))
    shown = X["image"].copy()
    shown[0, 0, 0] += 1
    with pytest.raises(Killed):
        model(tmp_path).fit({"image": shown, "sound": X["sound"]}, y)


def test_a_checkpoint_is_tensors_and_json(rows, tmp_path):
    X, y = rows
    model(tmp_path, epochs=1).fit(X, y)
    (folder,) = tmp_path.iterdir()
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]
    state = json.loads((folder / "state.json").read_text())
    assert state["progress"]["epoch"] == 1
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SavedModelError, match=r"state.json is damaged.*delete .* to train from"):
        model(tmp_path, epochs=1).fit(X, y)
    file.unlink()
    with pytest.raises(SavedModelError, match=r"state.json cannot be read"):
        model(tmp_path, epochs=1).fit(X, y)


SCRIPT = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from test_finetune_resume import digits, model
X, y, _ = digits(120, gaps=0.2)
fitted = model(Path(sys.argv[2])).fit(X, y)
print(fitted.encoders_["image"].tuned_.digest())
"""


def test_a_real_kill(uninterrupted, tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(TESTS), str(tmp_path)]
    options = {"cwd": TESTS.parent, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **options)
    until = time.monotonic() + 120
    while not list(tmp_path.glob("*/state.json")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    (state,) = tmp_path.glob("*/state.json")
    assert json.loads(state.read_text())["progress"]["epoch"] < 4
    done = subprocess.run(command, check=True, timeout=300, **options)
    assert done.stdout.strip() == uninterrupted.encoders_["image"].tuned_.digest()
