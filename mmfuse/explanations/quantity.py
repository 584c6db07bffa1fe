"""What is explained: a number that the calibrated model answers, as a function of its scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import is_classifier

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Quantity", "make_quantity"]

_CLASS_OUTPUTS = ("log_odds", "probability", "expected")


class Quantity:
    """A number per row and output, read from calibrated answers.

    Parameters
    ----------
    model : fitted FusionClassifier or FusionRegressor of one output
    kind : {"log_odds", "probability", "expected", "value"}
    columns : sequence of int
        Classes or targets that are explained.
    names : sequence
        Their labels.

    Attributes
    ----------
    by_scores : bool
        Whether `of_scores` gives it; if not, densities stand between and `predict` is asked.
    """

    def __init__(self, model: Any, kind: str, columns: Sequence[int], names: Sequence[Any]) -> None:
        self.model, self.kind = model, kind
        self.columns, self.names = list(columns), list(names)
        self.by_scores = kind != "value" or model.output_ == "point"

    @property
    def label(self) -> str:
        """The quantity in words, with its unit where it has one."""
        return {
            "log_odds": "log odds (nats)",
            "probability": "probability",
            "expected": "expected class",
            "value": f"predicted {getattr(self.model, 'point', 'mean')}"
            if not self.by_scores
            else "predicted value",
        }[self.kind]

    def of_scores(self, scores: Tensor, present: np.ndarray) -> Tensor:
        """From raw scores (r, C) and presence (r, M) to the quantity (r, K); differentiable."""
        import torch

        nothing = torch.as_tensor(~present.any(axis=1), device=scores.device)[:, None]
        scores = scores.double()
        if self.kind == "value":
            prior, scale = (
                torch.as_tensor(np.asarray(a, dtype=np.float64), device=scores.device)
                for a in (self.model.prior_, self.model.target_scale_)
            )
            return (prior + torch.where(nothing, 0.0, scores) * scale)[:, self.columns]
        logits = self._calibrated(scores, present)
        prior = torch.as_tensor(np.log(np.maximum(self.model.prior_, 1e-12)), device=scores.device)
        logits = torch.where(nothing, prior, logits)
        if self.kind == "log_odds":
            return torch.stack([_log_odds(logits, k) for k in self.columns], dim=1)
        proba = torch.softmax(logits, dim=1)
        if self.kind == "probability":
            return proba[:, self.columns]
        scale = torch.as_tensor(_scale_of(self.model), device=scores.device)
        return (proba @ scale)[:, None]

    def _calibrated(self, scores: Tensor, present: np.ndarray) -> Tensor:
        """Calibration is affine in the scores of a row, given what the row has."""
        import torch

        calibrator = self.model.calibrator_
        if calibrator is None:
            return scores
        slope = calibrator.slope(present)[:, None]
        shift = calibrator.transform(np.zeros(tuple(scores.shape)), present)
        place = {"device": scores.device, "dtype": torch.float64}
        return scores * torch.as_tensor(slope, **place) + torch.as_tensor(shift, **place)

    def predict(self, blocks: Any) -> np.ndarray:
        """The quantity (n, K) of rows whose answer is a density."""
        return np.asarray(self.model.predict(blocks), dtype=np.float64).reshape(len(blocks), -1)


def _log_odds(logits: Tensor, k: int) -> Tensor:
    import torch

    others = torch.cat([logits[:, :k], logits[:, k + 1 :]], dim=1)
    return logits[:, k] - torch.logsumexp(others, dim=1)


def _scale_of(model: Any) -> np.ndarray:
    """Numbers on the scale of ordered classes, as in ``predict_expected``."""
    if model.classes_.dtype.kind in "iuf":
        return model.classes_.astype(np.float64)
    return np.arange(len(model.classes_), dtype=np.float64)


def make_quantity(model: Any, output: str, classes: Any) -> Quantity:
    """The quantity that the arguments of `mmfuse.explain` ask for.

    Raises
    ------
    ValueError
        If the model has no such quantity or no such class.
    """
    if not is_classifier(model):
        if output not in ("auto", "value"):
            raise ValueError(
                f"explain: output must be 'auto' or 'value' for a regressor; got {output!r}."
            )
        if classes is not None:
            raise ValueError(f"explain: classes are of classifiers; got classes={classes!r}.")
        count = len(model.prior_) if model.output_ == "point" else 1
        names = ["value"] if count == 1 else list(range(count))
        return Quantity(model, "value", range(count), names)
    kind = "log_odds" if output == "auto" else output
    if kind not in _CLASS_OUTPUTS:
        raise ValueError(
            f"explain: output must be 'auto', {', '.join(map(repr, _CLASS_OUTPUTS))} for a "
            f"classifier; got {output!r}."
        )
    if kind == "expected":
        if model.head_.task != "ordinal":
            raise ValueError(
                "explain: output='expected' needs classes on a scale, and this model was fitted "
                "with target='nominal'; fit with target='ordinal', or take output='log_odds'."
            )
        if classes is not None:
            raise ValueError(
                "explain: output='expected' is one number for all classes; leave classes out, got "
                f"{classes!r}."
            )
        return Quantity(model, kind, [0], ["expected"])
    known = model.classes_.tolist()
    if classes is None:
        return Quantity(model, kind, range(len(known)), known)
    scalar = isinstance(classes, str) or np.ndim(classes) == 0
    asked = [classes] if scalar else list(classes)
    unknown = [one for one in asked if one not in known]
    if unknown or not asked:
        raise ValueError(
            f"explain: classes must be among {', '.join(map(repr, known))}; got "
            f"{unknown[0] if unknown else asked!r}."
        )
    return Quantity(model, kind, [known.index(one) for one in asked], asked)
