"""How a fitted model degrades: with modalities missing, and with each of them corrupted."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from mmfuse._random import spawn_seed
from mmfuse.blocks import Blocks
from mmfuse.corruptions import Corruption, corruptions_of
from mmfuse.corruptions.cells import corrupt_cell, kind_of_encoder
from mmfuse.degrade.scores import Scorer
from mmfuse.presence import Presence
from mmfuse.report.checks import as_task, check_groups, check_one_output, check_rows
from mmfuse.table import ModalityTable
from mmfuse.table.cells import object_array
from mmfuse.training_record import check_held_out

if TYPE_CHECKING:
    from mmfuse.plotting.degradation import DegradationDisplay

__all__ = ["Degradation", "degradation"]

_SMALL = 0.01  # of the loss of the whole model: less does no harm worth the name
_NOTHING = "nothing (prior)"


@dataclass(frozen=True, eq=False, repr=False)
class Degradation:
    """Scores under every loss and corruption of modalities; made by `degradation`.

    Attributes
    ----------
    frame : DataFrame
        ``condition`` is ``"subset"`` (only ``modality`` is there, several joined by " + ") or
        ``"corruption"`` (``modality`` went wrong, the others are as they are), with ``corruption``,
        ``level`` and ``unit``. Then ``<score>``, ``<loss>``, ``ece`` or ``mae``, and ``coverage``
        where the model gives sets or intervals, each with ``_low`` and ``_high``;
        ``<loss>_change`` against the same rows untouched, paired, with its ends; for corruptions
        ``harms``: whether the loss is above that without the modality, by the whole interval, and
        by 1 % of the loss of the whole model.
    task : {"classification", "regression"}
    coverage : float
        What was asked of sets and intervals.
    confidence : float
    n_rows : int
    """

    frame: pd.DataFrame
    task: str
    coverage: float
    confidence: float
    n_rows: int

    @property
    def loss(self) -> str:
        """Name of the metric that is lower when better."""
        return "log_loss" if self.task == "classification" else "rmse"

    @property
    def score(self) -> str:
        """Name of the metric that is higher when better."""
        return "accuracy" if self.task == "classification" else "r2"

    def to_frame(self) -> pd.DataFrame:
        """Give a copy of the table."""
        return self.frame.copy()

    def summary(self) -> pd.DataFrame:
        """A row for each modality and corruption: the mildest level that is worse than none.

        ``harms_from`` is the first level at which the model would do better without the modality
        (NaN if none), ``worst_loss`` and ``worst_score`` are those of the last level, and
        ``unit`` that of the levels.
        """
        part = self.frame[self.frame["condition"] == "corruption"]
        rows = []
        for (modality, name), group in part.groupby(["modality", "corruption"], sort=False):
            harm = group.loc[group["harms"].astype(bool), "level"]
            rows.append(
                {
                    "modality": modality,
                    "corruption": name,
                    "unit": group["unit"].iloc[0],
                    "harms_from": harm.iloc[0] if len(harm) else np.nan,
                    f"worst_{self.loss}": group[self.loss].iloc[-1],
                    f"worst_{self.score}": group[self.score].iloc[-1],
                }
            )
        columns = ["modality", "corruption", "unit", "harms_from"]
        columns += [f"worst_{self.loss}", f"worst_{self.score}"]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, axes: Any = None) -> DegradationDisplay:
        """Draw a panel of the subsets, and one for each modality that was corrupted.

        Parameters
        ----------
        axes : array-like of matplotlib axes, default=None
            One more than there are corrupted modalities; None makes a new figure.
        """
        from mmfuse.plotting.degradation import DegradationDisplay

        return DegradationDisplay(self).plot(axes)

    def __repr__(self) -> str:
        kept = ["condition", "modality", "corruption", "level", self.score, self.loss]
        return (
            f"Degradation, {self.n_rows} rows\n{self.frame[kept].round(3).to_string(index=False)}"
        )


def degradation(
    model: Any,
    X: Any,
    y: ArrayLike,
    *,
    corruptions: Mapping[str, Sequence[str]] | None = None,
    groups: ArrayLike | None = None,
    coverage: float = 0.9,
    n_bootstrap: int = 500,
    confidence: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
    max_modalities: int = 8,
    overlap: str = "auto",
    verbose: int = 0,
) -> Degradation:
    """Score a fitted model with modalities missing, and with each of them corrupted.

    Every row is encoded once; of a corrupted raw modality that one alone is encoded again, for
    each level, without the cache on disk.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted.
    X : ModalityTable, Blocks or anything that the model accepts
        Rows that the model was not fitted on. Raw samples are corrupted only where X is a table
        and the modality has an encoder of sound, pictures, text, faces or objects.
    y : array-like of shape (n_rows,)
    corruptions : dict of str to sequence of str, optional
        For some modalities, names of corruptions: those of the raw kind, else those of blocks
        (see `mmfuse.corruptions.corruptions_of`). By default every modality undergoes all of
        both. A modality that is not named is only taken away.
    groups : array-like of shape (n_rows,), optional
        Groups, such as persons: the bootstrap draws them whole, and rows are swapped between them.
    coverage : float, default=0.9
        Asked of the model's sets (``predict_set``) or intervals (``predict_interval``), where it
        has them.
    n_bootstrap : int, default=500
    confidence : float, default=0.95
        Of the percentile intervals.
    random_state : int, RandomState or None, default=0
        Source of corruptions and of the bootstrap. A row draws the same at every level.
    max_modalities : int, default=8
        Limit on the number of modalities, since M of them have 2**M - 1 subsets.
    overlap : {"auto", "raise", "warn", "ignore"}, default="auto"
        What to do about rows and groups that the model was fitted on, as in `modality_report`.
    verbose : int, default=0
        Above 0, a bar is shown.

    Returns
    -------
    Degradation

    Warns
    -----
    LeakageWarning
        If rows are those that the model was fitted on.

    Raises
    ------
    LeakageError
        If groups are those that the model was fitted on.
    ValueError
        If lengths differ, a modality or corruption is unknown, or an option is out of range.

    Notes
    -----
    After the corruptions of Hendrycks and Dietterich (ICLR 2019), for any modality and with
    levels that have units; the reference that decides whether the corrupted modality still helps
    is the same model without it.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse import FusionClassifier, degradation
    >>> from mmfuse.heads import EarlyFusion
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(400) % 2
    >>> X = {name: y[:, None] + rng.normal(size=(400, 3)) for name in ("face", "voice")}
    >>> part = lambda rows: {name: value[rows] for name, value in X.items()}
    >>> model = FusionClassifier(EarlyFusion(), random_state=0).fit(part(slice(200)), y[:200])
    >>> found = degradation(
    ...     model, part(slice(200, None)), y[200:], corruptions={"voice": ["feature_noise"]}
    ... )
    >>> found.frame["modality"].tolist()[:3]
    ['face', 'voice', 'face + voice']
    >>> found.summary()[["modality", "corruption", "unit"]].values.tolist()
    [['voice', 'feature_noise', 'training standard deviations']]
    """
    check_is_fitted(model, "modalities_")
    check_one_output(model)
    names = tuple(model.modalities_)
    _check_options(names, coverage, n_bootstrap, confidence, max_modalities)
    table = X if isinstance(X, Blocks) else _raw(model, X)
    blocks = model.encode(table)
    y = check_rows(y, "y", len(blocks))
    codes = check_groups(groups, len(blocks), np.ones(len(blocks), bool))
    check_held_out(model, blocks, groups, overlap=overlap, caller="degradation")
    task = as_task(y, np.ones(len(y)), model.classes_ if is_classifier(model) else None)
    seed = spawn_seed(random_state)
    scorer = Scorer(task, y, codes, coverage, n_bootstrap, confidence, seed)
    plan = _plan(model, table, names, corruptions)
    rows = _measure(model, table, blocks, names, plan, scorer, codes, seed, verbose)
    return Degradation(pd.DataFrame(rows), task.kind, coverage, float(confidence), len(blocks))


def _check_options(names, coverage, n_bootstrap, confidence, max_modalities) -> None:
    if isinstance(n_bootstrap, bool) or not isinstance(n_bootstrap, Integral) or n_bootstrap < 1:
        raise ValueError(
            f"degradation: n_bootstrap must be an integer of at least 1; got {n_bootstrap!r}."
        )
    for name, value in (("coverage", coverage), ("confidence", confidence)):
        if not 0.0 < value < 1.0:
            raise ValueError(f"degradation: {name} must lie between 0 and 1; got {value!r}.")
    if len(names) > max_modalities:
        raise ValueError(
            f"degradation: {len(names)} modalities have {2 ** len(names) - 1} subsets to predict, "
            f"and max_modalities={max_modalities}. Pass max_modalities={len(names)} to go ahead."
        )


def _raw(model: Any, X: Any) -> Any:
    """X as the table that the model sees, where there are raw columns to corrupt."""
    opened = model._open(X, reset=False) if hasattr(model, "_open") else X
    return opened if isinstance(opened, (ModalityTable, Blocks)) else X


def _plan(
    model: Any, table: Any, names: tuple[str, ...], asked: Mapping[str, Sequence[str]] | None
) -> list[tuple[str, Corruption]]:
    """Modality and corruption of every curve."""
    unknown = [name for name in (asked or {}) if name not in names]
    if unknown:
        raise ValueError(
            f"degradation: corruptions name the modality {unknown[0]!r}, which the model does not "
            f"know; it knows {', '.join(names)}."
        )
    plan = []
    for name in names:
        kind = None
        if isinstance(table, ModalityTable) and name in table.modalities:
            kind = kind_of_encoder(getattr(model, "encoders_", {}).get(name))
        known = (corruptions_of(kind) if kind else ()) + corruptions_of("block")
        if asked is None:
            plan += [(name, one) for one in known]
            continue
        for wanted in asked.get(name, ()):
            match = [one for one in known if one.name == wanted]
            if not match:
                raise ValueError(
                    f"degradation: modality {name!r} has no corruption {wanted!r}; it has "
                    f"{', '.join(one.name for one in known)}."
                    + ("" if kind else " Those of raw samples need a table and an encoder.")
                )
            plan.append((name, match[0]))
    return plan


def _measure(model, table, blocks, names, plan, scorer, codes, seed, verbose) -> list[dict]:
    """All rows of the frame."""
    from tqdm.auto import tqdm

    chosen = [s for size in range(1, len(names) + 1) for s in combinations(names, size)]
    steps = 2 + len(chosen) + sum(len(one.levels) for _, one in plan)
    with tqdm(total=steps, desc="degradation", disable=not verbose) as bar:
        clean = scorer.predict(model, blocks)
        bar.update()
        rows, draws = [], {}
        for members in [(), *chosen]:
            hidden = [name for name in names if name not in members]
            found = clean if not hidden else scorer.predict(model, blocks.hide(hidden))
            label = " + ".join(members)
            row, draws[label] = scorer.score(found, clean)
            key = {"condition": "subset", "modality": label or _NOTHING, "corruption": ""}
            key |= {"level": np.nan, "unit": "", "n_modalities": len(members)}
            if members:
                rows.append({**key, **row, "harms": False})
            bar.update()
        least = _SMALL * float(rows[-1][scorer.task.loss])
        for name, one in plan:
            rest = draws[" + ".join(other for other in names if other != name)]
            for level, wrong in _corrupted(model, table, blocks, name, one, codes, seed):
                row, own = scorer.score(scorer.predict(model, wrong), clean)
                key = {"condition": "corruption", "modality": name, "corruption": one.name}
                key |= {"level": level, "unit": one.unit, "n_modalities": len(names)}
                rows.append({**key, **row, "harms": scorer.above(own, rest, least)})
                bar.update()
    return rows


def _corrupted(
    model, table, blocks: Blocks, name: str, one: Corruption, codes, seed: int
) -> Iterator[tuple[float, Blocks]]:
    """Level, and the blocks with one modality corrupted."""
    column = blocks.names.index(name)
    there = np.flatnonzero(blocks.presence[:, column] == Presence.PRESENT)
    for level in one.levels:
        values, states = blocks[name].copy(), blocks.presence.copy()
        if one.kind == "block":
            values[there] = one.corrupt_block(
                values[there],
                level,
                seed,
                scale=_scale(model, name, values[there]),
                groups=None if codes is None else codes[there],
            )
        else:
            values, states[:, column] = _encode_again(model, table, name, one, level, seed)
        arrays = {other: blocks[other] for other in blocks.names} | {name: values}
        yield level, Blocks(arrays, states)


def _scale(model: Any, name: str, values: np.ndarray) -> np.ndarray:
    """Standard deviation of every feature in training; of these rows for another's model."""
    scaler = getattr(model, "scaler_", None)
    if scaler is not None:
        scale = scaler.statistics(name)[1].cpu().numpy()
        if not (scale == 1.0).all():  # a head may ask for raw blocks, which are not standardised
            return scale
    return np.nan_to_num(np.nanstd(values, axis=0)) if len(values) else np.ones(values.shape[1])


def _encode_again(
    model, table: ModalityTable, name: str, one: Corruption, level: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Corrupt every present cell, and encode; what cannot be read any more is FAILED."""
    encoder = copy.copy(model.encoders_[name])
    for option, value in (("cache", False), ("on_error", "mark"), ("verbose", 0)):
        if option in encoder.get_params(deep=False):
            setattr(encoder, option, value)
    states = table.presence[:, table.modalities.index(name)]
    rate = getattr(encoder, "sample_rate", 16000)
    cells: list[Any] = []
    for row, cell in enumerate(table[name]):
        if states[row] != Presence.PRESENT:
            cells.append(Presence(int(states[row])))
            continue
        try:
            cells.append(
                corrupt_cell(
                    cell, one.kind, lambda s, row=row: one.corrupt(s, level, seed, row), rate
                )
            )
        except ValueError as exc:
            raise ValueError(
                f"degradation: modality {name!r}, row {row}: {one.name} cannot be applied ({exc}). "
                "Pass corruptions={...} without it, or encode X first."
            ) from exc
    encoded = encoder.encode(object_array(cells), None, name=name)
    return encoded.values, encoded.presence
