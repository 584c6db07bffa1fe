"""Expression from action units: spoken good and bad news, and a smile in a video.

Run from the root of the repository, with ``mmfuse[face]`` installed::

    python benchmarks/faces.py            # prints the section and writes docs/benchmarks.md
    python benchmarks/faces.py --dry-run  # prints it only

The data are looked for in the folder named by MMFUSE_DATA, then in ../shared/data.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
from page import write_section
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mmfuse.encoders import ActionUnitEncoder
from mmfuse.encoders._face_mesh import shared_mesh
from mmfuse.encoders._face_pictures import _frames
from mmfuse.encoders._face_units import UNITS

DATA = Path(os.environ.get("MMFUSE_DATA", Path(__file__).parents[2] / "shared" / "data"))
ALONE = ("AU12", "AU06", "AU04", "AU01")
NEUTRAL, SMILING = slice(0, 18), slice(18, 72)  # frames of single_face.mp4, see its README


def interval(auc: float, n_positive: int, n_negative: int) -> tuple[float, float]:
    """95 % score interval of an AUC (Newcombe 2006, Statistics in Medicine 25, method 5).

    It has width also at an AUC of 1, where a bootstrap gives none.
    """
    half, z = (n_positive + n_negative) / 2, norm.ppf(0.975)

    def off(theta: float) -> float:
        first, second = theta / (2 - theta), 2 * theta**2 / (1 + theta)
        spread = theta * (1 - theta) + (half - 1) * (first + second - 2 * theta**2)
        return (auc - theta) ** 2 - z**2 * spread / (n_positive * n_negative)

    tiny = 1e-9
    low = brentq(off, tiny, auc - tiny) if auc > 0 else 0.0
    high = brentq(off, auc + tiny, 1 - tiny) if auc < 1 else 1.0
    return low, high


def pair_auc(values: np.ndarray, y: np.ndarray) -> float:
    """Share of (positive, negative) pairs that a model of all other rows puts in order."""
    right = []
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero(y == 0):
            rest = np.delete(np.arange(len(y)), [i, j])
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
            a, b = model.fit(values[rest], y[rest]).decision_function(values[[i, j]])
            right.append(1.0 if a > b else 0.5 * (a == b))
    return float(np.mean(right))


def news() -> list[tuple[str, float]]:
    """AUC of good against bad news from py-feat's tables, by features."""
    clips = pd.read_csv(DATA / "face_au_series" / "clips.csv", dtype={"clipN": str})
    paths = [DATA / "face_au_series" / f"{name}.csv" for name in clips["clipN"]]
    y = (clips["condition"] == "goodNews").to_numpy().astype(int)
    settings = {
        "all features": {},
        "action units, no gaze and pose": {"angles": False},
        "action units above the recording's own baseline": {"angles": False, "baseline": "own"},
        "gaze, pose and AU43 (eyes closed) only": {"action_units": ["AU43"]},
    }
    found = []
    for name, params in settings.items():
        encoder = ActionUnitEncoder(cache=False, **params)
        found.append((f"{name}, logistic regression", pair_auc(encoder.fit_transform(paths), y)))
    plain = ActionUnitEncoder(cache=False).fit(paths)
    frame = pd.DataFrame(plain.transform(paths), columns=plain.get_feature_names_out())
    for unit in ALONE:
        found.append((f"{unit} mean, not trained", roc_auc_score(y, frame[f"face_{unit}_mean"])))
    return [*found, ("rows", len(y)), ("good", int(y.sum()))]


def video() -> tuple[list[str], list[str]]:
    """AU12 by eighth of a clip, the AUC of units, and agreement with MediaPipe's own mesh."""
    folder = DATA / "face_video"
    encoder = ActionUnitEncoder(cache=False, frame_rate=None).fit([folder / "single_face.mp4"])
    frames = encoder.preprocess(folder / "single_face.mp4").numpy()[:, 1 : 1 + len(UNITS)]
    smiling = np.repeat([0, 1], [NEUTRAL.stop, SMILING.stop - SMILING.start])
    eighths = [f"{part.mean():.2f}" for part in np.array_split(frames[:, UNITS.index("AU12")], 8)]
    units = [
        f"{unit} {roc_auc_score(smiling, frames[:, UNITS.index(unit)]):.2f}"
        for unit in ("AU12", "AU06", "AU01", "AU11", "AU24", "AU28")
    ]
    rest = [
        f"{unit} {frames[NEUTRAL, UNITS.index(unit)].mean():.2f}"
        for unit in ("AU01", "AU07", "AU11", "AU24", "AU28")
    ]
    return (
        [
            f"AU12 by eighth of the clip: {' '.join(eighths)}.",
            f"AUC of smiling against neutral frames: {', '.join(units)}.",
            f"Mean on the neutral frames, where 0 would be right: {', '.join(rest)}.",
        ],
        agreement(folder),
    )


def agreement(folder: Path) -> list[str]:
    """How the mesh compares with that of mediapipe.solutions.face_mesh, kept in the data."""
    lines = []
    for name, step in (("single_face.mp4", 1), ("face_noface.mov", 2)):
        stem = name.partition(".")[0]
        known = np.load(folder / f"{stem}_landmarks.npz")["landmarks_px"]
        pictures = list(_frames(folder / name, None))[::step][: len(known)]
        found = [shared_mesh().find(picture) for picture in pictures]
        here = np.array([mesh is not None and mesh[1] >= 0.75 for mesh in found])
        there = np.isfinite(known[:, 0, 0])
        both = np.flatnonzero(here & there)
        off = [
            np.linalg.norm(found[i][0][:, :2] - known[i, :468, :2], axis=1).mean()
            / np.ptp(known[i, :468, 0])
            for i in both
        ]
        lines.append(
            f"| {name} | {len(known)} | {int(there.sum())} | {int((here == there).sum())} | "
            f"{100 * np.mean(off):.1f} % |"
        )
    return lines


def section() -> str:
    """The section as markdown."""
    *rows, (_, n), (_, good) = news()
    trace, agree = video()
    lines = [
        "## Faces: expression from action units",
        "",
        f"**Good and bad news.** {n} clips of people who say a sentence that is good ({good}) or "
        f"bad ({n - good}) news, as tables of py-feat (14 to 39 frames). `ActionUnitEncoder()` and "
        "logistic regression, C=0.01; every pair of a good and a bad clip is left out in turn and "
        "the AUC is the share of pairs in the right order. Chance is 0.5. The set is tiny, as the "
        "95 % intervals (Newcombe 2006) say, and too easy: gaze and pose alone tell the two apart "
        "as well, so that it cannot rank sets of features. An AUC of 0 is order the other way "
        "round: brows are raised or drawn together with bad news.",
        "",
        "| features | AUC | 95 % interval |",
        "| --- | --- | --- |",
    ]
    for name, auc in rows:
        low, high = interval(auc, good, n - good)
        lines.append(f"| {name} | {auc:.2f} | {low:.2f} to {high:.2f} |")
    lines += [
        "",
        "**A smile, from pixels.** `single_face.mp4`, one person, 72 frames: neutral (the first "
        "18), then a broad smile. Nothing is trained. One clip says whether the method works, not "
        "how well it does on other faces; there is no interval for that.",
        "",
        *(f"- {line}" for line in trace),
        "",
        "Against `mediapipe.solutions.face_mesh` with refined landmarks, which has a second stage "
        "for eyes and lips (*same*: frames where both find a face or both do not; *distance*: of "
        "the 468 points, in widths of the face):",
        "",
        "| video | frames | with a face | same | distance |",
        "| --- | --- | --- | --- | --- |",
        *agree,
        "",
        "Made by `benchmarks/faces.py`.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="print only")
    dry = parser.parse_args().dry_run
    text = section()
    print(text)
    if not dry:
        write_section("faces", text)


if __name__ == "__main__":
    main()
