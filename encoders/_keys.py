"""What a sample is, as a digest of its bytes: equal samples have equal keys."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mmfuse.exceptions import SampleError

__all__ = ["content_key", "file_of", "quick_key", "region_of"]

_CHUNK = 1 << 20
_SETTLED = 5.0  # seconds after a change within which a file system may not tell of another one
_REMEMBERED = 200_000  # files; about 50 MB
_known: OrderedDict[str, tuple[tuple[int, ...], bytes]] = OrderedDict()
_lock = Lock()


def content_key(cell: Any, *, text_cells: bool = False) -> bytes | None:
    """Return 32 bytes that stand for the content of a sample.

    Parameters
    ----------
    cell : object
        A raw sample. For a file its content counts, not its name.
    text_cells : bool
        Whether a str is the sample itself; otherwise it is the path of a file.

    Returns
    -------
    bytes or None
        None for a kind of object that has no known bytes; it is then encoded every time.

    Raises
    ------
    SampleError
        If a file cannot be read.
    """
    if isinstance(cell, Path) or (isinstance(cell, str) and not text_cells):
        return _file_key(cell)
    digest = hashlib.blake2b(digest_size=32)
    return digest.digest() if _feed(digest, cell, text_cells) else None


def quick_key(cell: Any, *, text_cells: bool = False, by_name: bool = False) -> bytes | None:
    """Return a key of a file without reading it, or None where that cannot be had.

    Parameters
    ----------
    cell : object
        A raw sample.
    text_cells : bool
        Whether a str is the sample itself; otherwise it is the path of a file.
    by_name : bool
        Take the name of a file that is there. Otherwise the key is that of `content_key`, and the
        file must be one that this process has read and that did not change since.
    """
    if not isinstance(cell, Path) and (text_cells or not isinstance(cell, str)):
        return None
    name = os.fspath(cell)
    stamp = _stamp(name)
    if by_name:
        return None if stamp is None else b"name\0" + os.fsencode(name)
    known = _known.get(name)  # one look-up needs no lock
    return known[1] if known is not None and known[0] == stamp else None


def _file_key(path: str | Path) -> bytes:
    """Key of a file; not read again in this process while size, times and place are the same."""
    known = quick_key(Path(path))
    if known is not None:
        return known
    name = os.fspath(path)
    before = _stamp(name)
    digest = hashlib.blake2b(digest_size=32)
    _feed_file(digest, path)
    key = digest.digest()
    # a file that was changed just now may change again without its times showing it
    settled = before is not None and time.time() - max(before[2], before[3]) / 1e9 > _SETTLED
    if settled and _stamp(name) == before:
        with _lock:
            _known[name] = (before, key)
            while len(_known) > _REMEMBERED:
                _known.popitem(last=False)
    return key


def _stamp(name: str) -> tuple[int, ...] | None:
    """Device and node, size, and times of the last changes of content and of state."""
    try:
        found = os.stat(name)
    except (OSError, ValueError):  # reading it will say what is wrong
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def file_of(cell: Any, *, text_cells: bool = False) -> str | None:
    """Return the file that a cell names, or None."""
    if isinstance(cell, Path) or (isinstance(cell, str) and not text_cells):
        return str(cell)
    if isinstance(cell, Mapping) and isinstance(cell.get("path"), (str, Path)):
        return str(cell["path"])
    region = None if text_cells else region_of(cell)
    return None if region is None else file_of(region[0])


def region_of(cell: Any) -> tuple[Any, Any] | None:
    """Return the picture and the box of a cell that is a region of interest, else None.

    Such a cell is a pair, or a dict with "box" and "image" (or "bytes" or "path").
    """
    if isinstance(cell, Mapping):
        names = [name for name in ("image", "bytes", "path") if name in cell]
        if "box" not in cell or not names:
            return None
        picture = next((cell[name] for name in names if cell[name] is not None), None)
        return picture, cell["box"]
    if isinstance(cell, (tuple, list)) and len(cell) == 2:
        return cell[0], cell[1]
    return None


def _feed(digest: Any, cell: Any, text_cells: bool) -> bool:
    """Update `digest` with a cell; return whether its kind is known."""
    if isinstance(cell, Path) or (isinstance(cell, str) and not text_cells):
        _feed_file(digest, cell)
    elif isinstance(cell, str):
        digest.update(b"text\0" + cell.encode("utf-8", "surrogatepass"))
    elif isinstance(cell, (bytes, bytearray, memoryview)):
        digest.update(b"bytes\0")
        digest.update(cell)
    elif isinstance(cell, np.ndarray) and cell.dtype.kind != "O":
        _feed_array(digest, cell)
    elif hasattr(cell, "detach") and hasattr(cell, "cpu"):
        _feed_array(digest, cell.detach().cpu().numpy())
    elif isinstance(cell, (bool, int, float, np.generic)):
        digest.update(f"number\0{type(cell).__name__}\0{cell!r}".encode())
    elif isinstance(cell, Mapping):
        return _feed_mapping(digest, cell, text_cells)
    elif isinstance(cell, (list, tuple, np.ndarray)):
        alone = not text_cells and region_of(cell) is not None
        return _feed_items(digest, b"list\0", list(cell), text_cells, one_file=alone)
    elif type(cell).__module__.startswith("PIL.") and hasattr(cell, "tobytes"):
        _feed_picture(digest, cell)
    else:
        return False
    return True


def _feed_file(digest: Any, path: str | Path) -> None:
    digest.update(b"bytes\0")
    try:
        with open(path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        raise SampleError("no such file") from None
    except (OSError, ValueError) as exc:  # ValueError: a NUL character in the name
        raise SampleError(getattr(exc, "strerror", None) or str(exc)) from exc


def _feed_array(digest: Any, array: np.ndarray) -> None:
    digest.update(f"array\0{array.dtype.str}\0{array.shape}\0".encode())
    digest.update(np.ascontiguousarray(array).data)


def _feed_mapping(digest: Any, cell: Mapping, text_cells: bool) -> bool:
    """A decoded sample, an encoded one, or a file, as Hugging Face writes them; or any record."""
    region = None if text_cells else region_of(cell)
    if region is not None:
        return _feed_items(digest, b"list\0", list(region), text_cells, one_file=True)
    if cell.get("array") is None:
        if cell.get("bytes") is not None:
            return _feed(digest, cell["bytes"], text_cells)
        if cell.get("path") is not None:
            return _feed(digest, Path(cell["path"]), text_cells)
        names = sorted(cell, key=str)
    else:
        names = ["array", "sampling_rate"]
    parts = [part for name in names for part in (str(name), cell.get(name))]
    return _feed_items(digest, b"dict\0", parts, True)


def _feed_items(
    digest: Any, tag: bytes, items: list[Any], text_cells: bool, *, one_file: bool = False
) -> bool:
    """Several parts; an error says in which of the files, unless the cell is known by its file."""
    digest.update(tag + str(len(items)).encode())
    for item in items:
        try:
            part = b"none" if item is None else content_key(item, text_cells=text_cells)
        except SampleError as exc:
            named = isinstance(item, Path) and not one_file
            raise SampleError(f"{item}: {exc}" if named else str(exc)) from exc
        if part is None:
            return False
        digest.update(part)
    return True


def _feed_picture(digest: Any, picture: Any) -> None:
    try:
        pixels = picture.tobytes()
    except (OSError, SyntaxError, ValueError) as exc:  # a lazily opened file that is broken
        raise SampleError(str(exc)) from exc
    turned = picture.getexif().get(0x0112)  # the EXIF orientation changes what is seen
    palette = picture.getpalette() if picture.mode in ("P", "PA") else None
    clear = picture.info.get("transparency")
    digest.update(f"picture\0{picture.mode}{picture.size}{turned}{palette}{clear!r}\0".encode())
    digest.update(pixels)
