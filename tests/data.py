"""Where the development data lies.

A set is looked for in the folder named by ``MMFUSE_DATA``, then in ``shared/data`` beside the
repository. Where it is absent the test is skipped with that reason, or fails when
``MMFUSE_REQUIRE_DATA=1``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["data_folder"]

_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder(name: str) -> Path:
    """Return the folder of the data set ``name``, or skip (or fail) the test that asks."""
    named = os.environ.get("MMFUSE_DATA")
    homes = [Path(named)] if named else []
    for home in [*homes, _BESIDE]:
        if (home / name).is_dir():
            return home / name
    reason = f"the data set {name!r} is not here; name its parent folder in MMFUSE_DATA"
    if os.environ.get("MMFUSE_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
