"""Embeddings on disk: one SQLite file per encoder configuration, no pickle.

A row is the BLAKE2 digest of a sample, the bytes of its float32 vector, and a CRC-32 of both.
Rows are committed batch by batch, so that a killed run resumes where it stopped, and threads and
processes may share a file. A row whose checksum is wrong is never returned.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

__all__ = [
    "CacheCheck",
    "CacheFile",
    "EmbeddingCache",
    "cache_folder",
    "gc",
    "list_caches",
    "verify",
]

_SUFFIX = ".mmfuse-cache"
_ASIDE = ("-wal", "-shm")  # files that SQLite keeps beside a database
_KEYS_AT_ONCE = 500
_PAGE = 16384  # bytes; several vectors to a page make fewer reads
_BUSY_SECONDS = 60.0
_DAY = 86400.0
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings
    (key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL);
"""
_warned: set[str] = set()
T = TypeVar("T")


def cache_folder() -> Path:
    """Return the folder of cache files: ``MMFUSE_CACHE``, else the user's cache folder."""
    if named := os.environ.get("MMFUSE_CACHE"):
        return Path(named).expanduser()
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "mmfuse"
    variable, default = (
        ("LOCALAPPDATA", home / "AppData" / "Local")
        if sys.platform == "win32"
        else ("XDG_CACHE_HOME", home / ".cache")
    )
    return Path(os.environ.get(variable) or default) / "mmfuse"


class EmbeddingCache:
    """Embeddings of one encoder configuration.

    A folder that cannot be written, or a file that is not a database any more, draws one warning;
    the cache then finds nothing and keeps nothing.

    Parameters
    ----------
    folder : str or Path
        Made when it does not exist.
    config : dict
        All that a vector depends on besides the sample; JSON-able. It names the file.

    Attributes
    ----------
    path : Path
        The SQLite file.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> with EmbeddingCache(tempfile.mkdtemp(), {"class": "Example"}) as cache:
    ...     cache.put_many([b"a"], [np.ones(2, np.float32)])
    ...     cache.get_many([b"a", b"b"])
    {b'a': array([1., 1.], dtype=float32)}
    """

    def __init__(self, folder: str | Path, config: dict[str, Any]) -> None:
        self._config = json.dumps(config, sort_keys=True)
        digest = hashlib.blake2b(self._config.encode(), digest_size=12).hexdigest()
        name = str(config.get("class", "cache")).rpartition(".")[2]
        self.path = Path(folder).expanduser() / f"{name}-{digest}{_SUFFIX}"
        self._lock = RLock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0
        self._usable = True

    def __enter__(self) -> EmbeddingCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, np.ndarray]:
        """Look up keys.

        Returns
        -------
        dict of bytes to ndarray of shape (n_features,), float32
            Only keys that are there with the right checksum. An array without entries stands
            for a sample in which nothing was found.
        """
        found: dict[bytes, np.ndarray] = {}
        with self._lock:
            try:
                connection = self._connect() if keys and self._usable else None
                if connection is None:
                    return found
                for start in range(0, len(keys), _KEYS_AT_ONCE):
                    part = list(keys[start : start + _KEYS_AT_ONCE])
                    marks = ",".join("?" * len(part))
                    query = f"SELECT key, value, checksum FROM embeddings WHERE key IN ({marks})"
                    for key, value, checksum in connection.execute(query, part):
                        if _checksum(key, value) == checksum:
                            found[key] = np.frombuffer(value, dtype="<f4")
            except (sqlite3.Error, OSError) as exc:
                self._give_up(exc)
        return found

    def put_many(self, keys: Sequence[bytes], values: Iterable[np.ndarray]) -> None:
        """Keep one vector per key, in one transaction. Vectors are stored as float32."""
        blobs = [np.ascontiguousarray(value, dtype="<f4").tobytes() for value in values]
        rows = [(k, b, _checksum(k, b)) for k, b in zip(keys, blobs, strict=True)]
        with self._lock:
            try:
                connection = self._connect() if rows and self._usable else None
                if connection is not None:
                    _patiently(lambda: _insert(connection, rows))
            except (sqlite3.Error, OSError) as exc:
                self._give_up(exc)

    def __len__(self) -> int:
        with self._lock:
            try:
                connection = self._connect() if self._usable else None
                if connection is None:
                    return 0
                return int(connection.execute("SELECT count(*) FROM embeddings").fetchone()[0])
            except (sqlite3.Error, OSError) as exc:
                self._give_up(exc)
                return 0

    def close(self) -> None:
        """Close the file. It is opened again when needed."""
        with self._lock:
            if self._connection is not None and self._owner == os.getpid():
                try:
                    self._connection.close()
                except sqlite3.Error as exc:
                    self._give_up(exc)
            self._connection = None

    def _connect(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():  # a fork must not share it
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = _patiently(lambda: _prepared(self.path, self._config))
            self._connection, self._owner = connection, os.getpid()
            os.utime(self.path)  # the time of last use, for gc
        return self._connection

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        self.close()
        if str(self.path) not in _warned:
            _warned.add(str(self.path))
            warnings.warn(
                f"The embedding cache {self.path} cannot be used ({error}); going on without it. "
                "Remove the file, or name another folder in MMFUSE_CACHE.",
                UserWarning,
                stacklevel=4,
            )


@dataclass(frozen=True)
class CacheFile:
    """One cache file.

    Attributes
    ----------
    path : Path
    config : dict
        The encoder's class, arguments, weight hash and library versions; empty if unreadable.
    rows : int
        Number of embeddings.
    size : int
        Bytes on disk.
    last_used : float
        Seconds since the epoch.
    problem : str or None
        Why the file cannot be read.
    """

    path: Path
    config: dict[str, Any]
    rows: int
    size: int
    last_used: float
    problem: str | None = None


@dataclass(frozen=True)
class CacheCheck:
    """What `verify` found in one file: rows that are right, and rows that were removed."""

    path: Path
    sound: int
    removed: int
    problem: str | None = None


def list_caches(folder: str | Path | None = None) -> list[CacheFile]:
    """Describe the cache files of a folder, last used first.

    Parameters
    ----------
    folder : str or Path, optional
        By default `cache_folder()`.
    """
    files = [_describe(path) for path in _files(folder)]
    return sorted(files, key=lambda file: -file.last_used)


def gc(
    folder: str | Path | None = None,
    *,
    max_age_days: float | None = None,
    max_bytes: int | None = None,
    everything: bool = False,
) -> list[CacheFile]:
    """Remove cache files.

    Parameters
    ----------
    folder : str or Path, optional
        By default `cache_folder()`.
    max_age_days : float, optional
        Remove files that were last used longer ago.
    max_bytes : int, optional
        Then remove the files used longest ago until the rest fits.
    everything : bool
        Remove all.

    Returns
    -------
    list of CacheFile
        The files that were removed. A file that another process holds open on Windows stays.
    """
    removed, left = [], 0
    for file in list_caches(folder):
        old = max_age_days is not None and time.time() - file.last_used > max_age_days * _DAY
        full = max_bytes is not None and left + file.size > max_bytes
        if (everything or old or full) and _remove(file.path):
            removed.append(file)
        else:
            left += file.size
    return removed


def verify(folder: str | Path | None = None) -> list[CacheCheck]:
    """Recompute all checksums and remove the rows that are corrupt.

    Parameters
    ----------
    folder : str or Path, optional
        By default `cache_folder()`.
    """
    return [_verify_file(path) for path in _files(folder)]


def _verify_file(path: Path) -> CacheCheck:
    sound, corrupt = 0, []
    try:
        connection = _open(path)
        try:
            for rowid, key, value, checksum in connection.execute(
                "SELECT rowid, key, value, checksum FROM embeddings"
            ):
                if _checksum(key, value) == checksum:
                    sound += 1
                else:
                    corrupt.append((rowid,))
            with connection:
                connection.executemany("DELETE FROM embeddings WHERE rowid = ?", corrupt)
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as exc:
        return CacheCheck(path, sound, 0, str(exc))
    return CacheCheck(path, sound, len(corrupt))


def _checksum(key: bytes, value: bytes) -> bytes:
    return zlib.crc32(value, zlib.crc32(key)).to_bytes(4, "big")


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False)


def _prepared(path: Path, config: str) -> sqlite3.Connection:
    """Open a cache file, and make it one where it is new."""
    connection = _open(path)
    try:
        connection.execute("PRAGMA synchronous=NORMAL")
        if not _is_made(connection):
            connection.execute(f"PRAGMA page_size={_PAGE}")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.executescript(_TABLES)
            with connection:
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('config', ?)", (config,))
    except BaseException:
        connection.close()
        raise
    return connection


def _is_made(connection: sqlite3.Connection) -> bool:
    """Whether a file has all that is written first; the configuration comes last."""
    try:
        return connection.execute("SELECT 1 FROM meta WHERE name = 'config'").fetchone() is not None
    except sqlite3.OperationalError as exc:
        if "no such table" in str(exc):
            return False
        raise


def _insert(connection: sqlite3.Connection, rows: list[tuple[bytes, bytes, bytes]]) -> None:
    with connection:
        connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", rows)


def _patiently(action: Callable[[], T]) -> T:
    """Repeat an action while another process holds the file.

    SQLite itself waits in most cases, but not when two processes change a new file to WAL.
    """
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return action()
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > deadline:
                raise
        time.sleep(0.02)


def _files(folder: str | Path | None) -> list[Path]:
    home = cache_folder() if folder is None else Path(folder).expanduser()
    return sorted(home.glob(f"*{_SUFFIX}"))


def _parts(path: Path) -> list[Path]:
    beside = [path.with_name(path.name + end) for end in _ASIDE]
    return [part for part in [path, *beside] if part.exists()]


def _describe(path: Path) -> CacheFile:
    size, used = sum(part.stat().st_size for part in _parts(path)), path.stat().st_mtime
    try:
        connection = _open(path)
        try:
            config = connection.execute("SELECT value FROM meta WHERE name = 'config'").fetchone()
            rows = connection.execute("SELECT count(*) FROM embeddings").fetchone()[0]
        finally:
            connection.close()
        return CacheFile(path, json.loads(config[0]) if config else {}, int(rows), size, used)
    except (sqlite3.Error, OSError, ValueError) as exc:
        return CacheFile(path, {}, 0, size, used, str(exc))


def _remove(path: Path) -> bool:
    try:
        for part in reversed(_parts(path)):
            part.unlink(missing_ok=True)
    except PermissionError:
        return False
    return True
