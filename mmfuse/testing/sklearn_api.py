"""scikit-learn's conventions for transformers, on a column of the encoder's own kind.

scikit-learn's data-driven checks feed a numeric matrix, which is no column of pictures; its checks
that need no data are run as they are.
"""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

from mmfuse.testing._run import Check, demand, demand_close, demand_raises

__all__ = ["SKLEARN_CHECKS"]

_MOST_PICKLED = 100_000  # bytes; weights are larger, what `fit` learns is smaller
_WITHOUT_DATA = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_do_not_raise_errors_in_init_or_set_param",
    "check_mixin_order",
    "check_valid_tag_types",
    "check_get_params_invariance",
    "check_set_params",
    "check_parameters_default_constructible",
)


def _without_data(name: str) -> Check:
    check = getattr(estimator_checks, name)

    def run(subject: Any) -> None:
        check(type(subject.encoder).__name__, clone(subject.encoder))

    run.__doc__ = f"scikit-learn's own {name}."
    return run


def check_parameters(subject: Any) -> None:
    """`clone`, `get_params` and `set_params` keep arguments as they are; all but one by name."""
    encoder = subject.encoder
    demand(clone(encoder).get_params() == encoder.get_params(), "clone must keep all parameters")
    for name, value in encoder.get_params().items():
        demand(
            getattr(encoder, name) is value, f"__init__ must store {name} untouched, under its name"
        )
    other = clone(encoder)
    demand(other.set_params(**encoder.get_params()) is other, "set_params must return self")
    spelled = list(inspect.signature(type(encoder)).parameters.values())
    demand(
        all(p.kind is p.KEYWORD_ONLY for p in spelled[1:]),
        "constructor arguments after the first must be keyword-only",
    )


def check_not_fitted(subject: Any) -> None:
    """Before `fit`, transform, encode and get_feature_names_out raise NotFittedError."""
    for call in ("transform", "encode"):
        demand_raises(
            NotFittedError,
            lambda call=call: getattr(clone(subject.encoder), call)(subject.samples),
            f"{call} before fit must raise NotFittedError",
        )
    demand_raises(
        NotFittedError,
        lambda: clone(subject.encoder).get_feature_names_out(),
        "get_feature_names_out before fit must raise NotFittedError",
    )


def check_fit(subject: Any) -> None:
    """`fit` returns self, sets `n_features_out_`, and leaves the parameters alone."""
    encoder = subject.unfitted()
    before = dict(encoder.get_params())
    demand(encoder.fit(subject.samples) is encoder, "fit must return self")
    demand(
        all(getattr(encoder, name) is value for name, value in before.items()),
        "fit must not change constructor arguments; keep what is learned in attributes "
        "that end in _",
    )
    width = getattr(encoder, "n_features_out_", None)
    demand(
        isinstance(width, (int, np.integer)) and width > 0,
        f"fit must set n_features_out_ to the width of the output, got {width!r}",
    )
    again = subject.fitted().fit_transform(subject.samples)
    demand_close(again, subject.vectors(), "fit_transform must give what fit, then transform gives")


def check_set_output(subject: Any) -> None:
    """`set_output(transform="pandas")` gives a frame with the names of the features."""
    encoder = subject.fitted().set_output(transform="pandas")
    frame = encoder.fit_transform(subject.samples)
    names = list(encoder.get_feature_names_out())
    demand(
        list(getattr(frame, "columns", [])) == names,
        "with set_output(transform='pandas') the columns must be get_feature_names_out()",
    )
    demand(len(frame) == len(subject.samples), "set_output must keep the number of rows")


def check_pickle(subject: Any) -> None:
    """A fitted encoder can be pickled, without its weights, and encodes the same afterwards."""
    encoder = subject.fitted()
    before = encoder.transform(subject.samples)
    data = pickle.dumps(encoder)
    demand(
        len(data) < _MOST_PICKLED,
        f"a pickle has {len(data)} bytes; the module must not be part of the pickled state",
    )
    after = pickle.loads(data).transform(subject.samples)
    demand_close(after, before, "an unpickled encoder must encode as before", within=0)


SKLEARN_CHECKS: dict[str, Check] = {
    **{
        f"sklearn_{name.removeprefix('check_')}": _without_data(name)
        for name in _WITHOUT_DATA
        if hasattr(estimator_checks, name)
    },
    "parameters": check_parameters,
    "not_fitted": check_not_fitted,
    "fit": check_fit,
    "set_output": check_set_output,
    "pickle": check_pickle,
}
"""Checks of any encoder as a scikit-learn transformer, by name."""
