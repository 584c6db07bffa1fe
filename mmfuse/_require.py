"""Optional packages: one import helper, one message."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

__all__ = ["require"]


def require(package: str, *, extra: str, caller: str) -> ModuleType:
    """Import an optional package, or say who needs it and how to install it.

    Parameters
    ----------
    package : str
        Dotted module name, such as ``"matplotlib.pyplot"``.
    extra : str
        The extra of mmfuse that installs it.
    caller : str
        What the user called; it opens the message.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed. A package that is installed but whose own import
        fails raises its own error, untouched.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as exc:
        if exc.name != package.partition(".")[0]:
            raise  # the package is there; something that it needs is not
        raise ModuleNotFoundError(
            f"{caller} needs the package {exc.name!r}, which is not installed. "
            f"Install it with: pip install 'mmfuse[{extra}]'",
            name=exc.name,
        ) from exc
