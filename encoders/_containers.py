"""Whether a sound file is whole; libsndfile reads most that are cut short without a word."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

from mmfuse.encoders._mp3 import counted_mp3
from mmfuse.exceptions import SampleError

__all__ = ["whole_file"]

_RIFF = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_ENDLESS = 0x7FFFF000  # from here on, a size is what a writer that cannot seek puts in the header
_OGG_FIRST, _OGG_LAST = 2, 4  # flags of a page


def whole_file(file: BinaryIO) -> BinaryIO:
    """Return a file for libsndfile to read; raise SampleError for a sound that is cut short.

    A WAV file is cut short if bytes of its data chunk are missing; an Ogg file if its last page is
    incomplete or no page is marked as the last of its stream; an MP3 file if its last frame is
    incomplete or its Xing or Info frame promises more frames than there are. Other formats pass;
    of FLAC and AIFF the number of samples is known and compared by the caller.

    Where libsndfile would read nothing (a WAV whose size is still 0, as a recorder that was stopped
    leaves it) or guess the length (an MP3 without Xing or Info frame), a mended copy is returned.
    """
    head = file.read(12)
    file.seek(0)
    if head[:4] in _RIFF and head[8:] == b"WAVE":
        return _whole_riff(file, "big" if head[:4] == b"RIFX" else "little")
    if head[:4] == b"OggS":
        _check_ogg(file)
    elif head[:3] == b"ID3" or (head[:1] == b"\xff" and len(head) > 1 and head[1] & 0xE6 == 0xE2):
        return io.BytesIO(counted_mp3(file.read()))
    file.seek(0)
    return file


def _whole_riff(file: BinaryIO, order: Any) -> BinaryIO:
    end, at = file.seek(0, io.SEEK_END), 12
    while at + 8 <= end:
        file.seek(at)
        name, size = file.read(4), int.from_bytes(file.read(4), order)
        there = end - at - 8
        if name == b"data" and there < size < _ENDLESS:
            raise SampleError(f"the file is truncated: {there} of {size} bytes of sound are there")
        if name == b"data" and size == 0 and there and not file.read(4).isalpha():
            file.seek(0)
            whole = bytearray(file.read())
            whole[at + 4 : at + 8] = min(there, _ENDLESS).to_bytes(4, order)
            return io.BytesIO(whole)
        if name == b"data":
            break
        at += 8 + size + size % 2
    file.seek(0)
    return file


def _check_ogg(file: BinaryIO) -> None:
    """Walk over the pages (RFC 3533) and raise for a stream that does not end."""
    end, at = file.seek(0, io.SEEK_END), 0
    running: set[bytes] = set()
    while at < end:
        file.seek(at)
        header = file.read(27)
        if header[:4] != b"OggS"[: len(header)]:
            break  # a tag behind the sound
        sizes = file.read(header[26]) if len(header) == 27 else b""
        lacking = 27 - len(header) if len(header) < 27 else header[26] - len(sizes)
        at += 27 + len(sizes) + sum(sizes)
        if lacking or at > end:
            raise SampleError("the file is truncated: its last Ogg page is incomplete")
        serial, flags = header[14:18], header[5]
        if flags & _OGG_FIRST:
            running.add(serial)
        if flags & _OGG_LAST:
            running.discard(serial)
    if running:
        raise SampleError(
            "the file is truncated: no Ogg page is marked as the last of its stream; if nothing "
            "is missing, write it again with another program"
        )
