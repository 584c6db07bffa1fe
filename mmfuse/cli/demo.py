"""The demo: two modalities from files to a saved model that copes without one of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmfuse._require import require
from mmfuse.datasets import export_av_digits
from mmfuse.exceptions import ModalityNeglectWarning

if TYPE_CHECKING:
    from mmfuse.estimators.classifier import FusionClassifier
    from mmfuse.table import ModalityTable

__all__ = ["run_demo"]

TEST_SPEAKER = "george"


def run_demo(
    out: str | Path, n_rows: int = 960, echo: Callable[[str], object] = print
) -> dict[str, float]:
    """Train on three speakers, test on the fourth, and write everything to a folder.

    Parameters
    ----------
    out : str or Path
        Folder for the data, the report, the pictures and the saved model.
    n_rows : int, default=960
        Rows of the data set to use, at least 120.
    echo : callable, default=print
        Takes one line of text at a time.

    Returns
    -------
    dict of str to float
        ``accuracy``, ``accuracy_without_audio``, ``encode_s`` (this run), ``encode_again_s``.
    """
    require("matplotlib", extra="plot", caller="mmfuse demo").use("Agg")
    if not 120 <= n_rows <= 960:
        raise ValueError(f"The demo takes 120 to 960 rows, got {n_rows}.")
    out = Path(out)
    X, y, speakers = _load(out / "data", n_rows)
    echo(f"{len(X)} rows: a handwritten and a spoken digit each, as files in {out / 'data'}")
    seconds = [_encode(X, verbose=1), _encode(X, verbose=0)]
    echo(
        f"encoded in {seconds[0]:.2f} s; again, from the cache on disk, in {seconds[1]:.3f} s "
        f"({seconds[0] / seconds[1]:.0f} times as fast)"
    )
    test = speakers == TEST_SPEAKER
    model = _fit(X[~test], y[~test], speakers[~test], echo)
    echo(f"tested on {int(test.sum())} rows of {TEST_SPEAKER}")
    echo("")
    _report(model, X[test], y[test], out, echo)
    scores = _save_and_reload(model, X[test], y[test], out, echo)
    return {**scores, "encode_s": seconds[0], "encode_again_s": seconds[1]}


def _load(folder: Path, n_rows: int) -> tuple[ModalityTable, np.ndarray, np.ndarray]:
    from mmfuse.table import ModalityTable

    manifest = export_av_digits(folder, n_rows)
    X = ModalityTable.from_csv(manifest, id="id", image="photo_path", audio="wav_path")
    rows = pd.read_csv(manifest)
    return X, rows["label"].to_numpy(), rows["speaker"].to_numpy(dtype=object)


def _make_encoders(verbose: int = 0) -> dict[str, Any]:
    from mmfuse.encoders import ImageEncoder, LogMelEncoder

    return {"image": ImageEncoder(verbose=verbose), "audio": LogMelEncoder(verbose=verbose)}


def _encode(X: ModalityTable, verbose: int) -> float:
    """Encode every cell, which fills the cache; returns the seconds it took."""
    encoders = {name: one.fit(X[name]) for name, one in _make_encoders(verbose).items()}
    started = time.perf_counter()
    for name, encoder in encoders.items():
        encoder.encode(X[name])
    return time.perf_counter() - started


def _fit(
    X: ModalityTable, y: np.ndarray, speakers: np.ndarray, echo: Callable[[str], object]
) -> FusionClassifier:
    from mmfuse.estimators.classifier import FusionClassifier

    started = time.perf_counter()
    model = FusionClassifier(encoders=_make_encoders(), random_state=0)
    model.fit(X, y, groups=speakers)
    seconds = time.perf_counter() - started
    echo(f"fitted on {len(X)} rows of {', '.join(np.unique(speakers))} in {seconds:.1f} s")
    return model


def _report(
    model: FusionClassifier,
    X: ModalityTable,
    y: np.ndarray,
    out: Path,
    echo: Callable[[str], object],
) -> None:
    from mmfuse.report import modality_report

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)  # the text says it
        report = modality_report(model, X, y)
    echo(report.to_text())
    echo("")
    report.save(out / "report.html", title="Spoken and handwritten digits")
    report.plot().figure_.savefig(out / "report.png", dpi=80)
    echo(f"the same as a page: {out / 'report.html'}, and as a picture: {out / 'report.png'}")


def _save_and_reload(
    model: FusionClassifier,
    X: ModalityTable,
    y: np.ndarray,
    out: Path,
    echo: Callable[[str], object],
) -> dict[str, Any]:
    from mmfuse.saving.folder import load

    model.input_columns_ = {
        "image": {"columns": ["photo_path"], "kind": "image"},
        "audio": {"columns": ["wav_path"], "kind": "audio"},
    }
    model.save(out / "model")
    loaded = load(out / "model")
    both, image_only = loaded.score(X, y), loaded.score(X.hide("audio"), y)
    echo(f"saved in {out / 'model'} and loaded again: accuracy {both:.3f} with both modalities,")
    echo(f"{image_only:.3f} with the audio of every row missing")
    return {"accuracy": both, "accuracy_without_audio": image_only}
