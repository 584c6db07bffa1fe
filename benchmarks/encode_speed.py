"""Encoders against the shortest hand-written loop, in one run.

    python benchmarks/encode_speed.py --librosa PYTHON

Same model, batch size, decoder and device on both sides, taken in turn. The data are looked for in
MMFUSE_DATA, then in ../shared/data. librosa runs in the environment of the Python that is named.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from page import write_section

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
    """Batches in the order of the texts."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights.find("all-MiniLM-L6-v2").parent), device=device)

    @torch.inference_mode()
    def run(texts: list[str]) -> np.ndarray:
        out = []
        for i in range(0, len(texts), BATCH):
            tokens = model.tokenizer(
                texts[i : i + BATCH],
                padding=True,
                truncation=True,
                max_length=model.max_seq_length,
                return_tensors="pt",
            )
            out.append(model(dict(tokens.to(device)))["sentence_embedding"])
        return torch.cat(out).cpu().numpy()

    return run


def library_loop(device: str) -> Callable[[list[str]], np.ndarray]:
    """sentence-transformers' own loop, which sorts all texts by length."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(weights.find("all-MiniLM-L6-v2").parent), device=device)
    return lambda texts: model.encode(texts, batch_size=BATCH, show_progress_bar=False)


def audio_loop(device: str) -> Callable[[list[Path]], np.ndarray]:
    """The encoder's own module, as there is no packaged one that does the same."""
    import soundfile
    from torch.nn.utils.rnn import pad_sequence

    module = LogMelEncoder(device=device).module()

    @torch.inference_mode()
    def run(files: list[Path]) -> np.ndarray:
        out = []
        for i in range(0, len(files), BATCH):
            waves = [
                torch.from_numpy(soundfile.read(f, dtype="float32")[0])
                for f in files[i : i + BATCH]
            ]
            batch = {
                "wave": pad_sequence(waves, batch_first=True).to(device),
                "length": torch.tensor([len(wave) for wave in waves], device=device),
            }
            out.append(module(batch).cpu())
        return torch.cat(out).numpy()

    return run


def wav_files(sounds: list[Path], folder: str) -> list[Path]:
    """The same sounds as 16-bit WAV files."""
    import soundfile

    files = [Path(folder) / f"{sound.stem}.wav" for sound in sounds]
    for sound, file in zip(sounds, files, strict=True):
        wave, rate = soundfile.read(sound)
        soundfile.write(file, wave, rate, subtype="PCM_16")
    return files


def librosa_loop(python: str) -> Callable[[list[Path]], tuple[tuple[float, float], np.ndarray]]:
    """librosa's pipeline, file by file, in its own environment: seconds (wall, CPU) and values."""
    script = Path(__file__).with_name("encode_speed_librosa.py")

    def run(files: list[Path]) -> tuple[tuple[float, float], np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder) / "values.npy")
            command = [python, str(script), out, *map(str, files)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            wall, cpu = done.stdout.split()[-2:]
            return (float(wall), float(cpu)), np.load(out)

    return run


def timed(function: Callable[[Any], np.ndarray], samples: list[Any]) -> tuple[Any, np.ndarray]:
    """Return (wall seconds, CPU seconds of all threads) and the values."""
    wall, cpu = time.perf_counter(), time.process_time()
    values = function(samples)
    return (time.perf_counter() - wall, time.process_time() - cpu), values


def compare(
    encoder: BaseEncoder,
    loops: dict[str, Any],
    samples: list[Any],
    repeats: int,
    outside: dict[str, Any],
) -> dict[str, np.ndarray]:
    """Return seconds (repeats, 2) of each way, taken in turn: wall, CPU.

    `outside` are ways in processes of their own, which return seconds and values.

    "encoder" is without a cache, "first" fills one, "again" reads it, "one thread" decodes in the
    thread of the model.
    """
    encoder.fit(samples)
    encoder.set_params(cache=False).transform(samples[:BATCH])
    for loop in loops.values():
        loop(samples[:BATCH])
    taken: dict[str, list[Any]] = {}
    for _ in range(repeats):
        for name, loop in loops.items():
            seconds, expected = timed(loop, samples)
            taken.setdefault(name, []).append(seconds)
        with tempfile.TemporaryDirectory() as folder:
            for name, params in {
                "encoder": {"cache": False},
                "one thread": {"cache": False, "n_jobs": 1},
                "first": {"cache": folder},
                "again": {"cache": folder},
            }.items():
                encoder.set_params(**{"n_jobs": 2, **params})
                seconds, values = timed(encoder.transform, samples)
                taken.setdefault(name, []).append(seconds)
                np.testing.assert_allclose(values, expected, rtol=1e-3, atol=2e-2)
        for name, way in outside.items():
            seconds, values = way(samples)
            taken.setdefault(name, []).append(seconds)
            np.testing.assert_allclose(values, expected, rtol=1e-3, atol=2e-2)
    return {name: np.array(rows) for name, rows in taken.items()}


def ratio(taken: dict[str, np.ndarray], over: str, under: str) -> str:
    """Median over the turns of the wall and CPU seconds of one way over those of another."""
    wall, cpu = np.median(taken[over] / np.maximum(taken[under], 1e-9), axis=0)
    return f"{wall:.2f} / {cpu:.2f}" if wall < 20 else f"{wall:.0f} / {cpu:.0f}"


MEMORY = """
import sys
import numpy as np
import torch
torch.set_num_threads(1)
sys.path[:0] = [{root!r}, {here!r}]
import encode_speed
encoder, samples = encode_speed.many({name!r}, {n}, {folder!r})
values = encoder.fit(samples[:1]).transform(samples)
with open("/proc/self/status") as file:  # ru_maxrss begins at the size of the parent
    peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
print(peak / 1024, values.nbytes / 2**20)
"""


def many(name: str, n: int, folder: str) -> tuple[BaseEncoder, list[Any]]:
    """An encoder and n different samples, made in `folder` where they are files."""
    rng = np.random.default_rng(0)
    if name == "text":
        words = np.array(["pain", "sleep", "better", "worse", "since", "Monday", "and", "no"])
        return SentenceEncoder(device="cpu", cache=False), [
            f"{i} " + " ".join(rng.choice(words, rng.integers(3, 60))) for i in range(n)
        ]
    files = [Path(folder) / f"{i}.{'png' if name == 'image' else 'wav'}" for i in range(n)]
    for file in files:
        if name == "image":
            from PIL import Image

            Image.fromarray(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(file)
        else:
            import soundfile

            soundfile.write(file, 0.1 * rng.normal(size=80_000), 16_000)
    kind = ImageEncoder if name == "image" else LogMelEncoder
    return kind(device="cpu", cache=False), files


def peak_memory(name: str, n: int) -> tuple[float, float]:
    """Return the peak MB of a fresh process that encodes n samples, and MB of the output."""
    here = Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory() as folder:
        code = MEMORY.format(root=str(here.parent), here=str(here), name=name, n=n, folder=folder)
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
    peak, output = done.stdout.split()[-2:]
    return float(peak), float(output)


def subjects(device: str, folder: str) -> list[tuple[str, BaseEncoder, dict[str, Any], list[Any]]]:
    """Name, encoder, loops and samples; WAV files are made in `folder`."""
    reviews = pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")["Review Text"]
    pictures = sorted((data_folder("research_only_imagenet_samples") / "images").glob("*.jpg"))
    sounds = sorted((data_folder("esc10") / "audio").glob("*.ogg"))
    in_order, library = text_loop(device), library_loop(device)
    audio = {"loop": audio_loop(device)}
    return [
        ("audio (Ogg)", LogMelEncoder(device=device), audio, sounds),
        ("audio (WAV)", LogMelEncoder(device=device), audio, wav_files(sounds, folder)),
        ("image", ImageEncoder(device=device), {"loop": image_loop(device)}, pictures),
        (
            "text",
            SentenceEncoder(device=device),
            {"loop": in_order, "sorted loop": library},
            reviews.dropna().tolist(),
        ),
    ]


def page(args: argparse.Namespace, device: str) -> list[str]:
    """Measure, and return the lines of the page's section."""
    lines = [
        "| modality | samples | loop, samples / CPU s | encoder | encoder, filling the cache "
        "| one decoding thread | second pass, from the cache |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    rest = []
    with tempfile.TemporaryDirectory() as folder:
        for name, encoder, loops, samples in subjects(device, folder):
            kind = name.split()[0]
            if kind not in args.only:
                continue
            samples = samples[: args.n]
            librosa = args.librosa and kind == "audio"
            outside = {"librosa": librosa_loop(args.librosa)} if librosa else {}
            taken = compare(encoder, loops, samples, args.repeats, outside)
            rate = len(samples) / np.median(taken["loop"][:, 1])
            ratios = [ratio(taken, "loop", way) for way in ("encoder", "first", "one thread")]
            again = ratio(taken, "first", "again")
            cells = [name, str(len(samples)), f"{rate:.1f}", *ratios, again]
            lines.append(f"| {' | '.join(cells)} |")
            rest += remarks(name, taken)
    return [*lines, "", *rest]


def remarks(name: str, taken: dict[str, np.ndarray]) -> list[str]:
    if "sorted loop" in taken:
        return [
            "Text against sentence-transformers' own loop, which sorts all texts by length: "
            f"{ratio(taken, 'sorted loop', 'encoder')}."
        ]
    if "librosa" in taken:
        return [
            f"{name}: librosa, file by file (`load`, `melspectrogram`, `power_to_db`, `delta`, "
            "the same statistics in numpy, the same values), takes "
            f"{ratio(taken, 'librosa', 'encoder')} times as long as `LogMelEncoder`."
        ]
    return []


def memory_lines() -> list[str]:
    """Peak memory at n and 4 n, each in a fresh process."""
    lines = [
        "",
        "Peak memory of a fresh process that encodes n and 4 n different samples:",
        "",
        "| modality | n | MB at n | MB at 4 n | of which output |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, n in (("image", 64), ("text", 512), ("audio", 96)):  # each fills a window at n
        small, large = peak_memory(name, n), peak_memory(name, 4 * n)
        lines.append(
            f"| {name} | {n} | {small[0]:.0f} | {large[0]:.0f} | {large[1] - small[1]:+.1f} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=240, help="most samples of a modality")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--librosa", metavar="PYTHON", help="a Python that has librosa")
    parser.add_argument("--only", nargs="+", default=["audio", "image", "text"])
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory")
    parser.add_argument("--no-page", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    device = resolve_device(args.device)
    text = [
        "## Encoders against hand-written loops",
        "",
        "Throughput of an encoder over that of the shortest loop on the same model, batch size and "
        "decoder: wall / CPU seconds, medians over "
        f"{args.repeats} turns in which all ways alternate; above 1 the encoder is faster. Device "
        f"{device}, {torch.get_num_threads()} torch thread, two decoding threads unless said; the "
        "machine was shared, so that wall times are rough. The loop over texts takes them as they "
        "come, the encoder sorts them by length within a window. The loop over sounds reads them "
        "with soundfile and passes them through the encoder's own module. The second pass is in "
        "the same process, which knows a file that it has read by size and times.",
        "",
        *page(args, device),
        *([] if args.no_memory else memory_lines()),
        "",
        "Made by `benchmarks/encode_speed.py`.",
    ]
    print("\n".join(text))
    if not args.no_page:
        write_section("encode_speed", "\n".join(text))


if __name__ == "__main__":
    main()
