"""One thread, no network, no display, and a cache folder of the session's own."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ["SCIPY_ARRAY_API"] = "1"  # else scikit-learn skips its checks of array API input
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402  (the variables above are read when libraries are imported)
import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _session_cache(tmp_path_factory):
    """Keep embeddings of the tests out of the user's cache folder."""
    folder = tmp_path_factory.mktemp("mmfuse-cache")
    before = os.environ.get("MMFUSE_CACHE")
    os.environ["MMFUSE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["MMFUSE_CACHE"]
    else:
        os.environ["MMFUSE_CACHE"] = before
