"""The embedding cache: nothing lost, nothing wrong returned, nobody stopped by it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse import cache as caches
from mmfuse.cache import EmbeddingCache, cache_folder, gc, list_caches, verify
from mmfuse.encoders import LogMelEncoder
from mmfuse.encoders._keys import content_key
from mmfuse.exceptions import SampleError

CONFIG = {"class": "tests.Example", "params": {"n": 1}}


def vectors(n: int, width: int = 4) -> tuple[list[bytes], np.ndarray]:
    keys = [f"key {i}".encode() for i in range(n)]
    return keys, np.arange(n * width, dtype=np.float32).reshape(n, width)


def stored(folder: Path, n: int = 3) -> Path:
    keys, values = vectors(n)
    with EmbeddingCache(folder, CONFIG) as cache:
        cache.put_many(keys, values)
        return cache.path


def damage(path: Path, key: bytes, column: str = "value") -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(f"UPDATE embeddings SET {column} = zeroblob(16) WHERE key = ?", (key,))
    connection.close()


def test_what_is_kept_is_found(tmp_path):
    keys, values = vectors(1500)
    stored(tmp_path, 1500)
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        found = cache.get_many([*keys, b"other"])
        assert len(cache) == 1500
    assert set(found) == set(keys)
    assert all(found[key].dtype == np.float32 for key in keys)
    np.testing.assert_array_equal([found[key] for key in keys], values)


def test_an_empty_array_is_kept(tmp_path):
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        cache.put_many([b"a"], [np.empty(0, np.float32)])
        assert cache.get_many([b"a"])[b"a"].shape == (0,)


def test_each_configuration_has_its_own_file(tmp_path):
    path = stored(tmp_path)
    with EmbeddingCache(tmp_path, {**CONFIG, "params": {"n": 2}}) as other:
        assert other.path != path and len(other) == 0
    same = EmbeddingCache(tmp_path, {"params": {"n": 1}, "class": "tests.Example"})
    assert same.path == path


@pytest.mark.parametrize("column", ["value", "checksum"])
def test_a_corrupt_row_is_not_returned(tmp_path, column):
    path = stored(tmp_path)
    damage(path, b"key 1", column)
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        assert set(cache.get_many(vectors(3)[0])) == {b"key 0", b"key 2"}
    checks = verify(tmp_path)
    assert [(c.path, c.sound, c.removed, c.problem) for c in checks] == [(path, 2, 1, None)]
    assert [(c.sound, c.removed) for c in verify(tmp_path)] == [(2, 0)]


def test_a_value_moved_to_another_key_is_corrupt(tmp_path):
    path = stored(tmp_path)
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(
            "UPDATE embeddings SET (value, checksum) ="
            " (SELECT value, checksum FROM embeddings WHERE key = ?) WHERE key = ?",
            (b"key 2", b"key 1"),
        )
    connection.close()
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        assert set(cache.get_many(vectors(3)[0])) == {b"key 0", b"key 2"}


def test_a_corrupt_file_is_named_once_and_done_without(tmp_path):
    path = stored(tmp_path)
    path.write_bytes(b"this is no database" * 100)
    encoder_warnings = []
    for _ in range(2):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with EmbeddingCache(tmp_path, CONFIG) as cache:
                assert cache.get_many([b"key 0"]) == {}
                cache.put_many([b"key 0"], [np.zeros(4)])
                assert len(cache) == 0
        encoder_warnings += [str(w.message) for w in caught]
    assert len(encoder_warnings) == 1 and str(path) in encoder_warnings[0]
    assert [c.problem is not None for c in verify(tmp_path)] == [True]
    assert list_caches(tmp_path)[0].problem is not None
    assert [file.path for file in gc(tmp_path, everything=True)] == [path]


def test_a_damaged_page_does_not_stop_the_encoder(tmp_path):
    sounds = [np.random.default_rng(i).normal(size=1000) for i in range(40)]
    encoder = LogMelEncoder(n_mels=8, cache=tmp_path).fit(sounds)
    expected = encoder.transform(sounds)
    (file,) = list_caches(tmp_path)
    data = bytearray(file.path.read_bytes())
    data[4096:12288] = os.urandom(8192)
    file.path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(encoder.transform(sounds), expected)


def test_a_folder_that_cannot_be_made(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    sound = np.random.default_rng(0).normal(size=1000)
    encoder = LogMelEncoder(cache=blocker / "folder").fit([sound])
    with pytest.warns(UserWarning, match="cannot be used .* going on without it"):
        assert np.isfinite(encoder.transform([sound])).all()


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert list_caches() == [] and verify() == [] and gc() == []
    monkeypatch.delenv("MMFUSE_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "mmfuse"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mmfuse"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == Path.home() / "Library" / "Caches" / "mmfuse"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "mmfuse"


def test_listing(tmp_path):
    path = stored(tmp_path)
    (file,) = list_caches(tmp_path)
    assert (file.path, file.config, file.rows, file.problem) == (path, CONFIG, 3, None)
    assert file.size == path.stat().st_size and abs(file.last_used - time.time()) < 60
    (tmp_path / "notes.txt").write_text("not ours")
    assert len(list_caches(tmp_path)) == 1


def test_gc(tmp_path):
    paths = []
    for age in range(3):
        with EmbeddingCache(tmp_path, {"class": f"Age{age}"}) as cache:
            cache.put_many([b"a"], [np.zeros(8)])
        paths.append(cache.path)
        then = time.time() - age * 86400 * 10
        os.utime(cache.path, (then, then))
    size = paths[0].stat().st_size
    (tmp_path / "notes.txt").write_text("not ours")
    assert gc(tmp_path) == []
    assert [file.path for file in gc(tmp_path, max_age_days=15)] == [paths[2]]
    assert [file.path for file in gc(tmp_path, max_bytes=size)] == [paths[1]]
    assert paths[0].exists()
    assert [file.path for file in gc(tmp_path, everything=True)] == [paths[0]]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_use_renews_the_age(tmp_path):
    path = stored(tmp_path)
    os.utime(path, (0, 0))
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        cache.get_many([b"key 0"])
    assert gc(tmp_path, max_age_days=1) == []


def test_threads_share_one_cache(tmp_path):
    keys, values = vectors(400)
    with EmbeddingCache(tmp_path, CONFIG) as cache:

        def work(start: int) -> None:
            for i in range(start, 400, 4):
                cache.put_many(keys[i : i + 1], values[i : i + 1])
                assert cache.get_many(keys[i : i + 1])

        threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(cache) == 400


WRITER = """
import sys, warnings
import numpy as np
from mmfuse.cache import EmbeddingCache
warnings.simplefilter("error")
start = int(sys.argv[2])
for i in range(start, 300, 3):
    with EmbeddingCache(sys.argv[1], {"class": "Shared"}) as cache:
        keys = [b"%d" % (j % 300) for j in range(i, i + 6)]
        cache.put_many(keys, [np.full(64, float(key), np.float32) for key in keys])
        assert set(cache.get_many(keys)) == set(keys)
"""


def run_python(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_share_one_file(tmp_path):
    writers = [run_python(WRITER, tmp_path, start) for start in range(3)]
    for writer in writers:
        _, err = writer.communicate(timeout=60)
        assert writer.returncode == 0, err
    with EmbeddingCache(tmp_path, {"class": "Shared"}) as cache:
        found = cache.get_many([b"%d" % i for i in range(300)])
    assert len(found) == 300
    assert all((vector == float(key)).all() for key, vector in found.items())


SLOW = """
import sys, time
import numpy as np, torch
from mmfuse.encoders import BaseEncoder

class Slow(BaseEncoder):
    modality = "slow"
    def preprocess(self, sample):
        time.sleep(0.005)
        return torch.as_tensor(sample)
    def _build_module(self):
        return torch.nn.Identity()
    def _width(self):
        return 2

if __name__ == "__main__":
    encoder = Slow(cache=sys.argv[1], batch_size=4, n_jobs=1, device="cpu").fit([])
    block = np.arange(800, dtype=np.float32).reshape(400, 2)
    done = []
    read = Slow.preprocess
    Slow.preprocess = lambda self, sample: done.append(1) or read(self, sample)
    assert (encoder.transform(block) == block).all()
    print(len(done))
"""


def test_a_killed_run_resumes(tmp_path):
    victim = run_python(SLOW, tmp_path)
    deadline = time.time() + 60
    rows = 0
    while rows < 20 and time.time() < deadline:
        time.sleep(0.05)
        rows = sum(file.rows for file in list_caches(tmp_path))
    victim.kill()
    victim.communicate()
    assert 20 <= rows < 400
    kept = sum(file.rows for file in list_caches(tmp_path))
    assert [check.removed for check in verify(tmp_path)] == [0]
    out, err = run_python(SLOW, tmp_path).communicate(timeout=60)
    assert out.strip() == str(400 - kept), err


def test_a_fork_opens_the_file_again(tmp_path):
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    keys, values = vectors(2)
    with EmbeddingCache(tmp_path, CONFIG) as cache:
        cache.put_many(keys[:1], values[:1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of forks beside threads
            child = os.fork()
        if child == 0:
            cache.put_many(keys[1:], values[1:])
            cache.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert set(cache.get_many(keys)) == set(keys)


def test_the_cache_does_without_torch():
    code = "import sys, mmfuse.cache, mmfuse.weights; print('torch' in sys.modules)"
    out, err = run_python(code).communicate(timeout=60)
    assert out.strip() == "False", err


# What a sample is.


def test_a_file_counts_by_its_content(tmp_path):
    a, b = tmp_path / "a.bin", tmp_path / "b.bin"
    a.write_bytes(b"same")
    b.write_bytes(b"same")
    key = content_key(a)
    assert key == content_key(str(b)) == content_key(b"same")
    assert key == content_key({"bytes": b"same", "path": None})
    assert key == content_key({"bytes": None, "path": str(a)})
    b.write_bytes(b"else")
    assert content_key(b) != key
    assert content_key(str(a), text_cells=True) != key
    with pytest.raises(SampleError, match="no such file"):
        content_key(tmp_path / "gone")
    with pytest.raises(SampleError):
        content_key(tmp_path)


def test_arrays_count_by_values_type_and_shape():
    base = np.arange(6, dtype=np.float32)
    key = content_key(base)
    assert key == content_key(np.arange(12, dtype=np.float32)[:6])
    assert key == content_key(np.arange(12, dtype=np.float32).repeat(2)[::2][:6])
    others = [base.reshape(2, 3), base.astype(np.float64), base + 1, base[:5], list(base)]
    assert len({key, *map(content_key, others)}) == 6
    sound = {"array": base, "sampling_rate": 8000, "path": "anything"}
    assert content_key(sound) == content_key({**sound, "path": None})
    assert content_key(sound) != content_key({**sound, "sampling_rate": 16000})
    assert content_key((base, 8000)) != content_key((base, 16000))


def test_what_has_no_known_bytes_has_no_key():
    assert content_key(object()) is None
    assert content_key([1, object()]) is None
    assert content_key({"a": object()}) is None


def test_pictures_count_by_what_is_seen():
    from PIL import Image

    grey = Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10))
    key = content_key(grey)
    assert key == content_key(grey.copy())
    turned = grey.copy()
    turned.getexif()[0x0112] = 6
    assert content_key(turned) != key
    assert content_key(grey.convert("RGB")) != key
    one, two = grey.convert("P"), grey.convert("P")
    two.putpalette(list(range(255, -1, -1)) * 3)
    assert content_key(one) != content_key(two)


leaf = st.one_of(
    st.text(max_size=4), st.binary(max_size=4), st.integers(-9, 9), st.booleans(), st.none()
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(leaf, max_size=3), min_size=2, max_size=2, unique_by=repr))
def test_different_lists_have_different_keys(pair):
    assert content_key(pair[0], text_cells=True) != content_key(pair[1], text_cells=True)


def test_the_module_has_all_it_promises():
    assert all(hasattr(caches, name) for name in caches.__all__)


def test_a_file_is_read_once_while_it_stays_the_same(tmp_path, monkeypatch):
    from mmfuse.encoders import _keys

    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    first = _keys.content_key(path)
    assert str(path) not in _keys._known  # changed just now, so it may change again unseen
    path.write_bytes(b"two")
    second = _keys.content_key(path)
    assert first != second

    read = []
    feed = _keys._feed_file
    monkeypatch.setattr(_keys, "_feed_file", lambda *args: (read.append(1), feed(*args))[1])
    monkeypatch.setattr(_keys, "_SETTLED", -1.0)
    assert [_keys.content_key(path) for _ in range(3)] == [second] * 3
    assert len(read) == 1
    path.write_bytes(b"three")  # another size
    assert _keys.content_key(str(path)) not in (first, second)
    os.replace(path, tmp_path / "b.bin")
    with pytest.raises(SampleError, match="no such file"):
        _keys.content_key(path)
