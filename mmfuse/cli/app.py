"""The command line: ``mmfuse fit``, ``predict``, ``report``, ``cache``, ``doctor`` and ``demo``."""

from __future__ import annotations

import time
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from mmfuse._require import require
from mmfuse._version import __version__
from mmfuse.cli.cache import app as cache_app
from mmfuse.cli.errors import one_line_errors, say

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import typer

    from mmfuse.table import ModalityTable
else:
    typer = require("typer", extra="cli", caller="mmfuse")

__all__ = ["app"]

app = typer.Typer(
    help="Fuse images, sound, text and numbers into one calibrated model.",
    epilog="Errors are one line; MMFUSE_DEBUG=1 shows the traceback.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_app, name="cache")


class Head(Enum):
    auto = "auto"
    late = "late"
    early = "early"


class Task(Enum):
    auto = "auto"
    classification = "classification"
    regression = "regression"


class Overlap(Enum):
    auto = "auto"
    stop = "raise"
    warn = "warn"
    ignore = "ignore"


class OnError(Enum):
    stop = "stop"
    skip = "skip"


ManifestArgument = Annotated[Path, typer.Argument(help="CSV, TSV or parquet, a row per sample.")]
ModelArgument = Annotated[Path, typer.Argument(help="Folder of a saved model.")]
TargetOption = Annotated[str, typer.Option(help="Column to predict.")]
IdOption = Annotated[str | None, typer.Option(help="Column that names the rows.")]
ModalityOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COLUMN:KIND", help="As for fit; by default as the model was fitted."
    ),
]
OnErrorOption = Annotated[
    OnError,
    typer.Option(help="A file that cannot be read: stop, or skip it and count it as missing."),
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mmfuse {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command()
@one_line_errors
def fit(
    manifest: ManifestArgument,
    target: TargetOption,
    modality: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=COLUMN:KIND",
            help="Once per modality; KIND is image or audio (files), text, or numeric, which may "
            "have several columns: NAME=COLUMN,COLUMN2:numeric.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to save the model in.")],
    id: IdOption = None,
    group: Annotated[
        str | None, typer.Option(help="Column of groups that no fold may split, such as a person.")
    ] = None,
    head: Annotated[Head, typer.Option(help="How to fuse.")] = Head.auto,
    task: Annotated[Task, typer.Option(help="What the target is.")] = Task.auto,
    on_error: OnErrorOption = OnError.stop,
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Train a model on the files and columns of a manifest."""
    from mmfuse.cli import manifest as reading

    sources = reading.parse_modalities(modality)
    frame = reading.read_manifest(manifest, id=id)
    for source in sources:
        reading.check_columns(frame, source.columns, manifest, option=f"--modality {source.name}")
    y = reading.read_target(frame, target, manifest, option="--target")
    groups = group and reading.read_target(frame, group, manifest, option="--group", words=True)
    X, _ = reading.to_table(frame, sources, manifest.parent, id=id)
    estimator = _make_estimator(sources, y, head, task, on_error, random_state)
    typer.echo(f"{len(X)} rows, {_describe(estimator, target, y)}")
    typer.echo(X.summary().to_string(float_format="{:.3f}".format))
    started = time.perf_counter()
    estimator.fit(X, y, groups=groups)
    estimator.input_columns_ = {source.name: source.to_dict() for source in sources}
    estimator.save(out)
    typer.echo(f"fitted in {time.perf_counter() - started:.1f} s and saved in {out}")
    typer.echo(f"next: mmfuse predict {out} NEW.csv --out predictions.csv")


@app.command()
@one_line_errors
def predict(
    model: ModelArgument,
    manifest: ManifestArgument,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    id: IdOption = None,
    modality: ModalityOption = None,
    on_error: OnErrorOption = OnError.stop,
) -> None:
    """Predict each row of a manifest from what it has."""
    import pandas as pd

    fitted, frame, X = _open(model, manifest, modality, id, on_error)
    blocks = fitted.encode(X)
    columns: dict[str, Any] = {id: frame[id]} if id else {"row": range(len(frame))}
    columns["prediction"] = fitted.predict(blocks)
    if hasattr(fitted, "classes_"):
        columns |= _probability_columns(fitted, blocks)
    columns["used"] = [
        "+".join(name for name, there in zip(blocks.names, row, strict=True) if there)
        for row in blocks.present
    ]
    pd.DataFrame(columns).to_csv(out, index=False)
    typer.echo(f"{len(frame)} predictions written to {out}")


@app.command()
@one_line_errors
def report(
    model: ModelArgument,
    manifest: ManifestArgument,
    target: TargetOption,
    group: Annotated[
        str | None, typer.Option(help="Column of groups, such as a person, for the intervals.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .html, .json, .txt; .pdf if --clinical.")
    ] = None,
    modality: ModalityOption = None,
    on_error: OnErrorOption = OnError.stop,
    overlap: Annotated[
        Overlap,
        typer.Option(
            help="What to do about groups and rows the model was fitted on: auto refuses groups "
            "and warns of rows."
        ),
    ] = Overlap.auto,
    clinical: Annotated[
        bool, typer.Option("--clinical", help="The clinical sheet; rows may lack the target.")
    ] = False,
    by: Annotated[
        list[str] | None, typer.Option(help="Column of subgroups, once each; with --clinical.")
    ] = None,
) -> None:
    """Score every subset of modalities, or write the clinical sheet."""
    from mmfuse.cli import manifest as reading
    from mmfuse.exceptions import ModalityNeglectWarning
    from mmfuse.report import modality_report

    if by and not clinical:
        raise ValueError("--by names subgroups of the clinical sheet; add --clinical.")
    fitted, frame, X = _open(model, manifest, modality, None, on_error)
    if clinical:
        from mmfuse.cli.clinical import make_sheet

        sheet = make_sheet(
            fitted,
            frame,
            X,
            manifest,
            target=target,
            group=group,
            by=by or [],
            overlap=overlap.value,
        )
        _show(sheet, out)
        return
    words = hasattr(fitted, "classes_") and fitted.classes_.dtype.kind in "OUS"
    y = reading.read_target(frame, target, manifest, option="--target", words=words)
    groups = group and reading.read_target(frame, group, manifest, option="--group", words=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)  # the text below says it
        found = modality_report(fitted, X, y, groups=groups, overlap=overlap.value)
    _show(found, out)


def _show(found: Any, out: Path | None) -> None:
    typer.echo(found.to_text())
    if out is not None:
        found.save(out)
        typer.echo(f"written to {out}")


@app.command()
@one_line_errors
def doctor(
    model: Annotated[Path | None, typer.Argument(help="Folder of a saved model.")] = None,
) -> None:
    """Show what is installed, and what runs offline."""
    from mmfuse.cli.doctor import examine

    found = examine(model)
    typer.echo(found.to_text())
    if not found.ok:
        raise typer.Exit(1)


@app.command()
@one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo"),
    rows: Annotated[int, typer.Option(help="How many rows of the data set.")] = 960,
) -> None:
    """Fuse spoken and handwritten digits, end to end."""
    from mmfuse.cli.demo import run_demo

    run_demo(out, rows, typer.echo)


def _make_estimator(
    sources: list[Any], y: np.ndarray, head: Head, task: Task, on_error: OnError, seed: int
) -> Any:
    from mmfuse.estimators.classifier import FusionClassifier, FusionRegressor
    from mmfuse.heads import EarlyFusion, LateFusion

    encoders = {}
    for source in sources:
        encoder = source.encoder()
        if encoder is not None:
            encoders[source.name] = encoder.set_params(on_error=_ENCODER_MODE[on_error])
    kind = _guess_task(y) if task is Task.auto else task
    estimator = FusionClassifier if kind is Task.classification else FusionRegressor
    fusion: Any = {Head.late: LateFusion(), Head.early: EarlyFusion()}.get(head, "auto")
    return estimator(head=fusion, encoders=encoders, random_state=seed)


_ENCODER_MODE = {OnError.stop: "raise", OnError.skip: "mark"}
_MOST_CLASSES = 20


def _guess_task(y: np.ndarray) -> Task:
    """Words, and at most 20 different whole numbers, are classes; other numbers are values."""
    import numpy as np

    if y.dtype == object or y.dtype == bool:
        return Task.classification
    whole = bool((np.mod(y, 1) == 0).all())
    few = len(np.unique(y)) <= _MOST_CLASSES
    return Task.classification if whole and few else Task.regression


def _describe(estimator: Any, target: str, y: np.ndarray) -> str:
    import numpy as np

    if type(estimator).__name__ == "FusionRegressor":
        return f"regression of {target!r} (from {y.min()} to {y.max()})"
    return f"classification of {target!r} ({len(np.unique(y))} classes)"


def _open(
    model: Path,
    manifest: Path,
    modality: list[str] | None,
    id: str | None,
    on_error: OnError,
) -> tuple[Any, pd.DataFrame, ModalityTable]:
    """Load a model and read a manifest as the model reads it."""
    from mmfuse.cli import manifest as reading
    from mmfuse.saving.folder import load

    fitted = load(model)
    names = getattr(fitted, "output_names_", None)
    if names is not None:
        raise ValueError(
            f"{model} holds the outputs {', '.join(map(repr, names))}, and this command takes a "
            f"model of one; save one of them in Python: model.output({names[0]!r}).save(...)."
        )
    sources = reading.sources_of(fitted, modality)
    frame = reading.read_manifest(manifest, id=id)
    for encoder in fitted.encoders_.values():
        if "on_error" in encoder.get_params():
            encoder.set_params(on_error=_ENCODER_MODE[on_error])
    X, lacking = reading.to_table(frame, sources, manifest.parent, id=id)
    if lacking:
        say(f"note: {manifest.name} has no column {', '.join(lacking)}; taken as missing")
    return fitted, frame, X


def _probability_columns(fitted: Any, blocks: Any) -> dict[str, Any]:
    probabilities = fitted.predict_proba(blocks)
    return {
        f"prob_{label}": probabilities[:, k].round(6) for k, label in enumerate(fitted.classes_)
    }
