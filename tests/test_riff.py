"""16-bit WAV files read directly: the values of libsndfile, and which files are left to it."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile

from mmfuse.encoders._riff import read_pcm16

RATE = 16000


def wav(n_channels: int = 1, n: int = 1001, **options) -> bytes:
    rng = np.random.default_rng(n_channels)
    wave = rng.integers(-32768, 32768, (n, n_channels)).astype(np.int16)
    buffer = io.BytesIO()
    options = {"format": "WAV", "subtype": "PCM_16", **options}
    soundfile.write(buffer, wave, RATE, **options)
    return buffer.getvalue()


def by_libsndfile(data: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(data), dtype="float32")[0].T


@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
@pytest.mark.parametrize("n_channels", [1, 2, 5])
def test_the_values_are_those_of_libsndfile(kind, n_channels):
    data = wav(n_channels, format=kind)
    wave, rate = read_pcm16(io.BytesIO(data), None)
    assert rate == RATE and wave.dtype == np.float32
    np.testing.assert_array_equal(wave, by_libsndfile(data))


def with_chunk(data: bytes, chunk: bytes, before: bytes) -> bytes:
    at = data.index(before)
    return data[:4] + struct.pack("<I", len(data) + len(chunk) - 8) + data[8:at] + chunk + data[at:]


@pytest.mark.parametrize("before", [b"fmt ", b"data"])
def test_other_chunks_are_passed_over(before):
    data = wav(2)
    odd = b"JUNK" + struct.pack("<I", 5) + b"data\0\0"  # padded to an even length
    longer = with_chunk(data, odd, before)
    np.testing.assert_array_equal(read_pcm16(io.BytesIO(longer), None)[0], by_libsndfile(data))
    tagged = data + b"LIST" + struct.pack("<I", 4) + b"INFO"
    np.testing.assert_array_equal(read_pcm16(io.BytesIO(tagged), None)[0], by_libsndfile(data))


@pytest.mark.parametrize("seconds, n", [(0.01, 160), (0.00999, 160), (1e-9, 1), (9.0, 1001)])
def test_no_more_is_read_than_wanted(seconds, n):
    wave, _ = read_pcm16(io.BytesIO(wav(2)), seconds)
    np.testing.assert_array_equal(wave, by_libsndfile(wav(2))[:, :n])


def layout(data: bytes, offset: int, kind: str, value: int) -> bytes:
    """The same file with another number in its format chunk."""
    at = data.index(b"fmt ") + 8 + offset
    number = struct.pack(kind, value)
    return data[:at] + number + data[at + len(number) :]


ODD = {
    "24 bits": wav(subtype="PCM_24"),
    "8 bits": wav(subtype="PCM_U8"),
    "float": wav(subtype="FLOAT"),
    "mu law": wav(subtype="ULAW"),
    "big-endian": wav(endian="BIG"),
    "RF64": wav(format="RF64"),
    "FLAC": wav(format="FLAC"),
    "cut short": wav()[:-2],
    "cut in the header": wav()[:30],
    "no channels": layout(wav(), 2, "<H", 0),
    "rate of zero": layout(wav(), 4, "<I", 0),
    "padded frames": layout(wav(), 12, "<H", 4),
    "size still zero": wav().replace(
        b"data" + struct.pack("<I", 2002), b"data" + struct.pack("<I", 0)
    ),
    "half a frame": layout(layout(wav(), 2, "<H", 3), 12, "<H", 6),  # 2002 bytes, 6 to a frame
    "no data": wav()[:36],
    "empty": b"",
}


@pytest.mark.parametrize("name", ODD)
def test_all_other_files_are_left_to_libsndfile(name):
    file = io.BytesIO(ODD[name])
    assert read_pcm16(file, None) is None
    assert file.tell() == 0


def test_the_odd_files_are_odd():
    """What is changed above is found in the file; unchanged, it is read."""
    plain = wav()
    assert len({*ODD.values(), plain}) == len(ODD) + 1
    assert read_pcm16(io.BytesIO(layout(plain, 4, "<I", RATE)), None)[1] == RATE
