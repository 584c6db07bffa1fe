"""The state of a training on disk: safetensors and JSON, whole or not there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmfuse.exceptions import SavedModelError

__all__ = ["Progress", "Store", "pack_optimiser", "unpack_optimiser"]

_FORMAT = 1
_STATE = "state.json"


@dataclass
class Progress:
    """Where a training stands; JSON-able.

    Attributes
    ----------
    epoch : int
        Epochs that are complete.
    step : int
        Steps since then.
    total : float
        Sum of the loss over these steps.
    best : int
        Epoch with the lowest validation loss; 0 is before the first.
    train_loss : list of float
        Mean over the steps of every complete epoch.
    validation_loss : list of float
        Before the first epoch, and after each.
    """

    epoch: int = 0
    step: int = 0
    total: float = 0.0
    best: int = 0
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)


class Store:
    """A folder that holds the last state of one training.

    Parameters
    ----------
    folder : Path
    identity : dict
        JSON-able: all that the result depends on. The state lies in a subfolder named by its hash,
        so a training with other rows or parameters never meets this one's.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        text = json.dumps(identity, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.identity = identity

    def read(self) -> tuple[Progress, dict[str, Any], dict[str, Tensor]] | None:
        """Progress, other plain state and tensors, or None where nothing was written.

        Raises
        ------
        SavedModelError
            If a file is missing or damaged.
        """
        from safetensors.torch import load

        path = self.folder / _STATE
        if not path.is_file():
            return None
        cure = f"delete {self.folder} to train from the start."
        try:
            state = json.loads(path.read_bytes())
            data = (self.folder / state["tensors"]).read_bytes()
        except (ValueError, KeyError, TypeError, OSError) as exc:
            raise SavedModelError(f"The checkpoint {path} cannot be read ({exc}); {cure}") from exc
        if state["format"] != _FORMAT or hashlib.sha256(data).hexdigest() != state["sha256"]:
            raise SavedModelError(f"The checkpoint {path} is damaged or of another version; {cure}")
        return Progress(**state["progress"]), state["plain"], load(data)

    def write(self, progress: Progress, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Replace the state; a kill at any moment leaves the old one or the new one."""
        from safetensors.torch import save

        self.folder.mkdir(parents=True, exist_ok=True)
        data = save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})
        name = f"epoch-{progress.epoch}-step-{progress.step}.safetensors"
        _replace(self.folder / name, data)
        state = {
            "format": _FORMAT,
            "progress": asdict(progress),
            "plain": plain,
            "tensors": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "identity": self.identity,
        }
        text = json.dumps(state, indent=1, allow_nan=False) + "\n"
        _replace(self.folder / _STATE, text.encode())
        for old in self.folder.glob("*.safetensors"):
            if old.name != name:
                old.unlink()


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(draft, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def pack_optimiser(optimiser: torch.optim.Optimizer, parameters: list[Tensor]) -> dict[str, Tensor]:
    """Tensors of the optimiser's state, named by the place of the parameter."""
    return {
        f"optimiser.{i}.{key}": torch.as_tensor(value)
        for i, parameter in enumerate(parameters)
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def unpack_optimiser(
    optimiser: torch.optim.Optimizer, parameters: list[Tensor], tensors: dict[str, Tensor]
) -> None:
    """Put back what `pack_optimiser` gave."""
    for name, value in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            place, _, key = rest.partition(".")
            parameter = parameters[int(place)]
            on = value if key == "step" else value.to(parameter.device)
            optimiser.state[parameter][key] = on
