"""How a column passes: files known by name, samples decoded beside the model, room on the CPU."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmfuse.encoders import BaseEncoder, _run


class Sums(BaseEncoder):
    """The sum of the numbers in a file, and how many there are."""

    modality = "sums"
    pause = 0.0
    seen: list[tuple[int, int]]
    spans: list[tuple[float, float]]
    threads: set[str]

    def preprocess(self, sample):
        start = time.perf_counter()
        time.sleep(self.pause)
        item = torch.tensor([float(word) for word in Path(sample).read_text().split()])
        type(self).spans.append((start, time.perf_counter()))
        type(self).threads.add(threading.current_thread().name)
        return item

    def collate(self, items):
        wide = nn.utils.rnn.pad_sequence(items, batch_first=True)
        return torch.cat([wide, torch.tensor([[float(len(item))] for item in items])], dim=1)

    def _length(self, item):
        return len(item)

    def _width(self):
        return 2

    def _build_module(self):
        outer = type(self)

        class Module(nn.Module):
            def forward(self, batch):
                outer.seen.append((len(batch), batch.shape[1] - 1))
                time.sleep(outer.pause)
                return torch.stack([batch[:, :-1].sum(dim=1), batch[:, -1]], dim=1)

        return Module()


@pytest.fixture
def files(tmp_path):
    """Numbers in files of different lengths, the first two the same."""
    Sums.seen, Sums.spans, Sums.threads, Sums.pause = [], [], set(), 0.0
    paths = []
    for i, n in enumerate([3, 3, 9, 1, 30, 4, 2, 8, 5, 6]):
        paths.append(tmp_path / f"{i}.txt")
        paths[-1].write_text(" ".join(str(k) for k in range(n)))
    return paths


def expected(files) -> np.ndarray:
    numbers = [[float(word) for word in file.read_text().split()] for file in files]
    return np.array([[sum(one), len(one)] for one in numbers], dtype=np.float32)


def encoder(kind: type[Sums] = Sums, **params) -> Sums:
    return kind(**{"cache": False, "device": "cpu", "n_jobs": 1, **params}).fit([])


def test_without_a_cache_files_are_known_by_name_and_not_read_twice(files, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("a file was read for its key")

    monkeypatch.setattr(_run, "content_key", read)
    column = [files[0], files[1], files[0], str(files[2])]
    np.testing.assert_array_equal(encoder().transform(column), expected(column[:3] + [files[2]]))
    assert len(Sums.spans) == 3  # the same name is the same sample, the same content need not be


def test_with_a_cache_equal_files_are_one_sample(files, tmp_path):
    one = encoder(cache=tmp_path / "cache")
    for _ in range(2):
        np.testing.assert_array_equal(one.transform(files), expected(files))
    assert len(Sums.spans) == len(files) - 1


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_what_passes_together_keeps_to_the_room(files, n_jobs):
    class Narrow(Sums):
        cpu_room = 12

    np.testing.assert_array_equal(encoder(Narrow, n_jobs=n_jobs).transform(files), expected(files))
    assert (1, 30) in Narrow.seen  # longer than the room, and so alone
    assert all(n == 1 or n * longest <= 12 for n, longest in Narrow.seen)
    assert max(n for n, _ in Narrow.seen) > 1


def test_rows_keep_to_the_number_that_passes_together(files):
    class Few(Sums):
        cpu_rows = 3

    np.testing.assert_array_equal(encoder(Few).transform(files), expected(files))
    assert [n for n, _ in Few.seen] == [3, 3, 3, 1]


def test_two_threads_decode_while_the_model_runs(files):
    class Slow(Sums):
        pause = 0.02

    started = time.perf_counter()
    values = encoder(Slow, n_jobs=2, batch_size=1).transform(files)
    taken = time.perf_counter() - started
    np.testing.assert_array_equal(values, expected(files))
    assert len(Slow.threads) == 2 and all("mmfuse-decode" in name for name in Slow.threads)
    spans = sorted(Slow.spans)
    together = sum(b[0] < a[1] for a, b in zip(spans, spans[1:], strict=False))
    assert together >= 3  # two files at a time
    assert taken < 0.02 * 2 * len(files)  # less than all decoding and all passes one by one
