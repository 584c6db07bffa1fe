"""mmfuse.testing: what is sound passes, and each faulty part fails the check meant for it."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from mmfuse.encoders import BaseEncoder, Encoded
from mmfuse.encoders import NumericEncoder as Numeric
from mmfuse.heads import BaseHead, EarlyFusion
from mmfuse.heads.base import FusionModule, HeadOutput
from mmfuse.heads.training import train_network
from mmfuse.testing import HEAD_CHECKS, HeadSubject, check_encoder, check_head

SAMPLES = [np.array([1.0 + i, 2.0 * i * i], np.float32) for i in range(5)]
BROKEN = np.array([13.0, 0.0], np.float32)


class Twice(nn.Module):
    def forward(self, batch):
        return torch.where(batch == 13, torch.nan, 2 * batch)


class Sound(BaseEncoder):
    """Twice a short vector, as the contract wants it."""

    modality = "toy"

    def preprocess(self, sample):
        return torch.as_tensor(np.asarray(sample, dtype=np.float32))

    def _build_module(self):
        return Twice()

    def _width(self):
        return 2


class BatchDependent(Sound):
    def _build_module(self):
        class Centred(nn.Module):
            def forward(self, batch):
                return batch - batch.mean(dim=0)

        return Centred()


class OrderDependent(Sound):
    def encode(self, column, presence=None, *, name=None):
        found = super().encode(column, presence, name=name)
        place = np.arange(len(found.values), dtype=np.float32)[:, None]
        return Encoded(found.values + 0.1 * place, found.presence, found.errors)


class Zeros(Sound):
    def encode(self, column, presence=None, *, name=None):
        found = super().encode(column, presence, name=name)
        return Encoded(np.nan_to_num(found.values), found.presence, found.errors)


class Doubles(Sound):
    def encode(self, column, presence=None, *, name=None):
        found = super().encode(column, presence, name=name)
        return Encoded(found.values.astype(np.float64), found.presence, found.errors)


class Remembering(Sound):
    def encode(self, column, presence=None, *, name=None):
        self.last_ = len(column) if hasattr(column, "__len__") else 0
        return super().encode(column, presence, name=name)


class Overwriting(Sound):
    def preprocess(self, sample):
        sample = np.asarray(sample, dtype=np.float32)
        sample *= 0.5
        return torch.from_numpy(2 * sample)


class Noisy(Sound):
    def preprocess(self, sample):
        return super().preprocess(sample) + 0.1 * torch.randn(2)


class Eager(Sound):
    """Reads every cell, whatever presence says."""

    def encode(self, column, presence=None, *, name=None):
        if hasattr(column, "__len__") and presence is not None:
            super().encode(column, name=name)
        return super().encode(column, presence, name=name)


class Forgetful(Sound):
    """Learns something in fit that its state lacks."""

    def fit(self, column, y=None):
        self.scale_ = 3.0
        return super().fit(column)

    def preprocess(self, sample):
        return super().preprocess(sample) * getattr(self, "scale_", 1.0)


class Nameless(Sound):
    def encode(self, column, presence=None, *, name=None):
        try:
            return super().encode(column, presence, name=name)
        except ValueError as exc:
            if "row" in str(exc):
                raise type(exc)("bad sample; use on_error='mark'") from exc
            raise


class Constant(Sound):
    def preprocess(self, sample):
        return torch.where(super().preprocess(sample) == 13, 13.0, 1.0)


class Renaming(Sound):
    def _feature_names(self):
        return ["x", "x"]


class Altering(Sound):
    """Changes an argument in __init__."""

    def __init__(self, *, batch_size=32, on_error="raise", n_jobs=2, cache=True, verbose=0,
                 device="auto"):  # fmt: skip
        super().__init__(on_error=on_error, n_jobs=n_jobs, cache=cache, verbose=verbose,
                         device=device)  # fmt: skip
        self.batch_size = int(batch_size) + 1000


class Heavy(Sound):
    """Keeps its weights on itself."""

    def fit(self, column, y=None):
        self.weights_ = np.zeros(100_000)
        return super().fit(column)


def test_sound_encoders_pass():
    check_encoder(Sound(), SAMPLES, broken=BROKEN.copy())
    check_encoder(Numeric(), [{"age": 3.0}, {"age": 4.0}, {"age": 5.0}], broken={"age": np.inf})


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (BatchDependent, "invariance: order, repetition, batch size, workers and the cache must"),
        (OrderDependent, "invariance: order, repetition"),
        (Zeros, "missing_cells: the row of a cell that is not PRESENT must be all NaN, not zero"),
        (Doubles, "output: values must be float32, got float64"),
        (Remembering, r"unchanged: transform must not change the encoder; it changed \['last_'\]"),
        (Overwriting, "unchanged: transform must not change the samples in place"),
        (Noisy, "repeatable: the same samples must give the same vectors"),
        (Eager, "presence: a cell that presence says is not PRESENT must not be read"),
        (Forgetful, "state: a clone with set_state.* must encode the same"),
        (Nameless, "errors_raised: the error must name column and row, 'visits, row 6'"),
        (Constant, "output: different samples must give different vectors"),
        (Renaming, "feature_names: names of features must differ"),
        (Altering, "parameters: .*|sklearn_"),
        (Heavy, "pickle: a pickle has .* bytes; the module must not be part"),
    ],
)  # fmt: skip
def test_faulty_encoders_fail(kind, says):
    with pytest.raises(AssertionError, match=f"(?s)^{kind.__name__} breaks .*\n  ({says})"):
        check_encoder(kind(), [sample.copy() for sample in SAMPLES], broken=BROKEN.copy())


def test_too_few_samples():
    with pytest.raises(ValueError, match="at least 3 different cells, got 2"):
        check_encoder(Sound(), SAMPLES[:2])


# -- heads ---------------------------------------------------------------------------------------


class Additive(FusionModule):
    """A linear map of each block, added up over what is present."""

    def __init__(self, block_dims, n_outputs, task):
        super().__init__(block_dims, n_outputs, task)
        self.maps = nn.ModuleDict({k: nn.Linear(d, n_outputs) for k, d in block_dims.items()})
        self.bias = nn.Parameter(torch.zeros(n_outputs))

    def start(self, target, weight):
        if self.task == "classification":
            share = torch.bincount(target, weight, self.n_outputs) / weight.sum()
            self.bias.data = torch.log(share.clamp(min=1e-6)).float()

    def parts(self, blocks, presence):
        return torch.stack(
            [
                torch.where(presence[:, m : m + 1], self.maps[name](blocks[name].float()), 0.0)
                for m, name in enumerate(self.block_dims)
            ]
        )

    def forward(self, blocks, presence):
        return HeadOutput(self.bias + self.parts(blocks, presence).sum(dim=0))


class SoundHead(BaseHead):
    kind: type = Additive

    def __init__(self, *, max_epochs=60, learning_rate=0.05, batch_size=32, patience=10,
                 weight_decay=1e-3, modality_dropout=0.25):  # fmt: skip
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.patience = patience
        self.weight_decay = weight_decay
        self.modality_dropout = modality_dropout

    def build(self, block_dims, n_outputs, task):
        return self.kind(block_dims, n_outputs, task)


class Neighbourly(Additive):
    def forward(self, blocks, presence):
        scores = super().forward(blocks, presence).scores
        return HeadOutput(scores + 0.5 * (scores - scores.mean(dim=0)))


class Deaf(Additive):
    """Ignores the second modality."""

    def parts(self, blocks, presence):
        return super().parts(blocks, presence)[:1]


class Reading(Additive):
    """Does not ask presence."""

    def parts(self, blocks, presence):
        return super().parts(blocks, torch.ones_like(presence))


class Seedless(SoundHead):
    """Forgets the seed."""

    def fit_module(self, data):
        from dataclasses import replace

        seed = int(np.random.default_rng().integers(1 << 30))
        return train_network(self, replace(data, seed=seed))


class Touching(SoundHead):
    def fit_module(self, data):
        torch.rand(3)
        return super().fit_module(data)


class Meddling(SoundHead):
    def fit_module(self, data):
        self.max_epochs = 10
        return super().fit_module(data)


def faulty(module: type) -> BaseHead:
    """A head whose modules are of this kind."""
    return _head_of(module)()


@cache
def _head_of(module: type) -> type:
    return type(f"{module.__name__}Head", (SoundHead,), {"kind": module})


def test_sound_heads_pass():
    check_head(EarlyFusion(C=1.0))
    check_head(EarlyFusion(C=1.0), task="regression")
    with pytest.raises(ValueError, match="task must be one of .*, got 'ranking'"):
        check_head(EarlyFusion(), task="ranking")


@pytest.mark.parametrize("check", ["any_subset", "rows_alone", "absent_values", "seed"])
def test_the_additive_head_is_sound(check):
    HEAD_CHECKS["classification"][check](HeadSubject(SoundHead()))


@pytest.mark.parametrize(
    ("head", "check", "says"),
    [
        (faulty(Neighbourly), "rows_alone", "a row must get the same answer alone as in a batch"),
        (faulty(Deaf), "any_subset", "with 'a' absent, 'b' must still be read: accuracy"),
        (faulty(Reading), "absent_values", "the module must not read blocks where presence is F"),
        (Seedless(), "seed", "the same random_state must give the same model"),
        (Touching(), "seed", "leave the global random generators as they were"),
        (Meddling(), "parameters", "fitting must not change the head's parameters"),
    ],
)
def test_faulty_heads_fail(head, check, says):
    with pytest.raises(AssertionError, match=says):
        HEAD_CHECKS["classification"][check](HeadSubject(head))


def test_pytest_is_not_needed():
    code = "import sys; sys.modules['pytest'] = None; import mmfuse.testing"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
