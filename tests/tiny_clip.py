"""A tiny CLIP model with random weights in a folder, as open_clip writes one."""

from __future__ import annotations

import atexit
import json
import logging
import shutil
import tempfile
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

__all__ = ["CONFIG", "TINY", "write_tiny_clip"]

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32,
            "layers": 1,
            "width": 32,
            "head_width": 16,
            "patch_size": 8,
        },
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 49408,
            "width": 32,
            "heads": 2,
            "layers": 1,
        },
    },
    # unlike open_clip's defaults, so that a default in their place shows
    "preprocess_cfg": {
        "mean": [0.1, 0.4, 0.6],
        "std": [0.5, 0.2, 0.3],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    },
}


def write_tiny_clip(folder: Path, seed: int = 0, *, weights: bool = True, **model_cfg) -> Path:
    """Write the description and, from the seed, the weights; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "model_cfg": {**CONFIG["model_cfg"], **model_cfg}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if weights:
        handlers, level = list(logging.root.handlers), logging.root.level
        logging.root.addHandler(logging.NullHandler())  # else open_clip sets up logging
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
        logging.root.handlers[:], logging.root.level = handlers, level
        state = {name: t.contiguous() for name, t in model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
    return folder


_home = Path(tempfile.mkdtemp(prefix="tiny-clip-"))
atexit.register(shutil.rmtree, _home, ignore_errors=True)
TINY = write_tiny_clip(_home / "model")
"""The folder of the model that the common tests use; made anew by each process."""
