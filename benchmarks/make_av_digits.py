"""Build the data set that mmfuse carries: spoken digits paired with handwritten ones.

Run once, from the root of the repository, by whoever changes the data set; needs the source files::

    python benchmarks/make_av_digits.py --source ../shared/data

Every recording appears in three rows, each time with another picture of the same digit, and no
picture appears twice. Rows come in runs of 40 that hold every digit of every speaker once, so
that the first 40, 80, ... rows are balanced; the first 320 rows use every recording once.
"""

from __future__ import annotations

import argparse
import wave
from pathlib import Path

import numpy as np

SEED = 20
REPEATS = 3
SPEAKERS = ("george", "jackson", "lucas", "nicolas")
TAKES = 8
TARGET = Path(__file__).parents[1] / "mmfuse" / "datasets" / "data" / "av_digits.npz"


def read_recordings(folder: Path) -> dict[tuple[int, int, int], np.ndarray]:
    """Samples of every recording, by digit, speaker number and take."""
    recordings = {}
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(TAKES):
                with wave.open(str(folder / f"{digit}_{speaker}_{take}.wav")) as file:
                    facts = file.getframerate(), file.getnchannels(), file.getsampwidth()
                    if facts != (8000, 1, 2):
                        raise ValueError(f"{digit}_{speaker}_{take}.wav is not mono 16 bit 8 kHz")
                    frames = file.readframes(file.getnframes())
                recordings[digit, number, take] = np.frombuffer(frames, dtype="<i2")
    return recordings


def draw_rows(rng: np.random.Generator) -> np.ndarray:
    """Digit, speaker and take of every row, shape (960, 3), balanced in runs of 40."""
    cells = [(digit, speaker) for digit in range(10) for speaker in range(len(SPEAKERS))]
    rows = []
    for _ in range(REPEATS):
        takes = {cell: rng.permutation(TAKES) for cell in cells}
        for run in range(TAKES):
            for number in rng.permutation(len(cells)):
                rows.append((*cells[number], takes[cells[number]][run]))
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path("../shared/data"))
    source = parser.parse_args().source
    rng = np.random.default_rng(SEED)
    recordings = read_recordings(source / "fsdd" / "recordings")
    names = list(recordings)
    rows = draw_rows(rng)
    with np.load(source / "av_digits" / "mnist_images.npz") as pictures:
        images, image_labels = pictures["image"], pictures["label"]
    picture = np.empty(len(rows), dtype=np.int64)
    for digit in range(10):
        of_digit = np.flatnonzero(rows[:, 0] == digit)
        candidates = np.flatnonzero(image_labels == digit)
        picture[of_digit] = rng.choice(candidates, size=len(of_digit), replace=False)
    number = {name: index for index, name in enumerate(names)}
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TARGET,
        images=images[picture],
        waveforms=np.concatenate([recordings[name] for name in names]).astype("<i2"),
        offsets=np.cumsum([0, *(len(recordings[name]) for name in names)]),
        recording=np.array([number[tuple(row)] for row in rows.tolist()]),
        picture=picture,
        labels=rows[:, 0].astype(np.int64),
        speakers=np.array(SPEAKERS)[rows[:, 1]],
        takes=rows[:, 2].astype(np.int64),
    )
    print(f"{TARGET.name}: {len(rows)} rows, {TARGET.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
