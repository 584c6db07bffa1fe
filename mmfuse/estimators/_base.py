"""What FusionClassifier and FusionRegressor share: the door, the head, saving."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from mmfuse._params import EncoderParamsMixin
from mmfuse._random import spawn_seed
from mmfuse._rows import PREDICT_ROWS
from mmfuse.blocks import Blocks
from mmfuse.calibration.by_pattern import HeldOut
from mmfuse.door import as_table, encode_table, fit_encoders, matrix_blocks
from mmfuse.inner_split import warn_inner_split
from mmfuse.splits import make_folds
from mmfuse.training_record import record_training

__all__ = ["FusionEstimator"]

_DOUBLE_UP_TO = 500_000  # training features kept in float64: repeated rows then equal weights


class FusionEstimator(EncoderParamsMixin, BaseEstimator):
    """What the classifier and the regressor share: the door, the head, saving."""

    _task: str
    finetune: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True  # a row of NaN is an absent modality
        return tags

    # -- the door -----------------------------------------------------------------------------

    def _open(self, X: Any, *, reset: bool) -> Any:
        """A table, or blocks, from anything; learns or checks the number of features."""
        encoders = self.encoders or {}
        names = tuple(encoders) if reset and encoders else getattr(self, "modalities_", None)
        table = as_table(
            X,
            modalities=self.modalities,
            has_encoders=bool(encoders),
            names=None if reset and not encoders else names,
            matrix_expected=not reset and self.from_matrix_,
        )
        if table is not None:
            if reset:
                self.from_matrix_ = False
                vars(self).pop("feature_names_in_", None)  # of an earlier fit on a frame
                self.n_features_in_ = table.shape[1]
                if len(table) == 0:
                    raise ValueError("Found array with 0 sample(s); at least 1 row is needed.")
            return table
        if not reset and not self.from_matrix_:
            raise ValueError(
                f"X is a plain matrix, and this model was fitted on the modalities "
                f"{', '.join(self.modalities_)}; pass a ModalityTable, a DataFrame or a dict."
            )
        if reset and encoders:
            raise ValueError(
                "encoders are given, and X is a plain matrix without modality names; pass a "
                "ModalityTable, a DataFrame or a dict of columns."
            )
        X = validate_data(self, X, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")
        if reset:
            self.from_matrix_ = True
        columns = getattr(self, "feature_names_in_", None)
        return matrix_blocks(X, self.modalities, columns)

    def encode(self, X: Any) -> Blocks:
        """Encode X once; the blocks may be given to every other method in place of X.

        Parameters
        ----------
        X : ModalityTable, DataFrame, dict, array or Blocks

        Returns
        -------
        Blocks
            In the order of ``modalities_``; modalities that X lacks are ABSENT.
        """
        check_is_fitted(self, "head_")
        return encode_table(self._open(X, reset=False), self.encoders_, self.block_dims_)

    # -- fitting ------------------------------------------------------------------------------

    def _fit_head(
        self,
        table: Any,
        target: np.ndarray,
        weight: np.ndarray,
        groups: np.ndarray | None,
        objective: Any,
        *,
        stratify: bool = True,
        refine: Any = None,
    ) -> HeldOut | None:
        """Encode, standardise and train; returns out-of-fold scores and what their rows had.

        Folds are stratified by class, where the task has classes, unless ``stratify`` is False.
        ``refine(head, data)`` may give another objective once the data are encoded.
        """
        import torch

        from mmfuse._device import resolve_device
        from mmfuse.heads import AutoFusion, BaseHead, FitData
        from mmfuse.patterns import hidden
        from mmfuse.standardize import StandardisedBlocks, Standardizer

        seed = spawn_seed(self.random_state)
        by_class = stratify and self._task == "classification"
        blocks, folds, tuning = self._blocks_and_folds(
            table, target, weight, groups, objective, by_class, seed
        )
        head = AutoFusion() if isinstance(self.head, str) and self.head == "auto" else self.head
        if not isinstance(head, BaseHead):
            raise ValueError(
                f"{type(self).__name__}: head must be 'auto' or a head from mmfuse.heads; "
                f"got {head!r}."
            )
        head.check_parameters(blocks.dims, objective)
        warn_inner_split(head, groups, type(self).__name__)
        self.training_record_ = record_training(blocks, groups)
        self.device_ = resolve_device(self.device)
        self.block_dims_, self.modalities_ = blocks.dims, blocks.names
        tensors = self._tensors(blocks)
        weights = torch.as_tensor(weight, device=self.device_)
        raw = head.raw_blocks(blocks.dims)
        self.scaler_ = Standardizer(blocks.dims).to(self.device_).fit(tensors, weights, raw)
        small = len(blocks) * sum(blocks.dims.values()) <= _DOUBLE_UP_TO
        dtype = torch.float64 if small else torch.float32
        data = FitData(
            StandardisedBlocks(tensors, self.scaler_, dtype),
            torch.as_tensor(blocks.present, device=self.device_),
            torch.as_tensor(target, device=self.device_),
            weights,
            folds,
            objective,
            seed,
            self.verbose,
            need_oof=self.calibration is not None,
        )
        if data.need_oof and folds:
            data = replace(data, masked=hidden(data.presence, seed))
        if refine is not None:
            data = replace(data, objective=refine(head, data))
        result = head.fit_module(data)
        # what was fitted, whatever set_params does later
        self.fusion_head_ = clone(head) if result.head is None else result.head
        self.head_ = result.module
        self.history_ = {"head": type(head).__name__, **result.history}
        if tuning:
            self.history_["finetune"] = tuning
        if result.oof_scores is None:
            return None
        gone = None if data.masked is None else data.masked.cpu().numpy()
        present, masked = blocks.present, result.oof_masked
        return HeldOut(result.oof_scores, present, masked, gone, blocks, folds)

    def _blocks_and_folds(
        self,
        table: Any,
        target: np.ndarray,
        weight: np.ndarray,
        groups: np.ndarray | None,
        objective: Any,
        by_class: bool,
        seed: int,
    ) -> tuple[Blocks, list, dict[str, Any] | None]:
        """Blocks of the training rows, folds, and what fine-tuning says of itself.

        Where an encoder was trained, the folds test none of the rows that it learned from.
        """
        tuned = vars(self).pop("_tuned", None)  # of several outputs, which share the encoders
        own = tuned is None and self._tunes()
        if own:
            from mmfuse.finetune.joint import Target

            tuned = self._tune(table, [Target(target, weight, objective)], groups, by_class)
        if tuned is None:
            folds = make_folds(self.cv, target, groups, classification=by_class, seed=seed)
            return self._encode_training(table), folds, None
        from mmfuse.finetune.split import honest_folds

        held = tuned.rows.held
        folds = honest_folds(self.cv, target, groups, held, classification=by_class, seed=seed)
        blocks = tuned.blocks if own else self._encode_training(table)
        return blocks, folds, tuned.report

    def _tunes(self) -> bool:
        """Whether an encoder is to be trained."""
        trainable = any(getattr(e, "trainable", False) for e in (self.encoders or {}).values())
        if self.finetune is not None and not trainable:
            raise ValueError(
                f"{type(self).__name__}: finetune is given, and no encoder is trainable; set "
                "trainable=True, 'head' or 'lora' on one of the encoders, or finetune=None."
            )
        return trainable

    def _tune(self, table: Any, targets: list, groups: np.ndarray | None, by_class: bool) -> Any:
        from mmfuse.finetune.run import tune

        return tune(self, table, targets, groups, by_class=by_class)

    @property
    def head_report_(self) -> Any:
        """Candidates that `AutoFusion` tried, a DataFrame: losses, weights and seconds of each."""
        check_is_fitted(self, "head_")
        if "candidates" not in self.history_:
            raise AttributeError(
                "head_report_ is there after fitting with head=AutoFusion() only; of a model of "
                "several outputs, in output(t)."
            )
        return pd.DataFrame.from_dict(self.history_["candidates"], orient="index")

    def _encode_training(self, table: Any) -> Blocks:
        if isinstance(table, Blocks):
            self.encoders_ = {}
            table = table.to_table()
            fit_encoders(table, None, 0)  # says which modality is absent in all rows
        else:
            self.encoders_ = fit_encoders(table, self.encoders, self.verbose)
        blocks = encode_table(table, self.encoders_, None)
        fit_encoders(blocks.to_table(), None, 0)  # encoding may have failed in all rows
        return blocks

    def _tensors(self, blocks: Blocks) -> dict[str, Any]:
        import torch

        with warnings.catch_warnings():  # tensors share memory with the read-only block; none is
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # written to
            return {
                name: torch.from_numpy(blocks[name]).to(self.device_) for name in self.block_dims_
            }

    def _output(self, X: Any) -> tuple[Blocks, np.ndarray]:
        """Blocks and raw scores (n, n_outputs), float64."""
        blocks = self.encode(X)
        return blocks, self._run_head(blocks)[0]

    def _run_head(self, blocks: Blocks, extra: str = "") -> tuple[np.ndarray, np.ndarray | None]:
        """Raw scores (n, n_outputs), and the extra (n, ...) that the head gives; both float64."""
        import torch

        scores, extras = [np.empty((0, self.head_.n_outputs))], []
        with torch.inference_mode():
            for start in range(0, len(blocks), PREDICT_ROWS):
                part = blocks[start : start + PREDICT_ROWS]
                present = torch.as_tensor(part.present, device=self.device_)
                output = self.head_(self.scaler_(self._tensors(part)), present)
                scores.append(output.scores.double().cpu().numpy())
                if extra in output.extras:
                    extras.append(output.extras[extra].double().cpu().numpy())
        return np.concatenate(scores), np.concatenate(extras) if extras else None

    # -- saving ------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Save the fitted model as a folder: safetensors and JSON, nothing pickled.

        Parameters
        ----------
        folder : path
            Made if need be; a folder that holds something else than a saved model is refused.

        See Also
        --------
        mmfuse.load : Load it again.
        """
        from mmfuse.saving.folder import save

        return save(self, folder)
