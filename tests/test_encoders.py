"""What holds for every encoder."""

from __future__ import annotations

import inspect
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_list import ENCODERS, Case

import mmfuse.encoders
from mmfuse import Presence
from mmfuse.encoders import BaseEncoder
from mmfuse.encoders._modules import clear_modules, shared_module
from mmfuse.encoders._stream import batches, ordered_map, windows
from mmfuse.exceptions import EncodingError
from mmfuse.testing import ENCODER_CHECKS, SKLEARN_CHECKS, EncoderSubject


@pytest.fixture(params=list(ENCODERS), scope="module")
def case(request) -> Case:
    case = ENCODERS[request.param]
    if case.needs is not None:
        reason = f"{request.param} needs the package {case.needs}"
        pytest.importorskip(case.needs, reason=reason)
    return case


def test_every_encoder_is_listed():
    public = {
        name
        for name in mmfuse.encoders.__all__
        if inspect.isclass(getattr(mmfuse.encoders, name))
        and issubclass(getattr(mmfuse.encoders, name), BaseEncoder)
    }
    assert public - {"BaseEncoder"} == {type(case.encoder).__name__ for case in ENCODERS.values()}


@pytest.mark.parametrize("check", [*ENCODER_CHECKS, *SKLEARN_CHECKS])
def test_contract(case, check, tmp_path):
    subject = EncoderSubject(
        case.encoder, case.samples(), case.broken(tmp_path), case.reads_files, tmp_path
    )
    {**ENCODER_CHECKS, **SKLEARN_CHECKS}[check](subject)


def test_the_module_is_loaded_once(case, monkeypatch):
    built = []
    kind = type(case.encoder)
    monkeypatch.setattr(
        kind, "_build_module", lambda self: built.append(1) or torch.nn.Identity(), raising=False
    )
    clear_modules()
    for _ in range(3):
        EncoderSubject(case.encoder, case.samples()).fitted().module()
    assert len(built) <= 1
    clear_modules()


class Doubler(BaseEncoder):
    """Counts its calls; a sample is a short array, and a negative one has its own fate."""

    modality = "toy"
    calls: list[float] = []
    fail_at: float | None = None

    def preprocess(self, sample):
        first = float(sample[0])
        if first == self.fail_at:
            raise KeyboardInterrupt
        self.calls.append(first)
        if first == -1:
            return None
        return torch.as_tensor(sample, dtype=torch.float32)

    def _build_module(self):
        class Twice(torch.nn.Module):
            def forward(self, batch):
                return torch.where(batch == 13, torch.nan, 2 * batch)

        return Twice()

    def _width(self):
        return 2


@pytest.fixture
def toy(tmp_path):
    Doubler.calls, Doubler.fail_at = [], None
    return Doubler(cache=tmp_path, batch_size=2, n_jobs=1, device="cpu").fit([])


def test_each_sample_is_decoded_once(toy):
    block = np.array([[1, 2], [1, 2], [3, 4], [np.nan, np.nan], [1, 2]])
    np.testing.assert_array_equal(toy.transform(block), 2 * block.astype(np.float32))
    assert Doubler.calls == [1, 3]
    toy.transform(block)
    assert Doubler.calls == [1, 3]


def test_what_was_found_empty_is_remembered(toy):
    block = np.array([[-1.0, 0], [1, 2]])
    for _ in range(2):
        assert toy.encode(block).presence.tolist() == [Presence.EMPTY, Presence.PRESENT]
    assert Doubler.calls == [-1, 1]


def test_a_vector_that_is_not_finite_is_an_error(toy):
    block = np.array([[1.0, 2], [13, 0]])
    with pytest.raises(EncodingError, match="toy, row 1: its vector has NaN"):
        toy.transform(block)
    toy.set_params(on_error="mark")
    with pytest.warns(UserWarning, match="1 of 2"):
        assert toy.encode(block).presence.tolist() == [1, 2]


def test_an_interrupted_run_keeps_its_batches(toy):
    block = np.arange(12.0).reshape(6, 2)
    Doubler.fail_at = 8.0  # the fifth row: two batches are done
    with pytest.raises(KeyboardInterrupt):
        toy.transform(block)
    Doubler.calls, Doubler.fail_at = [], None
    np.testing.assert_array_equal(toy.transform(block), 2 * block)
    assert Doubler.calls == [8, 10]


def test_a_fault_of_the_program_is_not_a_bad_sample(toy):
    toy.set_params(on_error="mark")
    with pytest.raises(TypeError):
        toy.transform([3.5, 4.5])  # a scalar has no first entry


def test_a_module_of_another_width_is_an_error(toy):
    with pytest.raises(ValueError, match="shape \\(1, 3\\) where \\(1, 2\\)"):
        toy.transform(np.ones((1, 3)))


def test_an_unknown_kind_of_sample_is_encoded_each_time(toy):
    class Odd:
        def __getitem__(self, i):
            return (5.0, 6.0)[i]

        def __len__(self):
            return 2

    for _ in range(2):
        np.testing.assert_array_equal(toy.transform([Odd(), [1.0, 2.0]]), [[10, 12], [2, 4]])
    assert Doubler.calls == [5, 1, 5]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_the_samples_in_memory_do_not_grow_with_the_column(toy, n_jobs):
    waiting, most = [0], [0]

    class Counting(Doubler):
        def preprocess(self, sample):
            waiting[0] += 1
            most[0] = max(most[0], waiting[0])
            return super().preprocess(sample)

        def collate(self, items):
            waiting[0] -= len(items)
            return super().collate(items)

    encoder = Counting(cache=False, batch_size=2, n_jobs=n_jobs, device="cpu").fit([])
    block = np.arange(400.0).reshape(200, 2) + 20
    np.testing.assert_array_equal(encoder.transform(block), 2 * block)
    assert most[0] <= 2 + 2 + 2 * n_jobs + 1


def test_windows_and_batches():
    lengths = [3, 9, 1, 7, 5, 2, 8]
    cut = list(windows(lengths, count=lambda first: 4, size=lambda item: 1, room=100))
    assert cut == [[3, 9, 1, 7], [5, 2, 8]]
    assert [len(w) for w in windows(lengths, count=lambda f: 9, size=lambda i: i, room=12)] == [
        2,
        3,
        2,
    ]
    by_length = {"length": lambda item: item, "most": 3, "room": None}
    assert list(batches(lengths, **by_length)) == [[9, 8, 7], [5, 3, 2], [1]]
    assert list(batches(lengths, **{**by_length, "room": 16})) == [[9], [8, 7], [5, 3, 2], [1]]
    assert list(batches([4, 5], length=lambda item: None, most=1, room=1)) == [[4], [5]]


def test_threads_keep_order_and_errors():
    assert list(ordered_map(lambda i: i * i, range(50), n_jobs=4, ahead=3)) == [
        i * i for i in range(50)
    ]
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(lambda i: 1 // i, [2, 1, 0], n_jobs=2, ahead=2))


def test_a_parameter_that_json_cannot_hold(tmp_path):
    class Configured(Doubler):
        def __init__(self, *, table=None, cache=True):
            super().__init__(cache=cache)
            self.table = table

    encoder = Configured(table=object(), cache=tmp_path).fit([])
    with pytest.raises(TypeError, match="Configured: an argument of type object"):
        encoder.transform(np.ones((1, 2)))
    fine = Configured(table={"a": np.arange(2), "b": Path("x")}, cache=tmp_path).fit([])
    assert fine.transform(np.ones((1, 2))).tolist() == [[2, 2]]


def test_building_a_module_may_use_another_in_threads():
    clear_modules()

    def inner() -> torch.nn.Module:
        return shared_module("inner", torch.nn.Identity)

    def outer() -> torch.nn.Module:
        with ThreadPoolExecutor(2) as pool:
            futures = [pool.submit(inner) for _ in range(2)]
            return [future.result(timeout=10) for future in futures][0]

    assert shared_module("outer", outer) is shared_module("inner", torch.nn.Linear)
    clear_modules()
