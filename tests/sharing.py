"""A cache of embeddings that all workers of one test run share."""

from __future__ import annotations

import pytest

__all__ = ["shared_cache"]


@pytest.fixture
def shared_cache(tmp_path_factory, monkeypatch, worker_id):
    """Encode the digits once per run, whichever test comes first."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared-cache"
    monkeypatch.setenv("MMFUSE_CACHE", str(folder))
    return folder
