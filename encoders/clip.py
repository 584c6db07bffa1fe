"""Images and texts through the two towers of a CLIP model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmfuse import weights as packaged
from mmfuse._device import resolve_device
from mmfuse.encoders import _checks
from mmfuse.encoders._clip import load_model, load_tokenizer, one_tower
from mmfuse.encoders._clip_files import describe, weight_file
from mmfuse.encoders._clip_source import SUFFIXES, ClipSource, open_clip
from mmfuse.encoders._modules import shared_module, state_hash
from mmfuse.encoders._pictures import read_picture
from mmfuse.encoders._stream import chunks
from mmfuse.encoders._transcripts import read_units
from mmfuse.encoders.base import BaseEncoder

__all__ = ["CLIPEncoder", "CLIPImageEncoder", "CLIPTextEncoder"]


class CLIPEncoder(BaseEncoder):
    """What the encoders of one CLIP model share: its name, its weights, its towers.

    The model is loaded once, whichever of its encoders needs it first.
    """

    libraries: ClassVar[tuple[str, ...]] = ("open-clip-torch", "torchvision", "pillow")

    model: str | Path
    weights: str | Path | None
    random_state: int

    def clip(self) -> Any:
        """Return the model, both towers, on the encoder's device."""
        device = resolve_device(self.device)
        key = ("open_clip", json.dumps(self._source_identity(), sort_keys=True), device)
        return shared_module(key, lambda: load_model(self._source()).eval().to(device))

    def weights_hash(self) -> str:
        """Return the SHA-256 of the weight file, or of the tensors where they are random."""
        path = weight_file(self._source())
        return state_hash(self.clip()) if path is None else packaged.file_hash(path)

    def _source(self) -> ClipSource:
        return ClipSource(type(self).__name__, self.model, self.weights, self.random_state)

    def _source_identity(self) -> dict[str, Any]:
        """Say which model this is by content, so that a copy elsewhere is the same one."""
        source = self._source()
        path, folder = weight_file(source), source.folder
        beside = [] if folder is None else sorted(folder.iterdir())  # a tokenizer, perhaps
        hashes = {
            file.name: packaged.file_hash(file)
            for file in beside
            if file.is_file() and file.suffix not in (*SUFFIXES, ".md")
        }
        return {
            "description": packaged.text_hash(json.dumps(describe(source), sort_keys=True)),
            "weights": self.random_state if path is None else packaged.file_hash(path),
            "files": hashes,
        }

    def _check_params(self) -> None:
        super()._check_params()
        _checks.check_integer(self, "random_state", least=0)
        self._source().check()

    def _width(self) -> int:
        return int(describe(self._source())["model_cfg"]["embed_dim"])

    def _cache_params(self) -> dict[str, Any]:
        named = ("model", "weights", "random_state")  # the identity says more
        return {k: v for k, v in super()._cache_params().items() if k not in named}

    def _module_identity(self) -> dict[str, Any]:
        return {**super()._module_identity(), "clip": self._source_identity()}


class CLIPImageEncoder(CLIPEncoder):
    """Image features of a CLIP model (Radford et al. 2021), through open_clip.

    Kinds of cells are those of `ImageEncoder`. The model's own preprocessing is applied: its size,
    its way of resizing, its mean and deviation.

    Parameters
    ----------
    model : str or Path, default="ViT-B-32"
        A model that open_clip knows (``open_clip.list_models()``), a folder that holds
        ``open_clip_config.json`` and the weights, or "hf-hub:owner/name".
    weights : str, Path or None, default="auto"
        For a model that open_clip knows, a tag of pretrained weights
        (``open_clip.list_pretrained()``); "auto" is "laion2b_s34b_b79k" for ViT-B-32, other models
        need a tag. For a folder or a repository "auto" takes the weights in it. A path names a
        file of tensors. None means random weights from `random_state`.
    normalize : bool, default=True
        Scale vectors to unit length.
    random_state : int, default=0
        Seed of random weights; used when `weights` is None only.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        When weights are not on this machine and cannot be fetched. Nothing is downloaded before
        the hub has answered once, within five seconds.

    Notes
    -----
    Weights that were trained with the activation QuickGELU get it, whether or not the model's name
    says so; open_clip itself only warns.

    `trainable` trains this encoder's tower alone, in a copy of its own. A `CLIPTextEncoder` of the
    same model keeps its weights, or learns others, and `CLIPZeroShotEncoder` stays as published.

    Examples
    --------
    >>> import numpy as np
    >>> from mmfuse.encoders import CLIPImageEncoder
    >>> pictures = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    >>> encoder = CLIPImageEncoder("ViT-B-32", weights="laion2b_s34b_b79k")
    >>> encoder.fit_transform(pictures).shape  # doctest: +SKIP
    (2, 512)
    """

    modality: ClassVar[str] = "image"

    def __init__(
        self,
        model: str | Path = "ViT-B-32",
        *,
        weights: str | Path | None = "auto",
        normalize: bool = True,
        random_state: int = 0,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            trainable=trainable,
        )
        self.model = model
        self.weights = weights
        self.normalize = normalize
        self.random_state = random_state

    def preprocess(self, sample: Any) -> Tensor:
        """Read one picture and apply the model's own transform.

        Returns
        -------
        Tensor of shape (3, height, width)
        """
        picture = read_picture(sample)
        module: Any = self.module()
        return module.transform(picture)

    def _check_params(self) -> None:
        super()._check_params()
        _checks.check_flag(self, "normalize")

    def _build_module(self) -> nn.Module:
        library = open_clip(type(self).__name__, "open_clip.transform")
        model = self.clip()
        config = library.PreprocessCfg(**model.visual.preprocess_cfg)
        transform = library.image_transform_v2(config, is_train=False)
        return _ImageTower(one_tower(model, "image"), transform, self.normalize)


class CLIPTextEncoder(CLIPEncoder):
    """Text features of a CLIP model (Radford et al. 2021), through open_clip.

    A cell is the text itself (str), a text file in UTF-8 (Path), or a list of sentences, whose
    vector is the mean of the vectors of the sentences. A text is cut at the model's context length,
    77 tokens for most. `trainable` trains the text tower alone, as in `CLIPImageEncoder`.

    Parameters
    ----------
    model, weights
        See `CLIPImageEncoder`.
    normalize : bool, default=True
        Scale vectors to unit length: those of sentences, and their mean.
    random_state : int, default=0
        Seed of random weights; used when `weights` is None only.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        See `CLIPImageEncoder`.

    Examples
    --------
    >>> from mmfuse.encoders import CLIPTextEncoder
    >>> captions = ["a cat on a sofa", "a street at night"]
    >>> encoder = CLIPTextEncoder("ViT-B-32", weights="laion2b_s34b_b79k")
    >>> encoder.fit_transform(captions).shape  # doctest: +SKIP
    (2, 512)
    """

    modality: ClassVar[str] = "text"
    text_cells: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("open-clip-torch", "transformers", "tokenizers")

    def __init__(
        self,
        model: str | Path = "ViT-B-32",
        *,
        weights: str | Path | None = "auto",
        normalize: bool = True,
        random_state: int = 0,
        batch_size: int = 32,
        device: str = "auto",
        on_error: str = "raise",
        cache: bool | str | Path = True,
        n_jobs: int = 2,
        verbose: int = 0,
        trainable: bool | str = False,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            device=device,
            on_error=on_error,
            cache=cache,
            n_jobs=n_jobs,
            verbose=verbose,
            trainable=trainable,
        )
        self.model = model
        self.weights = weights
        self.normalize = normalize
        self.random_state = random_state

    def preprocess(self, sample: Any) -> list[str] | None:
        """Return the sentences of one cell; None for a text without any character."""
        return read_units(sample) or None

    def collate(self, items: list[list[str]]) -> dict[str, Any]:
        """Tokenize a batch.

        Returns
        -------
        dict
            "chunks", a list of tokens (at most `batch_size`, context length) each; "owner", the
            cell (n_sentences,) of each sentence; "n", the number of cells.
        """
        module: Any = self.module()
        texts = [text for sentences in items for text in sentences]
        owner = [i for i, sentences in enumerate(items) for _ in sentences]
        parts = [module.tokenizer(part) for part in chunks(texts, self.batch_size)]
        return {"chunks": parts, "owner": torch.tensor(owner), "n": len(items)}

    def _check_params(self) -> None:
        super()._check_params()
        _checks.check_flag(self, "normalize")

    def _build_module(self) -> nn.Module:
        return _TextTower(
            one_tower(self.clip(), "text"), load_tokenizer(self._source()), self.normalize
        )


class _ImageTower(nn.Module):
    """(n, 3, height, width) -> (n, n_features)."""

    clip: Any

    def __init__(self, clip: nn.Module, transform: Any, unit_length: bool) -> None:
        super().__init__()
        self.clip, self.transform, self.unit_length = clip, transform, unit_length

    def forward(self, images: Tensor) -> Tensor:
        return self.clip.encode_image(images, normalize=self.unit_length)


class _TextTower(nn.Module):
    """Tokens of the sentences of n cells -> (n, n_features)."""

    clip: Any

    def __init__(self, clip: nn.Module, tokenizer: Any, unit_length: bool) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.unit_length = clip, tokenizer, unit_length

    def forward(self, batch: dict[str, Any]) -> Tensor:
        parts = [self.clip.encode_text(p, normalize=self.unit_length) for p in batch["chunks"]]
        vectors, owner = torch.cat(parts), batch["owner"]
        total = vectors.new_zeros((batch["n"], vectors.shape[1])).index_add(0, owner, vectors)
        mean = total / torch.bincount(owner, minlength=batch["n"])[:, None]
        return normalize(mean, dim=1) if self.unit_length else mean
