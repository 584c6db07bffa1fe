"""The ``mmfuse`` command."""

from __future__ import annotations

import os
import sys

from mmfuse._require import require

__all__ = ["main"]


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        require("typer", extra="cli", caller="The mmfuse command")
    except ModuleNotFoundError as exc:
        print(f"mmfuse: {exc}", file=sys.stderr)
        raise SystemExit(2) from None
    # threads that spin while they wait make small problems ten times slower on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from mmfuse.cli.app import app

    app(prog_name="mmfuse")


if __name__ == "__main__":
    main()
