"""Contributions of what an encoder sees: pixels, mel frames, bands."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmfuse._device import resolve_device
from mmfuse.explanations.features import integrate
from mmfuse.explanations.quantity import Quantity, make_quantity
from mmfuse.multi_output import has_outputs
from mmfuse.presence import Presence
from mmfuse.report.shapley import shapley_values

__all__ = ["InputExplanation", "explain_bands", "explain_inputs"]

_EXACT_BANDS = 6  # 64 versions of a cutout; beyond, bands are taken away one at a time


@dataclass(frozen=True, eq=False, repr=False)
class InputExplanation:
    """Contributions of one modality's inputs, for some rows.

    Attributes
    ----------
    values : list of ndarray of shape (..., K)
        For each row, in the shape of what the encoder's module takes: (channels, height, width)
        for pictures, (mels, frames) for log-Mel spectra, (bands,) for bands. None where the
        modality is absent.
    base, prediction : ndarray of shape (n, K)
        The answer at the baseline, and as the row is.
    inputs : list of ndarray
        What was explained, as the module takes it; None where the modality is absent.
    axes : tuple of str
        Names of the axes of ``values``.
    names : tuple of str
        Names along the first axis where it has some, such as bands; else empty.
    outputs : tuple
    modality, method, quantity : str
    """

    values: list[np.ndarray | None]
    base: np.ndarray
    prediction: np.ndarray
    inputs: list[np.ndarray | None]
    axes: tuple[str, ...]
    names: tuple[str, ...]
    outputs: tuple[Any, ...]
    modality: str
    method: str
    quantity: str

    @property
    def gap(self) -> np.ndarray:
        """Prediction less base and contributions (n, K), zero where the modality is absent."""
        total = np.zeros_like(self.base)
        for row, value in enumerate(self.values):
            if value is not None:
                total[row] = value.reshape(-1, value.shape[-1]).sum(axis=0)
        return self.prediction - self.base - total

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return (
            f"InputExplanation by {self.method}: {len(self)} rows of {self.modality!r}, "
            f"{' x '.join(self.axes)} x {len(self.outputs)} outputs, {self.quantity}"
        )


def explain_inputs(
    model: Any,
    X: Any,
    modality: str,
    *,
    output: str = "auto",
    classes: Any = None,
    n_steps: int = 32,
    tolerance: float = 0.02,
) -> InputExplanation:
    """Integrated gradients down to what a modality's encoder sees, through encoder and head.

    Other modalities stay as they are. The path starts from a picture of the preprocessing's mean
    (zero once normalised), and for `LogMelEncoder` from a spectrum at its floor, ``top_db`` below
    the loudest point: silence.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted, of one output, with an encoder for the modality and a head with gradients.
    X : ModalityTable, DataFrame or dict of raw columns
        Few rows: each takes ``n_steps`` passes through the encoder and back for every output.
    modality : str
    output, classes
        As in `mmfuse.explain`.
    n_steps : int, default=32
        Doubled, up to four times, until contributions add up.
    tolerance : float, default=0.02
        How far they may miss the change of a row's answer, in units of that change.

    Returns
    -------
    InputExplanation

    Raises
    ------
    ValueError
        For an unknown modality, one without an encoder, or an encoder whose input is no tensor of
        numbers (text, measured photometry), which names what works; if contributions do not add
        up.
    ModuleNotFoundError
        If captum is missing; names ``pip install 'mmfuse[explain]'``.

    References
    ----------
    M. Sundararajan, A. Taly and Q. Yan, "Axiomatic attribution for deep networks", ICML 2017.
    """
    setup = _Setup(model, X, modality, output, classes, "explain_inputs")
    why_not = setup.no_gradient()
    if why_not:
        raise ValueError(f"explain_inputs: modality {modality!r} has no gradient, for {why_not}.")
    values, inputs = setup.empty(), setup.empty()
    base, prediction = setup.answers.copy(), setup.answers
    axes: tuple[str, ...] = ()
    for row in setup.rows:
        item, function, start, axes = setup.differentiable(row)
        arrays = integrate(
            function,
            (item,),
            (start,),
            (),
            len(setup.quantity.names),
            n_steps=n_steps,
            tolerance=tolerance,
            batch=setup.encoder.batch_size,
        )
        values[row] = np.stack([one[0][0] for one in arrays], axis=-1)
        inputs[row] = item[0].cpu().numpy()
        base[row] = function(start).detach().cpu().numpy()[0]
    return setup.result(values, inputs, base, prediction, axes, (), "gradients")


def explain_bands(
    model: Any, X: Any, modality: str, *, output: str = "auto", classes: Any = None
) -> InputExplanation:
    """What every band of a cutout adds, bands being taken away as if they were not observed.

    For `MultiBandEncoder` with any features, measured ones too, and any head. Up to six observed
    bands of a row share their worth as exact Shapley values, from the answer with the modality
    absent; with more, a band's contribution is the change of the answer on taking it away alone,
    which does not add up.

    Parameters
    ----------
    model : FusionClassifier or FusionRegressor
        Fitted, of one output.
    X : ModalityTable, DataFrame or dict of raw columns
    modality : str
        One that a `MultiBandEncoder` encodes.
    output, classes
        As in `mmfuse.explain`.

    Returns
    -------
    InputExplanation
        ``names`` are the bands; one that a row has not observed gets zero.

    Raises
    ------
    ValueError
        For an unknown modality, or one that another encoder encodes.
    """
    setup = _Setup(model, X, modality, output, classes, "explain_bands")
    encoder = setup.encoder
    if not hasattr(encoder, "grids_"):
        raise ValueError(
            f"explain_bands: modality {modality!r} is encoded by {type(encoder).__name__}, which "
            "has no bands; use MultiBandEncoder, or explain_inputs."
        )
    several = len(encoder.grids_) > 1
    names = tuple(
        f"{grid.name}: {band}" if several else str(band)
        for grid in encoder.grids_
        for band in grid.bands
    )
    values, inputs = setup.empty(), setup.empty()
    base, prediction = setup.answers.copy(), setup.answers
    exact = len(names) <= _EXACT_BANDS
    for row in setup.rows:
        item = encoder.preprocess(setup.cells[row])
        seen = _observed(item)
        inputs[row] = np.array(seen)
        values[row], base[row] = _band_values(setup, row, item, seen, exact)
    kind = "shapley" if exact else "occlusion"
    return setup.result(values, inputs, base, prediction, ("band",), names, kind)


def _to(batch: Any, device: str) -> Any:
    if isinstance(batch, dict):
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return batch.to(device) if hasattr(batch, "to") else batch


def _tensors(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else [item]


def _observed(item: Any) -> list[bool]:
    return [bool((~band.isnan()).any()) for tensor in _tensors(item) for band in tensor]


def _without(item: Any, kept: list[bool]) -> Any:
    """The cutout with the bands that are not kept NaN, as where nothing was observed."""
    new = copy.deepcopy(item)
    bands = (band for tensor in _tensors(new) for band in tensor)
    for band, keep in zip(bands, kept, strict=True):
        if not keep:
            band.fill_(float("nan"))
    return new


def _band_values(
    setup: _Setup, row: int, item: Any, seen: list[bool], exact: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Contributions (bands, K), and the answer without any of them (K,)."""
    place = np.flatnonzero(seen)
    count = len(place)
    if exact:
        masks = [[bool(mask >> i & 1) for i in range(count)] for mask in range(2**count)]
    else:
        masks = [[False] * count, [True] * count]
        masks += [[j != i for j in range(count)] for i in range(count)]
    items = []
    for mask in masks:
        kept = np.zeros(len(seen), dtype=bool)
        kept[place[mask]] = True
        items.append(_without(item, kept.tolist()))
    worth = setup.answer(row, items)
    values = np.zeros((len(seen), worth.shape[1]))
    values[place] = shapley_values(worth) if exact else worth[1] - worth[2:]
    return values, worth[0]


class _Setup:
    """The rows, the modality's encoder, and everything else of the rows held as it is."""

    def __init__(
        self, model: Any, X: Any, modality: str, output: str, classes: Any, caller: str
    ) -> None:
        if has_outputs(model):
            raise ValueError(
                f"{caller}: the model has several outputs; pass model.output(t), one at a time."
            )
        if modality not in model.modalities_:
            raise ValueError(
                f"{caller}: the model has no modality {modality!r}; it knows "
                f"{', '.join(model.modalities_)}."
            )
        if modality not in model.encoders_:
            raise ValueError(
                f"{caller}: modality {modality!r} has no encoder, so its inputs are its features; "
                "use explain(level='feature')."
            )
        self.model, self.modality = model, modality
        self.place = model.modalities_.index(modality)
        self.quantity: Quantity = make_quantity(model, output, classes)
        self.encoder = model.encoders_[modality]
        self.device = resolve_device(self.encoder.device)
        table = model._open(X, reset=False)
        if modality not in getattr(table, "modalities", ()):
            raise ValueError(
                f"{caller}: X has no raw column {modality!r}; pass the table, not Blocks of it."
            )
        self.cells = table[modality]
        self.blocks = model.encode(table)
        self.rows = np.flatnonzero(self.blocks.present[:, self.place])
        self.answers = self._quantity_of(self.blocks)

    def _quantity_of(self, blocks: Any) -> np.ndarray:
        from mmfuse.explanations.evaluate import Evaluator

        return Evaluator(self.quantity, blocks).run(np.arange(len(blocks)), blocks.present)

    def empty(self) -> list[Any]:
        return [None] * len(self.blocks)

    def result(
        self,
        values: list[Any],
        inputs: list[Any],
        base: np.ndarray,
        prediction: np.ndarray,
        axes: tuple[str, ...],
        names: tuple[str, ...],
        method: str,
    ) -> InputExplanation:
        return InputExplanation(
            values=values,
            base=base,
            prediction=prediction,
            inputs=inputs,
            axes=axes,
            names=names,
            outputs=tuple(self.quantity.names),
            modality=self.modality,
            method=method,
            quantity=self.quantity.label,
        )

    def answer(self, row: int, items: list[Any]) -> np.ndarray:
        """The quantity (r, K) of a row with other decoded samples of the modality."""
        import torch

        from mmfuse.blocks import Blocks

        module, size = self.encoder.module(), self.encoder.batch_size
        with torch.inference_mode():
            batches = [items[i : i + size] for i in range(0, len(items), size)]
            found = [
                module(_to(self.encoder.collate(batch), self.device)).float().cpu()
                for batch in batches
            ]
        vectors = torch.cat(found).numpy()
        copies = self.blocks[np.full(len(items), row)]
        arrays = {name: copies[name] for name in copies.names}
        arrays[self.modality] = vectors
        presence = np.array(copies.presence)
        presence[np.isnan(vectors).all(axis=1), self.place] = Presence.ABSENT
        return self._quantity_of(Blocks(arrays, presence))

    def no_gradient(self) -> str:
        """Why there is no way back from the answer to the inputs; empty where there is one."""
        from mmfuse.explanations.evaluate import Evaluator
        from mmfuse.explanations.features import differentiable

        why = differentiable(Evaluator(self.quantity, self.blocks[:0]))
        kind = type(self.encoder).__name__
        if why:
            return f"{why}; use level='feature' with method='occlusion'"
        if self.encoder.nan_features:
            hint = "explain_bands" if hasattr(self.encoder, "grids_") else "level='feature'"
            return f"{kind} measures features that may be missing; use {hint}"
        if self.encoder.text_cells:
            return f"{kind} takes words, which are no numbers; use level='feature'"
        return ""

    def differentiable(self, row: int) -> tuple[Any, Callable[[Any], Any], Any, tuple[str, ...]]:
        """The input of one row (1, ...), the answer as a function of it, the baseline, the axes."""
        import torch

        encoder, model = self.encoder, self.model
        module = encoder.module().eval()
        batch = _to(encoder.collate([encoder.preprocess(self.cells[row])]), self.device)
        others = {n: t.clone() for n, t in model._tensors(self.blocks[[row]]).items()}
        present = torch.as_tensor(self.blocks.present[[row]], device=model.device_)

        def head(vector: Any) -> Any:
            count = len(vector)
            raw = {name: block.expand(count, -1) for name, block in others.items()}
            raw[self.modality] = vector.to(model.device_)
            blocks = model.scaler_(raw)
            there = present.expand(count, -1)
            return self.quantity.of_scores(model.head_(blocks, there).scores, there.cpu().numpy())

        if isinstance(batch, torch.Tensor) and batch.is_floating_point():
            axes = ("channel", "row", "column")[-(batch.ndim - 1) :]
            return batch, lambda x: head(module(x)), torch.zeros_like(batch), axes
        if isinstance(batch, dict) and hasattr(module, "log_mel"):
            with torch.no_grad():
                spectrum, frames = module.log_mel(batch["wave"], batch["length"])
            back = _FromSpectrum(module, frames)
            start = torch.full_like(spectrum, -float(module.top_db))
            return spectrum, lambda x: head(back(x)), start, ("mel", "frame")
        raise ValueError(
            f"explain_inputs: {type(encoder).__name__} takes no single tensor of numbers, so there "
            f"is no input to go back to for modality {self.modality!r}; use level='feature'."
        )


class _FromSpectrum:
    """What a log-Mel module makes of a spectrum that is given."""

    def __init__(self, module: Any, frames: Any) -> None:
        self.module, self.frames = copy.copy(module), frames

    def __call__(self, spectrum: Any) -> Any:
        frames = self.frames.expand(len(spectrum))
        object.__setattr__(self.module, "log_mel", lambda wave, length: (spectrum, frames))
        return self.module({"wave": spectrum, "length": frames})
