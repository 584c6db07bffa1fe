"""The encoder contract: raw column in, float32 block out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from mmfuse._device import resolve_device
from mmfuse._version import __version__
from mmfuse.encoders import _checks
from mmfuse.encoders._columns import as_cells, check_column, merge_states
from mmfuse.encoders._modules import shared_module
from mmfuse.encoders._run import Encoded, encode_cells
from mmfuse.encoders._tuned import TunedWeights, with_tuned

if TYPE_CHECKING:
    from typing import Self

__all__ = ["BaseEncoder", "Encoded"]

_RUNTIME = frozenset(
    {"batch_size", "device", "on_error", "cache", "n_jobs", "verbose", "trainable"}
)


class BaseEncoder(TransformerMixin, BaseEstimator):
    """Base of all encoders: a scikit-learn transformer for one modality.

    A subclass spells out its constructor arguments, keyword-only, stores them untouched, and
    writes `preprocess` (one raw sample to a tensor), `_build_module` (the torch module) and
    `_width` (the number of features). It may override `collate`, `_length`, `_check_params`,
    `weights_hash` and `_cache_params`. This class gives decoding threads, batching, the device,
    the progress bar, the cache on disk, and the choice between raising and marking errors. Batch
    size, order, repeated samples and workers never change a result.

    Parameters
    ----------
    batch_size : int, default=32
        Largest number of samples that pass the module together.
    device : str, default="auto"
        Torch device. "auto" takes a GPU where there is one.
    on_error : {"raise", "mark"}, default="raise"
        What to do about a sample that cannot be encoded: raise `EncodingError`, or mark its
        cell FAILED and warn once.
    cache : bool or str or Path, default=True
        Keep embeddings on disk: in the user's cache folder, in the folder that is named, or
        not at all (False).
    n_jobs : int, default=2
        Threads that read and decode samples.
    verbose : int, default=0
        Above 0, a progress bar is shown.
    trainable : bool, "head" or "lora", default=False
        Which weights `FusionClassifier` and `FusionRegressor` train: all of them (True), the last
        block and what follows it ("head"), low-rank adapters ("lora"), or none. See
        `mmfuse.FineTuning`. An encoder takes part where its constructor accepts the argument, its
        `module` is differentiable and the module of `_build_module` may be copied; by itself it
        learns nothing.

    Attributes
    ----------
    tuned_ : TunedWeights
        Weights of this encoder's own; only after fine-tuning.
    """

    modality: ClassVar[str] = ""
    """Name of the modality; it opens feature names and, by default, messages."""
    text_cells: ClassVar[bool] = False
    """Whether a str cell is the sample itself. If not, it is the path of a file."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Distributions that decode and preprocess; their versions are part of the cache key."""
    cpu_rows: ClassVar[int | None] = None
    """Largest number of samples that pass the module together on the CPU.

    Larger activations are given back to the system after each layer and asked for again."""
    cpu_room: ClassVar[int | None] = None
    """The same as a padded length, where items have one; those longer than half go alone."""
    batch_room: ClassVar[int | None] = None
    """Largest padded length of a batch (items times the longest), where items have a length."""
    nan_features: ClassVar[bool] = False
    """Whether single features may be NaN (not measured); a vector of NaN alone is ABSENT."""

    n_features_out_: int
    tuned_: TunedWeights

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "weights_hash" in vars(cls):
            cls.weights_hash = with_tuned(cls.weights_hash)  # type: ignore[method-assign]

    def __init__(
        self,
        *,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        self.batch_size = batch_size
        self.device = device
        self.on_error = on_error
        self.cache = cache
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.trainable = trainable

    # What a subclass writes.

    def preprocess(self, sample: Any) -> Any:
        """Decode one raw sample.

        Returns
        -------
        Tensor or None
            What `collate` takes; None for "looked and found nothing", which makes the cell EMPTY.

        Raises
        ------
        SampleError
            If the sample cannot be read.
        """
        raise NotImplementedError

    def _build_module(self) -> nn.Module:
        """Make or load the torch module, on the CPU."""
        raise NotImplementedError

    def _width(self) -> int:
        """Return the number of features, if possible without loading weights."""
        raise NotImplementedError

    # What a subclass may override.

    def collate(self, items: list[Any]) -> Any:
        """Make one batch of what `preprocess` returned. Stacks tensors."""
        return torch.stack(items)

    def _length(self, item: Any) -> int | None:
        """Return the length of a preprocessed sample where lengths differ, else None."""
        return None

    def _check_params(self) -> None:
        """Raise for a constructor argument that is not allowed."""
        _checks.check_integer(self, "batch_size", least=1)
        _checks.check_choice(self, "on_error", ("raise", "mark"))
        _checks.check_integer(self, "n_jobs", least=1)
        _checks.check_integer(self, "verbose", least=0)
        _checks.check_choice(self, "trainable", (True, False, "head", "lora"))
        if not isinstance(self.device, str):
            raise TypeError(
                f"{type(self).__name__}: device must be a string such as 'auto', 'cpu' or 'cuda', "
                f"got {self.device!r}."
            )
        if not isinstance(self.cache, (bool, str, Path)):
            raise TypeError(
                f"{type(self).__name__}: cache must be True, False or a folder, got {self.cache!r}."
            )

    def weights_hash(self) -> str | None:
        """Return a hex digest of the weights, or None where there are none."""
        return None

    def _cache_params(self) -> dict[str, Any]:
        """Return the arguments that a vector depends on, besides the weights."""
        return {k: v for k, v in self.get_params(deep=False).items() if k not in _RUNTIME}

    # The transformer.

    def fit(self, column: Any, y: Any = None) -> Self:
        """Check the arguments and set `n_features_out_`; nothing is learned.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row
        y : ignored

        Returns
        -------
        self
        """
        self._check_params()
        check_column(column, caller=type(self).__name__)
        self.n_features_out_ = self._width()
        return self

    def transform(self, column: Any) -> np.ndarray:
        """Encode a column.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row

        Returns
        -------
        ndarray of shape (n_samples, n_features_out), float32
            NaN rows where the cell is not PRESENT.

        Raises
        ------
        EncodingError
            If a sample cannot be encoded and ``on_error="raise"``.
        """
        return self.encode(column).values

    def encode(self, column: Any, presence: Any = None, *, name: str | None = None) -> Encoded:
        """Encode a column and say what became of each cell.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row
        presence : array-like of shape (n_samples,), optional
            Values of `Presence`. Only cells that are PRESENT here are encoded; the others keep
            this state.
        name : str, optional
            Name of the column, for messages and the progress bar. By default the modality.

        Returns
        -------
        Encoded

        Raises
        ------
        EncodingError
            If a sample cannot be encoded and ``on_error="raise"``. It names the column, the row
            and the file.
        """
        check_is_fitted(self)
        caller = type(self).__name__
        cells, states = as_cells(column, caller=caller)
        states = merge_states(states, presence, caller=caller)
        return encode_cells(self, cells, states, name or self.modality)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the output columns.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (n_features_out,), object
        """
        check_is_fitted(self)
        return np.asarray(self._feature_names(), dtype=object)

    def _feature_names(self) -> list[str]:
        digits = len(str(self.n_features_out_ - 1))
        return [f"{self.modality}_{i:0{digits}d}" for i in range(self.n_features_out_)]

    # Module, state, identity.

    def module(self) -> nn.Module:
        """Return the torch module in evaluation mode on the encoder's device.

        It is loaded when first asked for and shared by all encoders of the same configuration
        in this process: copy it before changing it. After fine-tuning it is the encoder's own.
        """
        device = resolve_device(self.device)
        tuned = vars(self).get("tuned_")
        if tuned is not None:
            return tuned.module(device, lambda: self._pretrained(device))
        return self._pretrained(device)

    def _pretrained(self, device: str) -> nn.Module:
        key = (json.dumps(self._module_identity(), sort_keys=True), device)
        return shared_module(key, lambda: self._build_module().eval().to(device))

    def _module_identity(self) -> dict[str, Any]:
        return {"class": _class_name(self), "params": _plain(self, self._cache_params())}

    def cache_config(self) -> dict[str, Any]:
        """Return all that a vector depends on besides the sample, as a JSON-able dict."""
        return {
            **self._module_identity(),
            "weights": self.weights_hash(),
            "mmfuse": __version__,
            "libraries": {name: _version(name) for name in self.libraries},
        }

    def get_state(self) -> dict[str, Any]:
        """Return what `fit` set, as a JSON-able dict."""
        check_is_fitted(self)
        return {"n_features_out": int(self.n_features_out_)}

    def set_state(self, state: Mapping[str, Any]) -> Self:
        """Take over what `get_state` returned; the encoder is then fitted."""
        self._check_params()
        self.n_features_out_ = int(state["n_features_out"])
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.no_validation = True
        return tags


def _class_name(encoder: BaseEncoder) -> str:
    return f"{type(encoder).__module__}.{type(encoder).__qualname__}"


@cache
def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # not needed for every kind of sample
        return None


def _plain(encoder: BaseEncoder, params: dict[str, Any]) -> dict[str, Any]:
    """Turn arguments into what JSON can hold, the same for equal arguments."""

    def convert(value: Any) -> Any:
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, (np.generic, np.ndarray)):
            return value.tolist()
        raise TypeError(
            f"{type(encoder).__name__}: an argument of type {type(value).__name__} cannot be part "
            "of a cache key; override _cache_params()."
        )

    return json.loads(json.dumps(params, default=convert))
