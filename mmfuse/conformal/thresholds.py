"""Conformal thresholds by availability pattern and stratum, and what happens where rows are few."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

from mmfuse.conformal.strata import Strata

__all__ = [
    "SOURCES",
    "Conformal",
    "check_coverage",
    "check_min_rows",
    "conformal_quantile",
    "name_pattern",
    "patterns_to_hide",
]

SOURCES = ("own", "hidden", "either", "pooled", "largest", "all")
"""Where a threshold comes from, from the strongest guarantee to none; see `Conformal`."""

_EVERY_SUBSET = 6  # modalities up to which every pattern is calibrated by hiding
_SLACK = 1e-12


def conformal_quantile(
    scores: np.ndarray, coverage: float, mass: np.ndarray | None = None, own: float | None = None
) -> float:
    """Smallest score that leaves a new row covered with the probability ``coverage``.

    Parameters
    ----------
    scores : ndarray of shape (n,)
    coverage : float
    mass : ndarray of shape (n,), optional
        Weight of each score; ones without it.
    own : float, optional
        Weight of the new row, whose score counts as infinite; the largest of ``mass`` without it.

    Returns
    -------
    float
        With equal weights the ``ceil((n + 1) coverage)``-th smallest score; infinite if there are
        too few.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.conformal.thresholds import conformal_quantile
    >>> conformal_quantile(np.arange(1.0, 10.0), 0.9)  # the 9th of 9, for ceil(10 * 0.9) = 9
    9.0
    >>> conformal_quantile(np.arange(1.0, 9.0), 0.9)
    inf
    """
    if len(scores) == 0:
        return math.inf
    mass = np.ones(len(scores)) if mass is None else mass
    order = np.argsort(scores, kind="stable")
    total = mass.sum() + (mass.max() if own is None else own)
    place = np.searchsorted(np.cumsum(mass[order]), coverage * total * (1 - _SLACK), "left")
    return float(scores[order[place]]) if place < len(scores) else math.inf


@dataclass(frozen=True)
class Conformal:
    """Scores of rows that the model did not learn from, with what each row had.

    Thresholds are Mondrian: every availability pattern, within every stratum where strata were
    given, has a quantile of its own. ``source`` says where the quantile of a row comes from, and
    the guarantee follows from it.

    ``"own"``
        Rows of the same pattern and stratum, at least ``min_rows`` of them and enough for the
        coverage. On held-out rows: if these and the new row are exchangeable, its chance to be
        covered is at least ``coverage``, and at most ``1 / (n + 1)`` more where scores have no
        ties, whatever the model.
    ``"hidden"``
        These, and rows of the stratum that had more, with the rest hidden. The same guarantee, if
        what is missing has nothing to do with outcome and values (Zaffran and others 2023);
        otherwise approximate.
    ``"either"``
        Of a rare stratum: the larger of the threshold of the pattern over all strata and that of
        the stratum over all patterns. For an unknown stratum: the largest of the known strata
        under this pattern. No guarantee for the cell.
    ``"pooled"``
        Rows with at most as much present, whose scores are larger as a rule. No guarantee for
        the pattern.
    ``"largest"``
        The largest threshold of a pattern that has enough rows, among them that of rows with
        nothing present. No guarantee, and usually far too much.
    ``"all"``
        All rows, where no pattern has enough; infinite if they are too few.

    Out-of-fold scores come from the models of the folds, and the new row is judged by the model of
    all rows. Then nothing is guaranteed without assumptions: coverage is that of the folds'
    models, and close to nominal where leaving out a fold changes the model little (Barber, Candes,
    Ramdas and Tibshirani 2021). Calibration rows of a fold with few rows make sets too large rather
    than too small.

    Attributes
    ----------
    origin : {"out-of-fold", "held-out"}
    values : ndarray of shape (N, d)
        What scores are computed from.
    pattern : ndarray of shape (N, M), bool
    hidden : ndarray of shape (N,), bool
        Whether modalities were hidden in the entry; a row may have several entries.
    weight : ndarray of shape (N,)
    unit : ndarray of shape (N,), int64
        Row, or group where groups were given.
    grouped : bool
        Every group then counts once in each cell, its rows sharing the weight (Dunn, Wasserman and
        Ramdas 2022), and the guarantee is for a random row of a new group.
    stratum : ndarray of shape (N,), int64
        Place in ``strata``; -1 without strata.
    strata : tuple of str
    by : str or None
        Name of the column.
    min_rows : int

    References
    ----------
    Vovk, Gammerman and Shafer (2005), "Algorithmic learning in a random world", on Mondrian
    predictors; Zaffran, Dieuleveut, Josse and Romano (2023), "Conformal prediction with missing
    values", on hiding; Barber and others (2021), "Predictive inference with the jackknife+".
    """

    origin: str
    values: np.ndarray
    pattern: np.ndarray
    hidden: np.ndarray
    weight: np.ndarray
    unit: np.ndarray
    grouped: bool
    stratum: np.ndarray
    strata: tuple[str, ...] = ()
    by: str | None = None
    min_rows: int = 30

    def codes(self, strata: Strata | None, n_rows: int, caller: str) -> np.ndarray:
        """Place of the stratum of new rows (n,): -1 without strata, -2 for an unknown one.

        Raises
        ------
        ValueError
            If the model was not calibrated by strata, or by another column.
        """
        if strata is None:
            return np.full(n_rows, -1)
        if not self.strata:
            raise ValueError(
                f"{caller}: by is given, and the model was not calibrated by strata; call "
                "conformalize(X_cal, y_cal, by=...) with the same column first."
            )
        if self.by is not None and strata.name is not None and self.by != strata.name:
            raise ValueError(
                f"{caller}: by is the column {strata.name!r}, and the model was calibrated by "
                f"{self.by!r}; give that column."
            )
        codes = pd.Index(self.strata).get_indexer(pd.Index(strata.labels))
        return np.where(codes < 0, -2, codes)

    def thresholds(
        self, scores: np.ndarray, coverage: float, present: np.ndarray, stratum: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Threshold and its source for new rows.

        Parameters
        ----------
        scores : ndarray of shape (N,)
            Of the entries, from ``values``.
        coverage : float
        present : ndarray of shape (n, M), bool
        stratum : ndarray of shape (n,)
            From `codes`.

        Returns
        -------
        threshold : ndarray of shape (n,)
        source : ndarray of shape (n,), str
            One of `SOURCES`.
        """
        finder = _Finder(self, scores, coverage)
        out, source = np.full(len(present), np.inf), np.full(len(present), "all", dtype="U8")
        keys = np.column_stack([present.astype(np.int64), stratum])
        cells, place = np.unique(keys, axis=0, return_inverse=True)
        for c, cell in enumerate(cells):
            rows = place.reshape(-1) == c
            out[rows], source[rows] = finder.find(cell[:-1].astype(bool), int(cell[-1]))
        return out, source

    def table(self, scores: np.ndarray, coverage: float, names: tuple[str, ...]) -> pd.DataFrame:
        """One line per pattern and stratum with entries: rows, threshold, source."""
        finder = _Finder(self, scores, coverage)
        lines = []
        for pattern in np.unique(self.pattern, axis=0)[::-1]:
            entries = (self.pattern == pattern).all(axis=1)
            for code in range(len(self.strata)) if self.strata else [-1]:
                cell = entries & ((self.stratum == code) | (code < 0))
                threshold, source = finder.find(pattern, code)
                line: dict[str, Any] = {"pattern": name_pattern(pattern, names)}
                if self.strata:
                    line[self.by or "stratum"] = self.strata[code]
                own, more = cell & ~self.hidden, cell & self.hidden
                lines.append(
                    line
                    | {
                        "rows": len(np.unique(self.unit[own])),
                        "hidden_rows": len(np.unique(self.unit[more])),
                        "threshold": threshold,
                        "source": source,
                    }
                )
        return pd.DataFrame(lines)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is saved as tensors."""
        return {
            "values": self.values,
            "pattern": self.pattern,
            "hidden": self.hidden,
            "weight": self.weight,
            "unit": self.unit,
            "stratum": self.stratum,
        }

    def get_state(self) -> dict[str, Any]:
        """What is saved as JSON."""
        return {
            "origin": self.origin,
            "grouped": self.grouped,
            "strata": list(self.strata),
            "by": self.by,
            "min_rows": self.min_rows,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Conformal:
        """Build from ``get_state()`` and ``arrays()``."""
        return cls(**{**state, "strata": tuple(state["strata"])}, **arrays)

    @classmethod
    def gather(
        cls,
        origin: str,
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]],
        weight: np.ndarray,
        groups: np.ndarray | None,
        strata: Strata | None = None,
        min_rows: int = 30,
    ) -> Conformal:
        """Build from parts: values (r, d), pattern (r, M), row numbers (r,), whether hidden."""
        n_rows = len(weight)
        unit = np.arange(n_rows) if groups is None else np.unique(groups, return_inverse=True)[1]
        names, codes = (
            ([], np.full(n_rows, -1))
            if strata is None
            else np.unique(strata.labels, return_inverse=True)
        )
        parts = [p for p in parts if len(p[2])] or parts[:1]
        rows = np.concatenate([p[2] for p in parts])
        made = cls(
            origin,
            np.concatenate([p[0] for p in parts]).astype(np.float64),
            np.concatenate([p[1] for p in parts]).astype(bool),
            np.repeat([p[3] for p in parts], [len(p[2]) for p in parts]).astype(bool),
            weight[rows].astype(np.float64),
            unit[rows].astype(np.int64),
            groups is not None,
            codes[rows].astype(np.int64),
            tuple(map(str, names)),
            None if strata is None else strata.name,
            min_rows,
        )
        kept = made.weight > 0
        return replace(made, **{name: array[kept] for name, array in made.arrays().items()})


class _Finder:
    """Thresholds of cells at one coverage, each computed once."""

    def __init__(self, store: Conformal, scores: np.ndarray, coverage: float) -> None:
        self.store, self.scores, self.coverage = store, scores, coverage
        self.found: dict[tuple, tuple[float, str]] = {}

    def find(self, pattern: np.ndarray, code: int) -> tuple[float, str]:
        """Threshold and source of a cell; code -1 is any stratum, -2 one that is unknown."""
        key = (*pattern.tolist(), code)
        if key not in self.found:
            self.found[key] = self._find(pattern, code)
        return self.found[key]

    def _find(self, pattern: np.ndarray, code: int) -> tuple[float, str]:
        store = self.store
        same = (store.pattern == pattern).all(axis=1)
        if code == -2:
            cells = [self.find(pattern, s)[0] for s in range(len(store.strata))]
            return max([self.find(pattern, -1)[0], *cells]), "either"
        inside = same if code < 0 else same & (store.stratum == code)
        for rows, source in ((inside & ~store.hidden, "own"), (inside, "hidden")):
            threshold = self._quantile(rows)
            if threshold is not None:
                return threshold, source
        if code >= 0:
            apart = self._quantile((store.stratum == code) & ~store.hidden)
            pooled, source = self.find(pattern, -1)
            return (pooled, source) if apart is None else (max(pooled, apart), "either")
        at_most = (store.pattern <= pattern).all(axis=1) & store.pattern.any(axis=1)
        threshold = self._quantile(at_most)
        if threshold is not None:
            return threshold, "pooled"
        return self._last_resort()

    def _last_resort(self) -> tuple[float, str]:
        store = self.store
        known = [
            self._quantile((store.pattern == p).all(axis=1))
            for p in np.unique(store.pattern, axis=0)
        ]
        enough = [threshold for threshold in known if threshold is not None]
        if enough:
            return max(enough), "largest"
        rows = ~store.hidden
        return conformal_quantile(self.scores[rows], self.coverage, *self._mass(rows)), "all"

    def _quantile(self, rows: np.ndarray) -> float | None:
        """Conformal quantile of some entries, or None where they are too few."""
        if not rows.any():
            return None
        mass, own = self._mass(rows)
        count = mass.sum() / own
        if count < self.store.min_rows - 1e-9 or count / (count + 1) < self.coverage - _SLACK:
            return None
        return conformal_quantile(self.scores[rows], self.coverage, mass, own)

    def _mass(self, rows: np.ndarray) -> tuple[np.ndarray, float]:
        """Weights of entries, and that of a new row: of the heaviest unit."""
        weight, unit = self.store.weight[rows], self.store.unit[rows]
        if not self.store.grouped:
            return weight, float(weight.max()) if len(weight) else 1.0
        _, place = np.unique(unit, return_inverse=True)
        return weight / np.bincount(place, weights=weight)[place], 1.0


def patterns_to_hide(present: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Patterns, and the rows that can be brought to them by hiding some of what they have.

    Every pattern with up to six modalities, nothing present among them; beyond, those that occur,
    single modalities, all but one, and nothing.
    """
    count = present.shape[1]
    if count <= _EVERY_SUBSET:
        patterns = np.array(list(product([False, True], repeat=count)))
    else:
        one = np.eye(count, dtype=bool)
        none = np.zeros((1, count), dtype=bool)
        patterns = np.unique(np.concatenate([present, one, ~one, none]), axis=0)
    for pattern in patterns:
        more = (present >= pattern).all(axis=1) & (present != pattern).any(axis=1)
        if more.any():
            yield pattern, np.flatnonzero(more)


def name_pattern(pattern: np.ndarray, names: tuple[str, ...]) -> str:
    """Names of what is present, joined by " + "; "nothing" where nothing is."""
    return " + ".join(n for n, there in zip(names, pattern, strict=True) if there) or "nothing"


def check_coverage(coverage: Any, caller: str) -> float:
    """The coverage, if it is a number between 0 and 1."""
    number = isinstance(coverage, Real) and not isinstance(coverage, (bool, np.bool_))
    if not number or not 0 < coverage < 1:
        raise ValueError(f"{caller}: coverage must be between 0 and 1; got {coverage!r}.")
    return float(coverage)


def check_min_rows(min_rows: Any, caller: str) -> int:
    """The least number of rows of a cell, if it is a whole number above 0."""
    if not isinstance(min_rows, Integral) or isinstance(min_rows, bool) or min_rows < 1:
        raise ValueError(f"{caller}: min_rows must be an integer of at least 1; got {min_rows!r}.")
    return int(min_rows)
