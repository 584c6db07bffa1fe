"""Zero-shot classification of images from words alone: ConSE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmfuse import weights as packaged
from mmfuse._require import require
from mmfuse.encoders import _checks
from mmfuse.encoders._class_names import (
    check_class_names,
    check_templates,
    names_in_order,
    prompts,
)
from mmfuse.encoders._derived import DerivedEncoder
from mmfuse.encoders.image import ImageEncoder
from mmfuse.encoders.text import SentenceEncoder

__all__ = ["ConSEEncoder"]


class ConSEEncoder(DerivedEncoder):
    """Zero-shot logits of images by a convex combination of words (Norouzi et al. 2013).

    A classifier says which of its own classes a picture may be. The picture becomes the mean of
    the sentence vectors of the names of the ten likeliest, weighted by their probabilities, and is
    compared with the sentence vectors of the names that are asked for. Nothing is trained, no
    picture of the new classes is seen, and both networks come with packages (the extras ``image``
    and ``text``), so that this runs without a network.

    It knows of a new class what its name shares with the names of the old ones: good for kinds of
    animals or things, blind to what a photograph's classifier does not tell apart (digits, defects,
    moods). CLIP is better where its weights are at hand; see `CLIPZeroShotEncoder`.

    Parameters
    ----------
    class_names : list of str, or dict from label to str, optional
        A sorted list, where labels are the names themselves; else the name of each label. None
        gives the vector of the picture in the space of the sentences instead of logits.
    templates : str or list of str, default="{}"
        Texts with ``{}`` in place of a class name; a class is the mean over them.
    backbone, weights, image_size
        The classifier; see `ImageEncoder`.
    source_names : list of str, optional
        Names of the classifier's own classes, in their order. By default timm's names of
        ImageNet's, each with its synonyms.
    sentence_model : str or Path, default="all-MiniLM-L6-v2"
        See `SentenceEncoder`.
    n_top : int, default=10
        Number of the classifier's classes that count, as in the paper.
    scale : float, default=15
        Factor of the cosines.
    batch_size, device, on_error, cache, n_jobs, verbose
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int
        Number of classes, or the length of a sentence vector.

    Raises
    ------
    WeightsNotFoundError
        See `ImageEncoder` and `SentenceEncoder`.

    Notes
    -----
    What differs from the paper: a sentence encoder takes the place of word2vec, so that names of
    several words have vectors. A class may be asked for that the classifier knows; it gets no
    special treatment. The paper ranks classes and has no scale; here it turns cosines into logits.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import ConSEEncoder
    >>> pictures = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    >>> encoder = ConSEEncoder({0: "a wild animal", 1: "a piece of furniture"})
    >>> encoder.fit_transform(pictures).shape  # doctest: +SKIP
    (1, 2)
    """

    modality: ClassVar[str] = "image"
    libraries: ClassVar[tuple[str, ...]] = (
        *ImageEncoder.libraries,
        *SentenceEncoder.libraries,
    )

    def __init__(
        self,
        class_names: Sequence[str] | Mapping[Any, str] | None = None,
        *,
        templates: str | Sequence[str] = "{}",
        backbone: str = "tf_efficientnet_lite0",
        weights: str | Path = "auto",
        image_size: int | tuple[int, int] | None = None,
        source_names: Sequence[str] | None = None,
        sentence_model: str | Path = "all-MiniLM-L6-v2",
        n_top: int = 10,
        scale: float = 15.0,
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
        self.backbone = backbone
        self.weights = weights
        self.image_size = image_size
        self.source_names = source_names
        self.sentence_model = sentence_model
        self.n_top = n_top
        self.scale = scale

    def weights_hash(self) -> str:
        """Return one digest of the hashes of both networks."""
        both = (self._inner().weights_hash(), self._sentences().weights_hash())
        return packaged.text_hash("\n".join(both))

    def _check_params(self) -> None:
        super()._check_params()
        if self.class_names is not None:
            check_class_names(self, self.class_names)
        if not isinstance(self.templates, (str, list, tuple, np.ndarray)):
            raise TypeError(
                f"ConSEEncoder: templates must be a text with {{}} or a list of such texts, "
                f"got {self.templates!r}."
            )
        check_templates(self, self._templates())
        _checks.check_integer(self, "n_top", least=1)
        _checks.check_number(self, "scale", above=0)
        self._inner()._check_params()
        self._sentences()._check_params()

    def _width(self) -> int:
        known, wanted = len(self._source_names()), self._inner()._width()
        if known != wanted:
            raise ValueError(
                f"ConSEEncoder: source_names must name the {wanted} classes of {self.backbone}, "
                f"got {known}."
            )
        return self._sentences()._width() if self.class_names is None else len(self.class_names)

    def _feature_names(self) -> list[str]:
        if self.class_names is None:
            return super()._feature_names()
        return [f"{self.modality}_{name}" for name in names_in_order(self.class_names)]

    def _module_identity(self) -> dict[str, Any]:
        names = None if self.class_names is None else names_in_order(self.class_names)
        return {
            "class": "mmfuse.encoders.conse.ConSEEncoder",
            "image": self._inner()._module_identity(),
            "text": self._sentences()._module_identity(),
            "names": [names, self._templates(), self._source_names()],
            "numbers": [int(self.n_top), float(self.scale)],
        }

    def _templates(self) -> list[str]:
        return [self.templates] if isinstance(self.templates, str) else list(self.templates)

    def _source_names(self) -> list[str]:
        if self.source_names is not None:
            return [str(name) for name in self.source_names]
        data = require("timm.data", extra="image", caller="ConSEEncoder")
        subset = data.infer_imagenet_subset({"num_classes": self._inner()._width()})
        if subset is None:
            raise ValueError(
                f"ConSEEncoder: source_names must name the classes of {self.backbone}, which are "
                "not ImageNet's, got None."
            )
        return list(_names_of(subset))

    def _inner(self) -> ImageEncoder:
        return ImageEncoder(
            self.backbone,
            weights=self.weights,
            pooling="logits",
            image_size=self.image_size,
            **self._runtime(),
        )

    def _sentences(self) -> SentenceEncoder:
        return SentenceEncoder(self.sentence_model, **{**self._runtime(), "on_error": "raise"})

    def _build_last(self) -> nn.Module:
        sentences = self._sentences().fit([])
        source = torch.from_numpy(sentences.encode(self._source_names(), name="names").values)
        classes = None
        if self.class_names is not None:
            templates = self._templates()
            cells = [prompts(name, templates) for name in names_in_order(self.class_names)]
            classes = torch.from_numpy(sentences.encode(cells, name="class names").values)
        return _Words(source, classes, int(self.n_top), float(self.scale))


@lru_cache(maxsize=4)
def _names_of(subset: str) -> tuple[str, ...]:
    """Names of a subset of ImageNet's classes, each with its synonyms."""
    data = require("timm.data", extra="image", caller="ConSEEncoder")
    return tuple(data.ImageNetInfo(subset).label_descriptions())


class _Words(nn.Module):
    """The classifier's logits (n, n_source) -> logits (n, n_classes), or unit vectors (n, d)."""

    def __init__(self, source: Tensor, classes: Tensor | None, n_top: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("source", source)
        self.register_buffer("classes", classes)
        self.n_top, self.scale = min(n_top, len(source)), scale

    def forward(self, logits: Tensor) -> Tensor:
        top, index = logits.topk(self.n_top, dim=1)
        # the softmax over the top is the softmax over all, made to sum to 1
        mean = (top.softmax(dim=1)[:, :, None] * self.source[index]).sum(dim=1)
        vectors = normalize(mean, dim=1)
        return vectors if self.classes is None else self.scale * (vectors @ self.classes.T)
