"""The contract of an encoder, as checks that anybody can run on an encoder of their own."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone

from mmfuse.encoders._modules import clear_modules
from mmfuse.encoders.base import BaseEncoder
from mmfuse.testing._run import Check, demand, demand_close, demand_raises, run_checks
from mmfuse.testing.encoder_gaps import GAP_CHECKS
from mmfuse.testing.encoder_subject import EncoderSubject
from mmfuse.testing.sklearn_api import SKLEARN_CHECKS

__all__ = ["ENCODER_CHECKS", "EncoderSubject", "check_encoder"]

_LEAST_SAMPLES = 3
_WRONG = {
    "batch_size": 0,
    "n_jobs": 1.5,
    "on_error": "ignore",
    "verbose": -1,
    "cache": 3,
    "device": 0,
}


def check_encoder(
    encoder: BaseEncoder, samples: Sequence[Any], *, broken: Any = None, reads_files: bool = False
) -> None:
    """Check that an encoder keeps every contract, those of scikit-learn among them.

    Parameters
    ----------
    encoder : BaseEncoder
        Quick to run; it is cloned and not changed.
    samples : sequence
        Different cells that are all present, three or more.
    broken : object, optional
        A cell that cannot be encoded. Without one the checks of errors are left out.
    reads_files : bool, default=False
        Whether a cell may be the path of a file, so that messages must name it. `broken` is then
        the path (pathlib.Path) of a broken file.

    Raises
    ------
    AssertionError
        Names each check that failed and the contract that is broken.
    ValueError
        If there are fewer than three samples.

    Notes
    -----
    `ENCODER_CHECKS` and `SKLEARN_CHECKS` hold the checks by name, to run one at a time (on an
    `EncoderSubject`), as with ``pytest.mark.parametrize``.

    Examples
    --------
    >>> from mmfuse.encoders import NumericEncoder
    >>> from mmfuse.testing import check_encoder
    >>> check_encoder(NumericEncoder(), [{"age": 31}, {"age": 42}, {"age": 5}])
    """
    samples = list(samples)
    if len(samples) < _LEAST_SAMPLES:
        raise ValueError(
            f"check_encoder: samples must be at least {_LEAST_SAMPLES} different cells, "
            f"got {len(samples)}."
        )
    with tempfile.TemporaryDirectory(prefix="mmfuse-check-") as folder:
        subject = EncoderSubject(encoder, samples, broken, reads_files, Path(folder))
        run_checks({**ENCODER_CHECKS, **SKLEARN_CHECKS}, subject, who=type(encoder).__name__)


def check_output(subject: EncoderSubject) -> None:
    """float32, a row per sample, no warnings; different samples give different rows."""
    encoder = subject.fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = encoder.transform(subject.samples)
    n, width = len(subject.samples), encoder.n_features_out_
    demand(isinstance(values, np.ndarray), f"transform must give an ndarray, got {type(values)}")
    demand(values.dtype == np.float32, f"values must be float32, got {values.dtype}")
    demand(
        values.shape == (n, width),
        f"values must have shape (n_samples, n_features_out_) = {(n, width)}, got {values.shape}",
    )
    demand(not np.isinf(values).any(), "values must be finite, or NaN for what is missing")
    demand(
        len({row.tobytes() for row in values}) == n,
        "different samples must give different vectors",
    )


def check_feature_names(subject: EncoderSubject) -> None:
    """One name per feature, all different, that opens with the modality."""
    encoder = subject.fitted()
    names = encoder.get_feature_names_out()
    demand(
        names.dtype == object and names.shape == (encoder.n_features_out_,),
        "get_feature_names_out must give an object array of n_features_out_ names",
    )
    demand(len(set(names)) == len(names), "names of features must differ")
    demand(
        all(name.startswith(f"{encoder.modality}_") for name in names),
        f"names of features must begin with the modality, {encoder.modality!r}",
    )


def check_invariance(subject: EncoderSubject) -> None:
    """Order, repeated samples, batch size, workers and the cache never change a vector."""
    samples, expected = subject.samples, subject.vectors()
    rows = np.array([1, 0, 2, 2, *range(len(samples))[::-1]])
    column = [samples[row] for row in rows]
    for what, params in (
        ("one by one", {"batch_size": 1, "n_jobs": 1}),
        ("in batches of 3 with 4 workers", {"batch_size": 3, "n_jobs": 4}),
        ("in one batch", {"batch_size": 64, "cache": subject.folder}),
        ("from the cache", {"batch_size": 2, "cache": subject.folder}),
    ):
        demand_close(
            subject.fitted(**params).transform(column),
            expected[rows],
            "order, repetition, batch size, workers and the cache must not change a vector; "
            f"another order, {what}",
        )


def check_repeatable(subject: EncoderSubject) -> None:
    """Encoding twice gives the same vectors, and leaves the caller's random numbers alone."""
    clear_modules()  # loading counts too
    state, torch_state = np.random.get_state(), torch.get_rng_state()
    try:
        torch.manual_seed(3)
        np.random.seed(3)
        before = torch.get_rng_state(), np.random.get_state()[1].copy()
        first = subject.vectors()
        touched = not torch.equal(torch.get_rng_state(), before[0])
        touched = touched or (np.random.get_state()[1] != before[1]).any()
        torch.manual_seed(4)
        np.random.seed(4)
        second = subject.vectors()
    finally:
        np.random.set_state(state)
        torch.set_rng_state(torch_state)
    demand_close(
        second, first, "the same samples must give the same vectors, whatever the global seeds"
    )
    demand(not touched, "encoding must leave the global random generators as they were")


def check_containers(subject: EncoderSubject) -> None:
    """A list, a tuple, an object array and a Series of the same cells give the same."""
    encoder, expected = subject.fitted(), subject.vectors()
    column = np.empty(len(subject.samples), dtype=object)
    for i, sample in enumerate(subject.samples):
        column[i] = sample
    series = pd.Series(column, index=[f"row {i}" for i in range(len(column))])
    for given in (column, tuple(subject.samples), series):
        demand_close(
            encoder.transform(given),
            expected,
            f"a column given as {type(given).__name__} must encode like a list",
        )


def check_no_column(subject: EncoderSubject) -> None:
    """What is no column of cells is a TypeError that opens with the encoder's name."""
    name = type(subject.encoder).__name__
    encoder = subject.fitted()
    for column in ("one text", {"a": 1}, 3, None, np.float64(1)):
        what = f"transform({column!r}) must raise a TypeError that names {name}"
        error = demand_raises(TypeError, lambda column=column: encoder.transform(column), what)
        demand(f"{name} " in str(error), f"{what}; it says {str(error)!r}")


def check_bad_parameters(subject: EncoderSubject) -> None:
    """`fit` refuses arguments that are not allowed, and says which and what came."""
    name = type(subject.encoder).__name__
    for argument, value in _WRONG.items():
        if argument not in subject.encoder.get_params():
            continue
        encoder = clone(subject.encoder).set_params(**{argument: value})
        what = f"fit with {argument}={value!r} must raise an error that names the argument"
        error = demand_raises(
            (ValueError, TypeError), lambda encoder=encoder: encoder.fit(subject.samples), what
        )
        said = str(error)
        demand(
            f"{name}: {argument} must be" in said and "got " in said,
            f"{what}, what is allowed and what came; it says {said!r}",
        )


def check_unchanged(subject: EncoderSubject) -> None:
    """`transform` changes neither the encoder nor the samples."""
    encoder = subject.fitted()
    before, samples = deepcopy(vars(encoder)), deepcopy(subject.samples)
    encoder.transform(subject.samples)
    encoder.get_feature_names_out()
    after = vars(encoder)
    changed = sorted(before.keys() ^ after.keys())
    changed += [name for name in before if name in after and not _same(before[name], after[name])]
    demand(not changed, f"transform must not change the encoder; it changed {changed}")
    same = all(map(_same, samples, subject.samples))
    demand(same, "transform must not change the samples in place")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        kinds = getattr(one, "dtype", None), getattr(other, "dtype", None)
        numeric = all(kind is not None and kind.kind in "biufc" for kind in kinds)
        return bool(np.array_equal(one, other, equal_nan=numeric))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return torch.equal(one, other)
    if hasattr(one, "tobytes"):  # a picture of PIL
        return one.tobytes() == other.tobytes()
    if isinstance(one, (pd.Series, pd.DataFrame)):
        return one.equals(other)
    return one is other or bool(one == other) or (one != one and other != other)


def check_state(subject: EncoderSubject) -> None:
    """`get_state` is JSON, and a clone that takes it over encodes the same."""
    encoder = subject.fitted()
    try:
        state = json.loads(json.dumps(encoder.get_state()))
    except (TypeError, ValueError) as exc:
        raise AssertionError(f"get_state must give what JSON can hold ({exc})") from exc
    other = clone(encoder).set_state(state)
    demand_close(
        other.transform(subject.samples),
        encoder.transform(subject.samples),
        "a clone with set_state(get_state()) must encode the same",
        within=0,
    )
    demand(
        list(other.get_feature_names_out()) == list(encoder.get_feature_names_out()),
        "a clone with set_state(get_state()) must have the same names of features",
    )


def check_module(subject: EncoderSubject) -> None:
    """The module, over collated samples, gives what `transform` gives; it is in eval mode."""
    encoder = subject.fitted()
    module = encoder.module()
    demand(
        isinstance(module, torch.nn.Module) and not module.training,
        "module() must return a torch module in evaluation mode",
    )
    digest = encoder.weights_hash()
    demand(
        digest is None or (len(digest) == 64 and int(digest, 16) >= 0),
        "weights_hash() must be None or the 64 hexadecimal digits of a SHA-256",
    )
    batch = encoder.collate([encoder.preprocess(sample) for sample in subject.samples])
    with torch.no_grad():
        values = module(batch).cpu().numpy()
    demand_close(
        values,
        encoder.transform(subject.samples),
        "module(collate(preprocessed samples)) must be what transform gives",
    )


def check_progress(subject: EncoderSubject) -> None:
    """Silent with verbose=0; with verbose=1 a bar names the column."""
    if "verbose" not in subject.encoder.get_params():
        return
    for verbose in (0, 1):
        with redirect_stderr(StringIO()) as shown:
            subject.fitted(verbose=verbose).encode(subject.samples, name="visits")
        said = "visits" in shown.getvalue()
        demand(said or not verbose, "with verbose=1 a progress bar must name the column")
        demand(not said or verbose, "encoding must be silent with verbose=0")


ENCODER_CHECKS: dict[str, Check] = {
    "output": check_output,
    "feature_names": check_feature_names,
    "invariance": check_invariance,
    "repeatable": check_repeatable,
    "containers": check_containers,
    "no_column": check_no_column,
    "bad_parameters": check_bad_parameters,
    "unchanged": check_unchanged,
    "state": check_state,
    "module": check_module,
    "progress": check_progress,
    **GAP_CHECKS,
}
"""Checks of the contract of encoders, by name."""
