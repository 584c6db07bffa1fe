"""What holds for every encoder."""

from __future__ import annotations

import inspect
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from encoder_list import ENCODERS, Case
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import mmfuse.encoders
from mmfuse import Presence
from mmfuse.encoders import BaseEncoder, Encoded
from mmfuse.encoders._modules import clear_modules
from mmfuse.encoders._stream import batches, ordered_map, windows
from mmfuse.exceptions import EncodingError

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def listed(name: str) -> Case:
    case = ENCODERS[name]
    if case.needs is not None:
        pytest.importorskip(case.needs, reason=f"{name} needs the package {case.needs}")
    return case


@pytest.fixture(params=list(ENCODERS), scope="module")
def case(request):
    return listed(request.param)


def fitted(case: Case, **params) -> BaseEncoder:
    encoder = clone(case.encoder)
    known = encoder.get_params()
    params = {"cache": False, **params}
    encoder.set_params(**{name: value for name, value in params.items() if name in known})
    return encoder.fit(case.samples())


def test_every_encoder_is_listed():
    public = {
        name
        for name in mmfuse.encoders.__all__
        if inspect.isclass(getattr(mmfuse.encoders, name))
        and issubclass(getattr(mmfuse.encoders, name), BaseEncoder)
    }
    assert public - {"BaseEncoder"} == {type(case.encoder).__name__ for case in ENCODERS.values()}


def test_output(case):
    encoder = fitted(case)
    values = encoder.transform(case.samples())
    assert values.dtype == np.float32
    assert values.shape == (6, encoder.n_features_out_)
    names = encoder.get_feature_names_out()
    assert names.shape == (encoder.n_features_out_,) and names.dtype == object
    assert len(set(names)) == len(names)
    assert all(name.startswith(encoder.modality + "_") for name in names)
    assert len({row.tobytes() for row in values}) == 6


def test_order_repetition_batch_size_and_workers_do_not_matter(case, tmp_path):
    samples = case.samples()
    expected = fitted(case).transform(samples)
    rows = np.array([4, 1, 1, 5, 0, 4, 2, 3])
    column = [samples[row] for row in rows]
    for params in (
        {"batch_size": 1, "n_jobs": 1},
        {"batch_size": 3, "n_jobs": 4},
        {"batch_size": 64, "cache": tmp_path},
        {"batch_size": 2, "cache": tmp_path},  # all from the cache
    ):
        values = fitted(case, **params).transform(column)
        np.testing.assert_allclose(values, expected[rows], **CLOSE)


def test_containers_of_a_column(case):
    samples = case.samples()
    encoder = fitted(case)
    expected = encoder.transform(samples)
    column = np.empty(6, dtype=object)
    for i, sample in enumerate(samples):
        column[i] = sample
    for given in (column, tuple(samples), pd.Series(column, index=list("abcdef"))):
        np.testing.assert_allclose(encoder.transform(given), expected, **CLOSE)


@pytest.mark.parametrize("column", ["one text", {"a": 1}, 3, None, np.float64(1)])
def test_what_is_no_column(case, column):
    with pytest.raises(TypeError, match=f"{type(case.encoder).__name__} "):
        fitted(case).transform(column)


def test_missing_cells(case):
    samples = case.samples()
    encoder = fitted(case)
    column = [
        samples[0],
        None,
        np.nan,
        pd.NA,
        "  ",
        Presence.FAILED,
        Presence.EMPTY,
        [],
        samples[1],
    ]
    encoded = encoder.encode(column)
    assert isinstance(encoded, Encoded) and encoded.errors == {}
    assert encoded.presence.dtype == np.int8
    assert encoded.presence.tolist() == [1, 0, 0, 0, 0, 2, 3, 3, 1]
    assert np.isnan(encoded.values[1:-1]).all()
    np.testing.assert_allclose(encoded.values[[0, -1]], encoder.transform(samples[:2]), **CLOSE)


def test_presence_says_what_is_encoded(case, tmp_path):
    column = [*case.samples()[:3], case.broken(tmp_path), None]
    states = np.array([1, 0, 3, 2, 1])
    encoded = fitted(case).encode(column, states)
    assert encoded.presence.tolist() == [1, 0, 3, 2, 0]
    assert np.isnan(encoded.values[1:]).all()
    with pytest.raises(ValueError, match="presence must have one entry per row"):
        fitted(case).encode(column, states[:2])


def test_no_rows(case):
    encoder = fitted(case)
    for empty in ([], np.empty(0, dtype=object)):
        values = encoder.transform(empty)
        assert values.shape == (0, encoder.n_features_out_) and values.dtype == np.float32
    assert encoder.transform([None, None]).shape == (2, encoder.n_features_out_)


def test_clone_and_parameters(case):
    encoder = case.encoder
    assert clone(encoder).get_params() == encoder.get_params()
    for name, value in encoder.get_params().items():
        assert getattr(encoder, name) is value
    names = list(inspect.signature(type(encoder)).parameters.values())
    assert all(p.kind is p.KEYWORD_ONLY for p in names[1:])


def test_bad_parameters(case):
    known = case.encoder.get_params()
    for name, value in {
        "batch_size": 0,
        "n_jobs": 1.5,
        "on_error": "ignore",
        "verbose": -1,
        "cache": 3,
        "device": 0,
    }.items():
        if name not in known:
            continue
        encoder = clone(case.encoder).set_params(**{name: value})
        pattern = f"{type(encoder).__name__}: {name} must be .*got "
        with pytest.raises((ValueError, TypeError), match=pattern):
            encoder.fit(case.samples())


def test_pickle_is_small_and_whole(case):
    encoder = fitted(case)
    samples = case.samples()
    before = encoder.transform(samples)
    data = pickle.dumps(encoder)
    assert len(data) < 5000
    np.testing.assert_array_equal(pickle.loads(data).transform(samples), before)


def test_transform_does_not_change_the_object(case):
    encoder = fitted(case)
    before = dict(vars(encoder))
    encoder.transform(case.samples())
    encoder.get_feature_names_out()
    assert vars(encoder) == before


def test_state_round_trip(case):
    encoder = fitted(case)
    state = json.loads(json.dumps(encoder.get_state()))
    other = clone(encoder).set_state(state)
    samples = case.samples()
    np.testing.assert_array_equal(other.transform(samples), encoder.transform(samples))
    assert list(other.get_feature_names_out()) == list(encoder.get_feature_names_out())


def test_the_callers_random_numbers_are_untouched(case):
    clear_modules()  # loading counts too
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    fitted(case).transform(case.samples())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_not_fitted(case):
    for call in ("transform", "encode"):
        with pytest.raises(NotFittedError):
            getattr(clone(case.encoder), call)(case.samples())
    with pytest.raises(NotFittedError):
        clone(case.encoder).get_feature_names_out()


def test_an_error_names_column_row_and_file(case, tmp_path):
    broken = case.broken(tmp_path)
    column = [*case.samples(), None, broken]
    where = r"visits, row 7" + (rf" \(.*{broken.name}\)" if case.reads_files else "")
    with pytest.raises(EncodingError, match=where + ": .*on_error='mark'"):
        fitted(case).encode(column, name="visits")
    with pytest.raises(EncodingError, match=rf"{case.encoder.modality}, row 7"):
        fitted(case).transform(column)


def test_marked_errors(case, tmp_path):
    broken = case.broken(tmp_path)
    column = [broken, *case.samples(), broken]
    encoder = fitted(case, on_error="mark")
    with pytest.warns(UserWarning, match=r"visits: 2 of 8 cells could not be .*first: row 0") as w:
        encoded = encoder.encode(column, name="visits")
    assert len(w) == 1
    assert encoded.presence.tolist() == [2, 1, 1, 1, 1, 1, 1, 2]
    assert sorted(encoded.errors) == [0, 7]
    assert all(text.startswith(f"visits, row {row}") for row, text in encoded.errors.items())
    assert np.isnan(encoded.values[[0, 7]]).all()
    np.testing.assert_allclose(encoded.values[1:7], encoder.transform(case.samples()), **CLOSE)


@pytest.mark.parametrize("name", [name for name, case in ENCODERS.items() if case.reads_files])
def test_a_missing_file(name, tmp_path):
    case = listed(name)
    with pytest.raises(EncodingError, match=r"row 0 \(.*gone\): no such file; fix or remove the"):
        fitted(case).transform([tmp_path / "gone"])


def test_pandas_output(case):
    encoder = fitted(case).set_output(transform="pandas")
    frame = encoder.fit_transform(case.samples())
    assert list(frame.columns) == list(encoder.get_feature_names_out())
    assert frame.shape == (6, encoder.n_features_out_)


def test_module_and_weights(case):
    encoder = fitted(case)
    module = encoder.module()
    assert isinstance(module, torch.nn.Module) and not module.training
    digest = encoder.weights_hash()
    assert digest is None or (len(digest) == 64 and int(digest, 16))
    batch = encoder.collate([encoder.preprocess(sample) for sample in case.samples()])
    with torch.no_grad():
        values = module(batch).numpy()
    np.testing.assert_allclose(values, encoder.transform(case.samples()), **CLOSE)


def test_the_module_is_loaded_once(case, monkeypatch):
    built = []
    kind = type(case.encoder)
    monkeypatch.setattr(
        kind, "_build_module", lambda self: built.append(1) or torch.nn.Identity(), raising=False
    )
    clear_modules()
    for _ in range(3):
        fitted(case).module()
    assert len(built) <= 1
    clear_modules()


@pytest.mark.parametrize("name", [name for name, case in ENCODERS.items() if case.reads_files])
def test_progress_is_shown_when_asked(name, capsys):
    case = listed(name)
    fitted(case).encode(case.samples(), name="visits")
    assert capsys.readouterr().err == ""
    fitted(case, verbose=1).encode(case.samples(), name="visits")
    assert "visits" in capsys.readouterr().err


def test_no_warnings(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(case).transform(case.samples())


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
