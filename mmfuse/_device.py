"""Choosing the torch device."""

from __future__ import annotations

__all__ = ["resolve_device"]


def resolve_device(device: str | None) -> str:
    """Turn ``"auto"`` (or None) into a device that is here; check any other name.

    Raises
    ------
    ValueError
        If the named device does not exist on this machine.
    """
    import torch

    if device in (None, "auto"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as exc:
        raise ValueError(
            f"device={device!r} is not available here ({str(exc).splitlines()[0]}). "
            "Use device='auto' or device='cpu'."
        ) from exc
    return str(device)
