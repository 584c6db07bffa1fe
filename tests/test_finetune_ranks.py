"""The same script under ``accelerate launch``: two processes on the CPU learn what one learns."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tuning import classifier, digits, plan

TESTS = Path(__file__).parent


def fit(batch_size: int, folder: Path | None):
    """Train on rows with gaps, so that a process may have a batch without a picture."""
    X, y, _ = digits(120, gaps=0.5)
    found = {}
    for validation in (0.0, 0.1):  # nothing is kept of the second, where no epoch need be better
        rule = plan(epochs=2, batch_size=batch_size, checkpoint=folder, validation=validation)
        model = classifier(finetune=rule, device="cpu").fit(X, y)
        report = model.history_["finetune"]
        found[f"processes {validation}"] = torch.tensor(report["processes"])
        losses = report["train_loss"] + report["validation_loss"]
        found[f"losses {validation}"] = torch.tensor(losses, dtype=torch.float64)
        if not validation:
            found["probabilities"] = torch.from_numpy(model.predict_proba(X))
            found |= model.encoders_["image"].tuned_.tensors
    return found


def main() -> None:
    """What every process runs."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    save_file(fit(2, folder / "run"), folder / f"{os.environ['RANK']}.safetensors")


@pytest.mark.slow
def test_two_processes(tmp_path):
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # its option --cpu starts one process only, and --multi_gpu means several on any device
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += [
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    command += ["--main_process_port", str(port), str(Path(__file__)), str(tmp_path)]
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        command, env=environment, cwd=TESTS.parent, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    alone = fit(4, None)
    assert one.keys() == alone.keys()
    for name, tensor in alone.items():
        if name.startswith("processes"):
            assert (one[name], tensor) == (2, 1)
        else:
            torch.testing.assert_close(one[name], tensor, atol=1e-4, rtol=1e-3)
    assert len(one["losses 0.1"]) == 5
    assert len(list(tmp_path.glob("run/*/state.json"))) == 2  # one process writes each


def test_processes_need_one_seed(monkeypatch):
    from mmfuse.finetune import run

    class Two:
        count, index = 2, 0

        def __init__(self, owner, device):
            pass

    monkeypatch.setattr(run, "Ranks", Two)
    X, y, _ = digits(60)
    with pytest.raises(ValueError, match="processes of one training must draw the same numbers"):
        classifier(random_state=None).fit(X, y)


def test_processes_that_do_not_join(monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("WORLD_SIZE", "3")

    class Alone:
        num_processes, process_index = 1, 0

        def __init__(self, cpu):
            pass

    monkeypatch.setattr(accelerate, "PartialState", Alone)
    X, y, _ = digits(60)
    with pytest.raises(RuntimeError, match=r"3 processes were started .* joined 1 for device="):
        classifier(device="cpu").fit(X, y)


def test_without_accelerate(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    X, y, _ = digits(60)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmfuse\[distributed\]'"):
        classifier().fit(X, y)


if __name__ == "__main__":
    main()
