"""Encoders against the shortest hand-written loop, in one run.

Same model, batch size and device on both sides. "encoder" includes hashing the samples and filling
the cache; "again" is a second pass over the same samples. The data are looked for in MMFUSE_DATA,
then in ../shared/data.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmfuse import weights
from mmfuse._device import resolve_device
from mmfuse.encoders import BaseEncoder, ImageEncoder, LogMelEncoder, SentenceEncoder

BATCH = 32


def data_folder(name: str) -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("MMFUSE_DATA", beside)) / name


def image_loop(device: str) -> Callable[[list[Path]], np.ndarray]:
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model("tf_efficientnet_lite0")
    tensors = torch.load(weights.find("tf_efficientnet_lite0"), weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    model.reset_classifier(0)
    model = model.eval().to(device)
    transform = create_transform(**resolve_data_config({}, model=model))

    @torch.inference_mode()
    def run(files: list[Path]) -> np.ndarray:
        out = []
        for i in range(0, len(files), BATCH):
            pictures = [transform(Image.open(f).convert("RGB")) for f in files[i : i + BATCH]]
            out.append(model(torch.stack(pictures).to(device)).cpu())
        return torch.cat(out).numpy()

    return run


def text_loop(device: str) -> Callable[[list[str]], np.ndarray]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights.find("all-MiniLM-L6-v2").parent), device=device)
    return lambda texts: model.encode(texts, batch_size=BATCH)


def audio_loop(device: str) -> Callable[[list[Path]], np.ndarray]:
    import soundfile

    from mmfuse.encoders._logmel import deltas, mel_filters

    filters = torch.from_numpy(mel_filters(257, 64, 20.0, 8000.0, 16000)).float().to(device)
    window = torch.hann_window(400, device=device)
    shares = torch.tensor([0.1, 0.5, 0.9], device=device)

    @torch.inference_mode()
    def run(files: list[Path]) -> np.ndarray:
        out = []
        for file in files:
            wave = torch.from_numpy(soundfile.read(file, dtype="float32")[0]).to(device)
            power = torch.stft(wave, 512, 160, 400, window, return_complex=True).abs().square()
            power = filters @ power
            track = 10 * torch.log10((power / power.max()).clamp(min=1e-8))
            parts = []
            for one in (track, deltas(track[None])[0]):
                parts += [one.mean(1), one.std(1, correction=0), *one.quantile(shares, 1)]
            out.append(torch.cat(parts).cpu())
        return torch.stack(out).numpy()

    return run


def timed(function: Callable[[Any], np.ndarray], samples: list[Any]) -> tuple[float, np.ndarray]:
    started = time.perf_counter()
    values = function(samples)
    return time.perf_counter() - started, values


def compare(
    encoder: BaseEncoder, loop: Callable[[Any], np.ndarray], samples: list[Any], repeats: int
) -> list[float]:
    """Return the best seconds of the loop, the encoder, and its second pass, taken in turn."""
    encoder.fit(samples)
    encoder.set_params(cache=False).transform(samples[:BATCH])
    loop(samples[:BATCH])
    rows = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            by_hand, expected = timed(loop, samples)
            encoder.set_params(cache=folder)
            first, values = timed(encoder.transform, samples)
            again, same = timed(encoder.transform, samples)
        np.testing.assert_allclose(values, expected, rtol=1e-3, atol=2e-2)
        np.testing.assert_array_equal(values, same)
        rows.append((by_hand, first, again))
    return np.min(rows, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="samples of each modality")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = resolve_device(args.device)
    reviews = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")["Review Text"]
    pictures = data_folder("research_only_imagenet_samples") / "images"
    jobs: list[tuple[str, BaseEncoder, Any, list[Any]]] = [
        ("image", ImageEncoder(device=device), image_loop, sorted(pictures.glob("*.jpg"))),
        ("text", SentenceEncoder(device=device), text_loop, reviews.tolist()),
        (
            "audio",
            LogMelEncoder(device=device),
            audio_loop,
            sorted((data_folder("esc10") / "audio").glob("*.ogg")),
        ),
    ]
    print(f"device {device}, {torch.get_num_threads()} torch threads, best of {args.repeats}\n")
    print("| modality | samples | loop s | encoder s | encoder / loop | again s | first / again |")
    print("|---|---|---|---|---|---|---|")
    for name, encoder, make_loop, samples in jobs:
        samples = samples[: args.n]
        by_hand, first, again = compare(encoder, make_loop(device), samples, args.repeats)
        print(
            f"| {name} | {len(samples)} | {by_hand:.2f} | {first:.2f} | {first / by_hand:.2f} "
            f"| {again:.4f} | {first / again:.0f} |"
        )


if __name__ == "__main__":
    main()
