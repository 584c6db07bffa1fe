"""Severity of depression and post-traumatic stress: totals of questionnaires as ordered bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mmfuse.metrics._checks import check_proba
from mmfuse.severity.scales import (
    PCL,
    PHQ8,
    SeverityScale,
    pcl_bands,
    phq8_bands,
    shift_bands,
)

__all__ = [
    "PCL",
    "PHQ8",
    "SeverityScale",
    "combined_risk",
    "expected_severity",
    "pcl_bands",
    "phq8_bands",
    "probability_at_least",
    "severity_table",
    "shift_bands",
]


def expected_severity(
    proba: ArrayLike, scale: SeverityScale, *, classes: ArrayLike | None = None
) -> np.ndarray:
    """Mean number of the band under the predicted probabilities, 0 for the least severe.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Probabilities.
    scale : SeverityScale
        `PHQ8`, `PCL` or another.
    classes : array-like of shape (n_classes,), default=None
        Band of each column, by name or number, as in ``classes_`` of a model. None takes all bands
        of the scale. A band that training lacked keeps its place, unlike in ``predict_expected``,
        which knows the classes of training only.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If ``proba`` does not hold probabilities, or a class is no band of the scale.

    Examples
    --------
    >>> from mmfuse.severity.bands import PHQ8, expected_severity
    >>> expected_severity([[0.5, 0.5]], PHQ8, classes=["mild", "severe"]).tolist()
    [2.5]
    """
    values, places = _placed(proba, scale, classes, "expected_severity")
    return values @ places


def probability_at_least(
    proba: ArrayLike, band: Any, scale: SeverityScale, *, classes: ArrayLike | None = None
) -> np.ndarray:
    """Probability of a band or a more severe one.

    Parameters
    ----------
    proba, scale, classes
        As in `expected_severity`.
    band : str or int
        Such as ``"moderate"``.

    Returns
    -------
    ndarray of shape (n_samples,)
        Between 0 and 1.

    Raises
    ------
    ValueError
        As for `expected_severity`, and for an unknown band.

    Examples
    --------
    >>> from mmfuse.severity.bands import PHQ8, probability_at_least
    >>> probability_at_least([[0.5, 0.2, 0.1, 0.1, 0.1]], "moderate", PHQ8).round(3).tolist()
    [0.3]
    """
    lowest = scale.place(band)
    values, places = _placed(proba, scale, classes, "probability_at_least")
    return np.clip(values[:, places >= lowest].sum(axis=1), 0.0, 1.0)


def severity_table(model: Any, X: Any, scales: Any, *, at_least: Any = "moderate") -> pd.DataFrame:
    """What a fitted model says of every person: band, expected severity, probabilities.

    Parameters
    ----------
    model : FusionClassifier
        Fitted on bands of one scale, or of several in the columns of y.
    X : ModalityTable or what the model takes
        n rows.
    scales : SeverityScale, or dict of output to SeverityScale
        A dict, by the names of the columns of y, where there are several.
    at_least : str or int, default="moderate"
        Band of the probability of at least that.

    Returns
    -------
    DataFrame
        n rows, under the ids of ``X`` if it has them. Columns ``band`` (most probable),
        ``expected`` (see `expected_severity`), ``>= moderate`` and a probability for each band of
        the scale; 0 for one that training lacked. With several outputs these stand under the name
        of each.

    Raises
    ------
    ValueError
        If ``scales`` does not go with the outputs, or a class is no band of its scale.
    """
    probas = model.predict_proba(X)
    if not isinstance(model.classes_, list):
        if not isinstance(scales, SeverityScale):
            raise ValueError(
                f"severity_table: the model has one output; pass one SeverityScale, not {scales!r}."
            )
        return _one_table(probas, scales, model.classes_, at_least, _ids(X))
    names = list(model.output_names_)
    if not isinstance(scales, Mapping) or set(scales) != set(names):
        given = list(scales) if isinstance(scales, Mapping) else scales
        raise ValueError(
            f"severity_table: scales must be a dict with a SeverityScale for each of the outputs "
            f"{', '.join(map(repr, names))}; got {given!r}."
        )
    parts = {
        name: _one_table(proba, scales[name], classes, at_least, _ids(X))
        for name, proba, classes in zip(names, probas, model.classes_, strict=True)
    }
    return pd.concat(parts, axis=1)


def combined_risk(
    severities: Mapping[str, ArrayLike],
    scales: Mapping[str, SeverityScale],
    *,
    weights: Mapping[str, float] | None = None,
) -> np.ndarray:
    """One number from 0 to 100 over several scales, to order a waiting list by.

    ``100 * sum_d w_d * severity_d / (K_d - 1)`` with weights that sum to 1. It is a convention, not
    a probability.

    Parameters
    ----------
    severities : dict of str to array-like of shape (n,)
        Expected severities, or numbers of bands.
    scales : dict of str to SeverityScale
    weights : dict of str to float, default=None
        Not negative; they are divided by their sum. None weighs all scales alike.

    Returns
    -------
    ndarray of shape (n,)
        0 where all are least severe, 100 where all are most.

    Raises
    ------
    ValueError
        If names differ, a severity is out of the range of its scale, or a weight is negative.

    References
    ----------
    The triage helper of the code of arXiv 2510.20239, which weighs depression 0.6 and
    post-traumatic stress 0.4.

    Examples
    --------
    >>> from mmfuse.severity.bands import PCL, PHQ8, combined_risk
    >>> scales, weights = {"phq8": PHQ8, "pcl": PCL}, {"phq8": 0.6, "pcl": 0.4}
    >>> combined_risk({"phq8": [0, 4, 2], "pcl": [0, 2, 0]}, scales, weights=weights).tolist()
    [0.0, 100.0, 30.0]
    """
    share = dict.fromkeys(scales, 1.0) if weights is None else dict(weights)
    for what, given in (("severities", severities), ("weights", share)):
        if set(given) != set(scales):
            raise ValueError(
                f"combined_risk: {what} must have the keys of scales, "
                f"{', '.join(map(repr, scales))}; got {', '.join(map(repr, given))}."
            )
    total = sum(share.values())
    if min(share.values()) < 0 or not 0 < total < np.inf:
        raise ValueError(
            f"combined_risk: weights must not be negative, nor all zero; got {dict(share)}."
        )
    parts = []
    for name, scale in scales.items():
        values, top = np.asarray(severities[name], dtype=np.float64), len(scale.bands) - 1
        wrong = ~((values >= 0) & (values <= top))
        if values.ndim != 1 or wrong.any():
            row = int(np.flatnonzero(wrong)[0]) if values.ndim == 1 else 0
            raise ValueError(
                f"combined_risk: severities of {name!r} must be one number from 0 to {top} per "
                f"row; row {row} is {values[row] if values.ndim else values}."
            )
        parts.append(share[name] / total * values / top)
    if len({len(part) for part in parts}) > 1:
        raise ValueError(
            "combined_risk: severities must have one length; got "
            f"{', '.join(str(len(part)) for part in parts)}."
        )
    return 100.0 * np.sum(parts, axis=0)


def _placed(
    proba: ArrayLike, scale: SeverityScale, classes: ArrayLike | None, caller: str
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and the place of every column on the scale."""
    values, _ = check_proba(proba, caller)
    labels = list(scale.bands) if classes is None else np.asarray(classes).tolist()
    if len(labels) != values.shape[1]:
        raise ValueError(
            f"{caller}: proba has {values.shape[1]} columns for {len(labels)} bands; pass classes "
            "to say which column is which."
        )
    return values, np.array([scale.place(label) for label in labels])


def _one_table(
    proba: np.ndarray, scale: SeverityScale, classes: Any, at_least: Any, index: Any
) -> pd.DataFrame:
    values, places = _placed(proba, scale, classes, "severity_table")
    lowest = scale.bands[scale.place(at_least)]
    bands = pd.Categorical.from_codes(places[values.argmax(axis=1)], dtype=scale.dtype)
    table = pd.DataFrame({"band": bands, "expected": values @ places}, index=index)
    table[f">= {lowest}"] = probability_at_least(values, at_least, scale, classes=classes)
    for place, band in enumerate(scale.bands):
        table[band] = values[:, places == place].sum(axis=1)
    return table


def _ids(X: Any) -> Any:
    """The names of the rows of X, if it has any."""
    if isinstance(X, pd.DataFrame):
        return X.index
    ids = getattr(X, "ids", None)
    return None if ids is None else pd.Index(ids)
