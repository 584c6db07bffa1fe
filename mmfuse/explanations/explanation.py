"""The result of `mmfuse.explain`: what every part of a row adds to what is explained."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mmfuse.presence import Presence

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmfuse.explanations.display import ExplanationDisplay

__all__ = ["Explanation", "RowExplanation"]

_SHOWN = 12  # parts in a text or a plot, unless asked for more


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Contributions of the parts of every row: modalities, or features.

    Made by `mmfuse.explain`; holds numbers only.

    Attributes
    ----------
    values : ndarray of shape (n, P, K)
        What each part adds to each output, in the unit of ``quantity``.
    base : ndarray of shape (n, K)
        The answer that the contributions start from.
    prediction : ndarray of shape (n, K)
        The answer of the model.
    names : tuple of str
        The P parts.
    modality : tuple of str
        Modality of each part.
    outputs : tuple
        The K classes or targets.
    states : ndarray of shape (n, P), int8
        `Presence` of each part's modality. A part that is not PRESENT has exactly zero.
    quantity : str
        What is explained, such as ``"log odds (nats)"``.
    method : {"shapley", "evidence", "gradients", "occlusion"}
    level : {"modality", "feature"}
    base_label : str
        What ``base`` is, in words.
    """

    values: np.ndarray
    base: np.ndarray
    prediction: np.ndarray
    names: tuple[str, ...]
    modality: tuple[str, ...]
    outputs: tuple[Any, ...]
    states: np.ndarray
    quantity: str
    method: str
    level: str
    base_label: str

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: Any) -> RowExplanation:
        return self.row(row)

    def __iter__(self) -> Iterator[RowExplanation]:
        return (self.row(i) for i in range(len(self)))

    @property
    def gap(self) -> np.ndarray:
        """Prediction less base and all contributions, (n, K).

        Zero up to rounding for ``"shapley"`` and ``"evidence"``, up to the error of integration
        for ``"gradients"``. Occlusion takes one feature away at a time, and does not add up.
        """
        return self.prediction - self.base - self.values.sum(axis=1)

    def row(self, row: int) -> RowExplanation:
        """One row, to print, show in a notebook or plot.

        Raises
        ------
        IndexError
            If there is no such row.
        TypeError
            If ``row`` is not an integer.
        """
        if isinstance(row, (bool, np.bool_)) or not isinstance(row, (int, np.integer)):
            raise TypeError(
                f"Explanation: a row is an integer, got {row!r}; use explanation.values[...] for "
                "several rows at once."
            )
        if not -len(self) <= row < len(self):
            raise IndexError(f"Explanation: row {row} is asked for and there are {len(self)} rows.")
        return RowExplanation(self, int(row) % len(self))

    def output_index(self, output: Any) -> int:
        """Place of an output among ``outputs``.

        Raises
        ------
        ValueError
            If it was not explained.
        """
        if output not in self.outputs:
            raise ValueError(
                f"Explanation: output must be among {', '.join(map(repr, self.outputs))}; got "
                f"{output!r}."
            )
        return self.outputs.index(output)

    def to_frame(self) -> pd.DataFrame:
        """One line per row, output and part: ``modality``, ``state``, ``value``."""
        n, parts, count = self.values.shape
        index = pd.MultiIndex.from_product(
            [range(n), self.outputs, self.names], names=["row", "output", "part"]
        )
        states = np.repeat(self.states[:, None, :], count, axis=1)
        names = np.array([Presence(s).name.lower() for s in range(len(Presence))])
        return pd.DataFrame(
            {
                "modality": np.tile(np.array(self.modality, dtype=object), n * count),
                "state": names[states.ravel()],
                "value": np.moveaxis(self.values, 2, 1).ravel(),
            },
            index=index,
        )

    def by_modality(self) -> np.ndarray:
        """Contributions summed over the parts of every modality (n, M, K), in order of names."""
        order = list(dict.fromkeys(self.modality))
        place = np.array([order.index(name) for name in self.modality])
        total = np.zeros((len(self), len(order), len(self.outputs)))
        for m in range(len(order)):
            total[:, m] = self.values[:, place == m].sum(axis=1)
        return total

    def summary(
        self,
        *,
        by: str = "part",
        groups: Any = None,
        sample_weight: Any = None,
        n_bootstrap: int = 1000,
        confidence: float = 0.95,
        random_state: Any = 0,
    ) -> pd.DataFrame:
        """Mean size of the contributions over rows, with bootstrap intervals.

        Parameters
        ----------
        by : {"part", "modality"}, default="part"
            ``"modality"`` first sums a row's contributions within each modality.
        groups : array-like of shape (n,), optional
            Such as the patient; the bootstrap then draws whole groups.
        sample_weight : array-like of shape (n,), optional
            Weight of every row in the means.
        n_bootstrap : int, default=1000
        confidence : float, default=0.95
        random_state : int, RandomState or None, default=0

        Returns
        -------
        DataFrame
            Indexed by output and part, the largest first. ``mean_abs`` over all rows (an absent
            modality counts as zero), with ``low`` and ``high``; ``mean_abs_present`` over the rows
            that have it; ``mean``, with its sign; ``n_present``.

        Raises
        ------
        ValueError
            For an unknown ``by``, a wrong ``n_bootstrap`` or ``confidence``, groups of another
            length, fewer than two groups, or no rows.
        """
        from mmfuse.explanations.summary import summarise

        return summarise(self, by, groups, n_bootstrap, confidence, random_state, sample_weight)

    def plot(
        self, row: int = 0, *, output: Any = None, max_parts: int = _SHOWN, ax: Axes | None = None
    ) -> ExplanationDisplay:
        """Draw one row as a waterfall; see `RowExplanation.plot`."""
        return self.row(row).plot(output=output, max_parts=max_parts, ax=ax)

    def __repr__(self) -> str:
        n, parts, count = self.values.shape
        kind = {"modality": "modalities", "feature": "features"}[self.level]
        return (
            f"Explanation by {self.method}: {n} rows x {parts} {kind} x {count} outputs, "
            f"{self.quantity}"
        )

    def _repr_html_(self) -> str:
        table = self.summary(n_bootstrap=1).drop(columns=["low", "high"]) if len(self) else None
        body = "" if table is None else table.head(20).to_html(float_format="{:.3g}".format)
        return f"<p>{escape(repr(self))}</p>{body}"


@dataclass(frozen=True, repr=False)
class RowExplanation:
    """One row of an `Explanation`.

    Parameters
    ----------
    explanation : Explanation
    index : int
    """

    explanation: Explanation
    index: int

    @property
    def values(self) -> np.ndarray:
        """Contributions (P, K)."""
        return self.explanation.values[self.index]

    @property
    def base(self) -> np.ndarray:
        """Where they start (K,)."""
        return self.explanation.base[self.index]

    @property
    def prediction(self) -> np.ndarray:
        """The model's answer (K,)."""
        return self.explanation.prediction[self.index]

    def default_output(self) -> Any:
        """The most probable class of those explained; for values, the first target."""
        if "log" not in self.explanation.quantity and self.explanation.quantity != "probability":
            return self.explanation.outputs[0]
        return self.explanation.outputs[int(np.argmax(self.prediction))]

    def steps(self, output: Any = None, max_parts: int = _SHOWN) -> list[tuple[str, float, str]]:
        """Name, contribution and state of the parts, the largest first.

        Beyond ``max_parts`` the rest is one step; absent modalities come last.

        Raises
        ------
        ValueError
            For an unknown output, or ``max_parts`` below 1.
        """
        if not isinstance(max_parts, (int, np.integer)) or max_parts < 1:
            raise ValueError(f"max_parts must be an integer of at least 1; got {max_parts!r}.")
        whole = self.explanation
        k = whole.output_index(self.default_output() if output is None else output)
        values, states = self.values[:, k], whole.states[self.index]
        there = np.flatnonzero(states == Presence.PRESENT)
        there = there[np.argsort(-np.abs(values[there]), kind="stable")]
        steps = [(whole.names[p], float(values[p]), "") for p in there[:max_parts]]
        rest = there[max_parts:]
        if len(rest):
            steps.append((f"{len(rest)} others", float(values[rest].sum()), ""))
        return steps + self._absent(states)

    def _absent(self, states: np.ndarray) -> list[tuple[str, float, str]]:
        """A step of zero for every modality that is not there."""
        found = {}
        for name, state in zip(self.explanation.modality, states, strict=True):
            if state != Presence.PRESENT:
                found[name] = (name, 0.0, Presence(int(state)).name.lower())
        return list(found.values())

    def to_text(self, output: Any = None, max_parts: int = _SHOWN) -> str:
        """Plain text: the answer, where it starts, and what each part adds."""
        head, lines = self._lines(output, max_parts)
        width = max(len(name) for name, _ in lines)
        return "\n".join([head, *(f"  {name:<{width}}  {value}" for name, value in lines)])

    def _lines(self, output: Any, max_parts: int) -> tuple[str, list[tuple[str, str]]]:
        whole = self.explanation
        output = self.default_output() if output is None else output
        k = whole.output_index(output)
        lines = [(whole.base_label, f"{self.base[k]:.3f}")]
        for name, value, state in self.steps(output, max_parts):
            lines.append((name, state if state else f"{value:+.3f}"))
        gap = whole.gap[self.index, k]
        if whole.method == "occlusion":
            lines.append(("not attributed (features taken away one at a time)", f"{gap:+.3f}"))
        lines.append(("the model's answer", f"{self.prediction[k]:.3f}"))
        of = "" if output in ("value", "expected") else f" of {output!r}"
        head = f"Row {self.index}: {whole.quantity}{of}, by {whole.method}"
        return head, lines

    def plot(
        self, *, output: Any = None, max_parts: int = _SHOWN, ax: Axes | None = None
    ) -> ExplanationDisplay:
        """Draw a waterfall from the base to the answer.

        Parameters
        ----------
        output : class or target, optional
            By default the most probable class, or the first target.
        max_parts : int, default=12
            Parts with a bar of their own; the rest share one.
        ax : matplotlib Axes, optional

        Returns
        -------
        ExplanationDisplay
            Has ``ax_`` and ``figure_``.
        """
        from mmfuse.explanations.display import ExplanationDisplay

        return ExplanationDisplay(self, output=output, max_parts=max_parts).plot(ax)

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self) -> str:
        head, lines = self._lines(None, _SHOWN)
        rows = "".join(
            f"<tr><td style='text-align:left'>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for name, value in lines
        )
        return f"<table><caption>{escape(head)}</caption><tbody>{rows}</tbody></table>"
