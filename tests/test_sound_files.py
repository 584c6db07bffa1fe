"""Sound files that are cut short, or that libsndfile would misread."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pytest
import soundfile
from data import data_folder

from mmfuse.encoders import LogMelEncoder
from mmfuse.encoders._mp3 import counted_mp3
from mmfuse.encoders._waves import read_wave
from mmfuse.exceptions import EncodingError, SampleError

RATE = 16000


@lru_cache
def sound(kind: str, rate: int = RATE, channels: int = 1, subtype: str | None = None) -> bytes:
    rng = np.random.default_rng(0)
    wave = (np.cumsum(rng.normal(size=(2 * rate, channels)), axis=0) / 300).clip(-1, 1)
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, wave, rate, format=kind, subtype=subtype)
    except (ValueError, soundfile.LibsndfileError):
        pytest.skip(f"this libsndfile cannot write {kind}")
    return buffer.getvalue()


def bare(mp3: bytes) -> bytes:
    """Take away the frame that says how many follow."""
    return mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", None), ("OGG", "OPUS"), ("MP3", None)])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_cut_is_noticed(kind, subtype, channels):
    data = sound(kind, RATE, channels, subtype)
    assert len(read_wave(data, RATE)) == 2 * RATE
    for kept in [*np.linspace(0.05, 0.99, 40) * len(data), len(data) - 1, len(data) - 30]:
        with pytest.raises(SampleError, match=r"the file is truncated: |cannot read the sound"):
            read_wave(data[: int(kept)], RATE)


def pages(ogg: bytes) -> list[bytes]:
    return [b"OggS" + page for page in ogg.split(b"OggS")[1:]]


def test_an_ogg_file_cut_between_pages_or_inside_a_header():
    data = sound("OGG")
    whole = pages(data)
    with pytest.raises(SampleError, match="no Ogg page is marked as the last .* write it again"):
        read_wave(b"".join(whole[:-1]), RATE)
    with pytest.raises(SampleError, match="its last Ogg page is incomplete"):
        read_wave(b"".join(whole[:-1]) + whole[-1][:12], RATE)
    with pytest.raises(SampleError, match="its last Ogg page is incomplete"):
        read_wave(b"".join(whole[:-1]) + whole[-1][:28], RATE)


def test_real_ogg_files(tmp_path):
    files = sorted((data_folder("esc10") / "audio").glob("*.ogg"))[::8]
    for file in files:
        wave = read_wave(file, RATE)
        assert len(wave) == soundfile.info(file).frames
        cut = tmp_path / file.name
        cut.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
        with pytest.raises(EncodingError, match=rf"row 0 \(.*{file.name}\): the file is truncated"):
            LogMelEncoder(cache=False, device="cpu").fit([]).transform([cut])


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_without_a_count_is_read_whole(rate, channels):
    data = sound("MP3", rate, channels)
    expected, found = read_wave(data, rate), read_wave(bare(data), rate)
    late = len(found) - len(expected)  # the delay and the padding of the encoder are now heard
    assert 0 < late < 3 * 1152
    heard = found[576:][: len(expected)]
    assert len(heard) > 0.98 * len(expected)
    assert np.corrcoef(expected[: len(heard)], heard)[0, 1] > 0.999


def test_an_mp3_with_tags():
    data = sound("MP3")
    before = b"ID3\x03\0\0\0\0\x02\x01" + bytes(257)
    after = b"TAG" + bytes(125)
    for one in (data, bare(data)):
        assert len(read_wave(before + one + after, RATE)) == len(read_wave(one, RATE))
        with pytest.raises(SampleError, match="truncated: its last frame lacks 9 bytes"):
            read_wave(before + one[:-9], RATE)


def test_an_mp3_that_lacks_whole_frames():
    data = sound("MP3")
    size = data.index(data[:2], 4)
    last = data.rindex(data[:2])
    with pytest.raises(SampleError, match=r"truncated: (\d+) of (\d+) frames of sound are there"):
        read_wave(data[:last], RATE)
    # Nothing tells that the last frames are missing where there is no count.
    assert len(read_wave(data[size:last], RATE)) < len(read_wave(data[size:], RATE))


@pytest.mark.parametrize("data", [b"", b"\xff\xfb", b"\xff\xfb\x90", b"ID3", b"\xff\xe3" * 50])
def test_what_only_looks_like_an_mp3_is_left_alone(data):
    assert counted_mp3(data) is data
    with pytest.raises(SampleError, match="cannot read the sound"):
        read_wave(data, RATE)
