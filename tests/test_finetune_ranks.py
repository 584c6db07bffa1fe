"""The same script under ``accelerate launch``: two processes on the CPU learn what one learns."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tuning import classifier, digits, plan

TESTS = Path(__file__).parent


def fit(batch_size: int, folder: Path | None):
    """Train on rows with gaps, so that a process may have a batch without a picture."""
    X, y, _ = digits(120, gaps=0.5)
    rule = plan(epochs=2, batch_size=batch_size, encoder_lr=1e-3, checkpoint=folder)
    return classifier(finetune=rule).fit(X, y), X


def main() -> None:
    """What every process runs."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    model, X = fit(2, folder / "run")
    probabilities = torch.from_numpy(model.predict_proba(X))
    losses = torch.tensor(model.history_["finetune"]["validation_loss"])
    found = {"probabilities": probabilities, "losses": losses}
    found |= model.encoders_["image"].tuned_.tensors
    save_file(found, folder / f"{os.environ['RANK']}.safetensors")


@pytest.mark.slow
def test_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), str(Path(__file__)), str(tmp_path)]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    model, X = fit(4, None)
    report = model.history_["finetune"]
    assert report["processes"] == 1
    for name, tensor in model.encoders_["image"].tuned_.tensors.items():
        torch.testing.assert_close(one[name], tensor, atol=1e-5, rtol=1e-3)
    np.testing.assert_allclose(one["losses"], report["validation_loss"], rtol=1e-4)
    np.testing.assert_allclose(one["probabilities"], model.predict_proba(X), atol=1e-3)
    assert len(list(tmp_path.glob("run/*/state.json"))) == 1  # one process writes


def test_processes_need_one_seed(monkeypatch):
    from mmfuse.finetune import run

    class Two:
        count, index = 2, 0

        def __init__(self, owner):
            pass

    monkeypatch.setattr(run, "Ranks", Two)
    X, y, _ = digits(60)
    with pytest.raises(ValueError, match="processes of one training must draw the same numbers"):
        classifier(random_state=None).fit(X, y)


def test_without_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    X, y, _ = digits(60)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmfuse\[distributed\]'"):
        classifier().fit(X, y)


if __name__ == "__main__":
    main()
