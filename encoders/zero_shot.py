"""Zero-shot classification of images by CLIP: logits of classes that are given by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mmfuse.cache import EmbeddingCache, cache_folder
from mmfuse.encoders import _checks
from mmfuse.encoders._class_names import (
    check_class_names,
    check_templates,
    names_in_order,
    prompts,
)
from mmfuse.encoders._clip import open_clip
from mmfuse.encoders._derived import DerivedEncoder
from mmfuse.encoders.clip import CLIPEncoder, CLIPImageEncoder, CLIPTextEncoder

__all__ = ["CLIPZeroShotEncoder"]

_NAMED = {"simple": "SIMPLE_IMAGENET_TEMPLATES", "openai": "OPENAI_IMAGENET_TEMPLATES"}
_KEY = b"class weights, scale, bias"


class CLIPZeroShotEncoder(DerivedEncoder, CLIPEncoder):
    """Zero-shot logits of images (Radford et al. 2021), ready to be a prior.

    A class is the mean of the unit vectors of its prompts, scaled to unit length; a logit is the
    model's scale times the cosine of image and class (and plus the model's bias, where it was
    trained with one). The columns are classes in the order of the sorted labels, as in the
    ``classes_`` of an estimator, so that the block can be the ``prior`` of `LogitBiasFusion`.

    Class vectors are computed once and kept in the embedding cache. Image vectors are shared with
    a `CLIPImageEncoder` of the same model, so that both encoders of one column, and other class
    names, cost one pass over the pictures.

    Parameters
    ----------
    class_names : list of str, or dict from label to str
        A sorted list, where labels are the names themselves; else the name of each label.
    templates : str or list of str, default="simple"
        "simple" are the seven prompts for photographs that CLIP's authors chose of their eighty,
        and that Tip-Adapter uses; "openai" are all eighty. Else texts with ``{}`` in place of the
        name, such as ``"a photo of a {}, a type of pet."``.
    model, weights
        See `CLIPImageEncoder`.
    scale : float, optional
        Factor of the cosines. By default the model's own, about 100 for most.
    random_state : int, default=0
        Seed of random weights; used when `weights` is None only.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int
        Number of classes.

    Raises
    ------
    WeightsNotFoundError
        See `CLIPImageEncoder`.

    Notes
    -----
    An encoder makes one block of one modality. To have the prior and the features of the same
    pictures, give the table the column twice.

    Examples
    --------
    >>> from mmfuse import FusionClassifier
    >>> from mmfuse.encoders import CLIPImageEncoder, CLIPZeroShotEncoder
    >>> from mmfuse.heads import LogitBiasFusion
    >>> encoders = {
    ...     "prior": CLIPZeroShotEncoder(["cat", "dog"], templates="a photo of a {}."),
    ...     "image": CLIPImageEncoder(),
    ... }
    >>> model = FusionClassifier(LogitBiasFusion("prior"), encoders=encoders)
    >>> model.fit({"prior": files, "image": files}, y)  # doctest: +SKIP
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str],
        *,
        templates: str | Sequence[str] = "simple",
        model: str | Path = "ViT-B-32",
        weights: str | Path | None = "auto",
        scale: float | None = None,
        random_state: int = 0,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
        )
        self.class_names = class_names
        self.templates = templates
        self.model = model
        self.weights = weights
        self.scale = scale
        self.random_state = random_state

    def class_weights(self) -> np.ndarray:
        """Return the unit vectors of the classes.

        Returns
        -------
        ndarray of shape (n_classes, n_features), float32
        """
        return self.last().class_vectors.numpy().copy()

    def _templates(self) -> list[str]:
        if isinstance(self.templates, str):
            if self.templates in _NAMED:
                library = open_clip(type(self).__name__)
                return [make("{}") for make in getattr(library, _NAMED[self.templates])]
            return [self.templates]
        return list(self.templates)

    def _check_params(self) -> None:
        super()._check_params()
        check_class_names(self, self.class_names)
        if not isinstance(self.templates, (str, list, tuple, np.ndarray)):
            raise TypeError(
                f"{type(self).__name__}: templates must be 'simple', 'openai', a text with {{}} or "
                f"a list of such texts, got {self.templates!r}."
            )
        check_templates(self, self._templates())
        _checks.check_number(self, "scale", above=0, or_none=True)

    def _width(self) -> int:
        return len(self.class_names)

    def _feature_names(self) -> list[str]:
        return [f"{self.modality}_{name}" for name in names_in_order(self.class_names)]

    def _cache_params(self) -> dict[str, Any]:
        texts = {"class_names": names_in_order(self.class_names), "templates": self._templates()}
        return {**super()._cache_params(), **texts}

    def _named(self) -> dict[str, Any]:
        return {"model": self.model, "weights": self.weights, "random_state": self.random_state}

    def _inner(self) -> CLIPImageEncoder:
        return CLIPImageEncoder(**self._named(), **self._runtime())

    def _build_last(self) -> nn.Module:
        width = super()._width()
        kept = None
        if self.cache is False:
            kept = self._class_numbers()
        else:
            folder = cache_folder() if self.cache is True else Path(self.cache)
            with EmbeddingCache(folder, self.cache_config()) as cache:
                kept = cache.get_many([_KEY]).get(_KEY)
                if kept is None or kept.size != len(self.class_names) * width + 2:
                    kept = self._class_numbers()
                    cache.put_many([_KEY], [kept])
        scale = float(kept[-2]) if self.scale is None else float(self.scale)
        vectors = torch.from_numpy(np.array(kept[:-2], dtype=np.float32)).reshape(-1, width)
        return _Cosine(vectors, scale, float(kept[-1]))

    def _class_numbers(self) -> np.ndarray:
        """Class vectors, then the model's scale and bias, in one row."""
        runtime = {**self._runtime(), "cache": False, "on_error": "raise"}
        texts = CLIPTextEncoder(**self._named(), **runtime)
        templates = self._templates()
        # the vector of a list of texts is the scaled mean of their unit vectors
        cells = [prompts(name, templates) for name in names_in_order(self.class_names)]
        vectors = texts.fit(cells).encode(cells, name="class names").values
        model = self.clip()
        bias = getattr(model, "logit_bias", None)
        numbers = [model.logit_scale.exp().item(), 0.0 if bias is None else bias.item()]
        return np.concatenate([vectors.ravel(), np.float32(numbers)])


class _Cosine(nn.Module):
    """Unit vectors (n, d) -> logits (n, n_classes)."""

    def __init__(self, class_vectors: Tensor, scale: float, bias: float) -> None:
        super().__init__()
        self.register_buffer("class_vectors", class_vectors)
        self.scale, self.bias = scale, bias

    def forward(self, vectors: Tensor) -> Tensor:
        return self.scale * (vectors @ self.class_vectors.T) + self.bias
