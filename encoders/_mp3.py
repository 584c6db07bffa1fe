"""Whether an MP3 file is whole, by a walk over its frames (ISO/IEC 11172-3 and 13818-3, layer III).

libsndfile takes the number of samples from the Xing or Info frame that most encoders write first.
Where there is none it guesses from the size of the file, and may then leave half of the sound out.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmfuse.exceptions import SampleError

__all__ = ["counted_mp3"]

_KBIT = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG-1
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),  # MPEG-2, MPEG-2.5
}
_HERTZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_MONO = 3


@dataclass(frozen=True)
class _Frame:
    """What the four bytes of a frame header say."""

    size: int
    version: int
    rate: int
    channel_mode: int

    @property
    def side(self) -> int:
        """Bytes of side information behind the header."""
        wide, narrow = (32, 17) if self.version == 3 else (17, 9)
        return narrow if self.channel_mode == _MONO else wide

    def continues(self, other: _Frame) -> bool:
        return (self.version, self.rate) == (other.version, other.rate)


def counted_mp3(data: bytes) -> bytes:
    """Return an MP3 file whose first frame says how many frames follow.

    Bytes that are no MP3, or one of free bit rate, are returned as they are.

    Raises
    ------
    SampleError
        If the last frame is cut, or fewer frames are there than the Xing or Info frame says.
    """
    at = _behind_tag(data)
    first = _header(data, at)
    if first is None:
        return data
    announced = _announced(data, at, first)
    count, end = _count(data, at, first)
    if count < 2 and announced is None:
        return data  # two bytes of sync are too little to call it an MP3
    if end > len(data):
        raise SampleError(f"the file is truncated: its last frame lacks {end - len(data)} bytes")
    if announced is None:
        return data[:at] + _info_frame(data[at : at + 4], first, count) + data[at:]
    if count - 1 < announced:
        raise SampleError(
            f"the file is truncated: {count - 1} of {announced} frames of sound are there"
        )
    return data


def _behind_tag(data: bytes) -> int:
    """Return where the sound starts: behind ID3v2 tags."""
    at = 0
    while data[at : at + 3] == b"ID3" and len(data) >= at + 10:
        size = 0
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += size + (20 if data[at + 5] & 0x10 else 10)
    return at


def _header(data: bytes, at: int) -> _Frame | None:
    """Read a header; None where there is none of layer III with a fixed bit rate."""
    if len(data) < at + 4 or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:
        return None
    version = data[at + 1] >> 3 & 3
    kbit, hertz = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version == 1 or kbit in (0, 15) or hertz == 3:
        return None
    rate = _HERTZ[version][hertz]
    size = (144 if version == 3 else 72) * 1000 * _KBIT[version == 3][kbit] // rate
    return _Frame(size + (data[at + 2] >> 1 & 1), version, rate, data[at + 3] >> 6)


def _announced(data: bytes, at: int, first: _Frame) -> int | None:
    """Return the number of frames that a Xing or Info frame promises, or None."""
    place = at + 4 + first.side
    if data[place : place + 4] not in (b"Xing", b"Info") or not data[place + 7 : place + 8]:
        return None
    counted = data[place + 7] & 1 and len(data) >= place + 12
    return int.from_bytes(data[place + 8 : place + 12], "big") if counted else 0


def _count(data: bytes, at: int, first: _Frame) -> tuple[int, int]:
    """Return the number of frames in a row and where the last of them ends."""
    count = 0
    while at < len(data):
        frame = _header(data, at)
        if frame is None or not frame.continues(first):
            break  # a tag behind the sound
        at += frame.size
        count += 1
    return count, at


def _info_frame(header: bytes, first: _Frame, count: int) -> bytes:
    """Make the frame that promises `count` frames."""
    version_one = first.version == 3
    kbit = next(
        i
        for i, rate in enumerate(_KBIT[version_one])
        if (144 if version_one else 72) * 1000 * rate // first.rate >= first.side + 16
    )
    plain = bytes((0xFF, header[1] | 1, kbit << 4 | header[2] & 0x0C, header[3]))
    made = _header(plain, 0)
    assert made is not None
    head = plain + bytes(first.side) + b"Info" + (1).to_bytes(4, "big") + count.to_bytes(4, "big")
    return head.ljust(made.size, b"\0")
