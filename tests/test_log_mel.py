"""LogMelEncoder: against a reference in numpy, and kinds of sounds and broken files."""

from __future__ import annotations

import io
import struct
from copy import deepcopy

import numpy as np
import pytest
import soundfile
import torch
from data import data_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse import Presence
from mmfuse.encoders import LogMelEncoder
from mmfuse.encoders._logmel import deltas, mel_filters
from mmfuse.encoders._over_time import changes, masked_percentiles, statistics
from mmfuse.encoders._waves import read_wave
from mmfuse.exceptions import EncodingError, SampleError

RNG = np.random.default_rng(0)
RATE = 16000


def encoder(**params) -> LogMelEncoder:
    return LogMelEncoder(**{"device": "cpu", "cache": False, **params}).fit([])


def noise(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=n) * np.exp(-np.linspace(0, 3, n))).astype(np.float32)


def wav(wave: np.ndarray, rate: int = RATE, kind: str = "WAV", **options) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format=kind, **options)
    return buffer.getvalue()


# The reference: one clip, in double precision, frame by frame.


def reference_log_mel(wave, n_fft=512, win=400, hop=160, n_mels=64, f_min=20.0, top_db=80.0):
    wave = np.asarray(wave, dtype=np.float64)
    frames = 1 + len(wave) // hop
    wave = np.pad(wave, (0, max(0, n_fft - len(wave))))
    wave = np.pad(wave, n_fft // 2, mode="reflect")
    window = np.pad(np.hanning(win + 1)[:-1], (n_fft - win) // 2)
    starts = range(0, frames * hop, hop)
    power = np.array([np.abs(np.fft.rfft(window * wave[s : s + n_fft])) ** 2 for s in starts])

    def mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    corners = np.linspace(mel(f_min), mel(RATE / 2), n_mels + 2)
    corners = 700 * (10 ** (corners / 2595) - 1)
    hz = np.fft.rfftfreq(n_fft, 1 / RATE)
    bands = [np.interp(hz, corners[i : i + 3], [0, 1, 0]) for i in range(n_mels)]
    energy = power @ np.array(bands).T
    return 10 * np.log10(np.maximum(energy / energy.max(), 10 ** (-top_db / 10)))


def reference_deltas(track):  # (frames, bands): slope of a line through five frames
    wide = np.pad(track, ((2, 2), (0, 0)), mode="edge")
    x = np.arange(-2, 3)
    return np.array([(x @ wide[i : i + 5]) / (x @ x) for i in range(len(track))])


def reference_changes(part, n_scales=6):
    found = [np.zeros(part.shape[1])]
    for scale in range(n_scales):
        width = 2**scale
        n = len(part) // width
        means = np.array([part[i * width : (i + 1) * width].mean(0) for i in range(n)])
        found.append(np.abs(np.diff(means, axis=0)).mean(0) if n > 1 else found[-1])
    return found[1:]


def reference(wave, percentiles=(10, 50, 90), n_segments=1):
    track = reference_log_mel(wave)
    tracks = [track, reference_deltas(track)]
    n = len(track)
    spans = [slice(0, n)]
    if n_segments > 1:
        edges = [(i * n) // n_segments for i in range(n_segments + 1)]
        spans += [slice(a, max(b, a + 1)) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    parts = []
    for span in spans:
        for one in tracks:
            part = one[span]
            parts += [part.mean(0), part.std(0), *np.percentile(part, percentiles, axis=0)]
            if one is track:
                parts += reference_changes(part)
    return np.concatenate(parts)


LENGTHS = (1, 100, 400, 511, 512, 513, 1600, 1759, 1760, 12345, 40000)


@pytest.mark.parametrize("n_segments", [1, 3])
def test_against_numpy(n_segments):
    waves = [noise(n, seed=n) for n in LENGTHS]
    values = encoder(n_segments=n_segments, batch_size=16).transform(waves)
    for wave, row in zip(waves, values, strict=True):
        np.testing.assert_allclose(row, reference(wave, n_segments=n_segments), atol=5e-3)


def test_real_sounds_against_numpy():
    files = sorted((data_folder("fsdd") / "recordings").glob("*.wav"))[:8]
    values = encoder().transform(files)
    for file, row in zip(files, values, strict=True):
        np.testing.assert_allclose(row, reference(read_wave(file, RATE)), atol=5e-3)


def test_a_batch_is_the_same_as_one_by_one():
    waves = [noise(n, seed=n) for n in LENGTHS]
    together = encoder(n_segments=2, batch_size=16).transform(waves)
    alone = encoder(n_segments=2, batch_size=1).transform(waves)
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=2e-5)  # about two units of float32


def test_what_lies_in_the_padding_does_not_matter():
    module = encoder(n_segments=2).module()
    waves = [torch.from_numpy(noise(n)) for n in (3000, 7000)]
    batch = encoder().collate(waves)
    with torch.inference_mode():
        clean = module(batch)
        batch["wave"][0, 3000:] = 1e6
        np.testing.assert_array_equal(module(batch), clean)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 4000), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 2**31),
)
def test_any_lengths(lengths, n_segments, seed):
    rng = np.random.default_rng(seed)
    waves = [rng.normal(size=n).astype(np.float32) for n in lengths]
    one = encoder(n_mels=8, n_segments=n_segments)
    together = one.transform(waves)
    for wave, row in zip(waves, together, strict=True):
        np.testing.assert_allclose(one.transform([wave])[0], row, rtol=1e-5, atol=3e-5)


def test_percentiles_and_deltas_by_hand():
    track = torch.from_numpy(RNG.normal(size=(2, 3, 9)))
    inside = torch.arange(9) < torch.tensor([9, 4])[:, None]
    found = masked_percentiles(track, inside[:, None], [0.0, 0.1, 0.25, 0.5, 1.0])
    for row, n in ((0, 9), (1, 4)):
        expected = np.percentile(track[row, :, :n], [0, 10, 25, 50, 100], axis=1)
        np.testing.assert_allclose(np.stack([f[row] for f in found]), expected, atol=1e-6)
    slope = deltas(torch.arange(20.0).reshape(1, 1, 20))
    np.testing.assert_allclose(slope[0, 0, 2:-2], 1.0)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_all_frames_are_as_a_span_of_all_frames(n):
    track = torch.from_numpy(RNG.normal(size=(2, 3, n)))
    wide = torch.nn.functional.pad(track, (5, 9), value=99.0)
    span = torch.full((2,), 5), torch.full((2,), 5 + n)
    for alone, cut in (
        (statistics(track, [0.0, 0.3, 1.0]), statistics(wide, [0.0, 0.3, 1.0], span)),
        (changes(track, 4), changes(wide, 4, span)),
    ):
        torch.testing.assert_close(torch.stack(alone), torch.stack(cut))


@pytest.mark.parametrize("n_fft, win, n", [(401, 401, 8000), (511, 400, 1600), (512, 399, 5000)])
def test_odd_lengths_of_transform_and_window(n_fft, win, n):
    wave = noise(n)
    one = encoder(n_fft=n_fft, win_length=win, n_mels=16, n_scales=0, deltas=False)
    before = (n_fft - win) // 2
    window = np.pad(np.hanning(win + 1)[:-1], (before, n_fft - win - before))
    padded = np.pad(wave.astype(np.float64), (n_fft // 2, (n_fft + 1) // 2), mode="reflect")
    frames = np.stack([padded[i * 160 : i * 160 + n_fft] for i in range(1 + n // 160)])
    filters = mel_filters(n_fft // 2 + 1, 16, 20.0, RATE / 2, RATE)
    power = filters @ (np.abs(np.fft.rfft(frames * window)) ** 2).T
    track = 10 * np.log10(np.maximum(power / power.max(), 1e-8))
    found = one.transform([wave, np.tile(wave, 2)])[0]  # in a batch that pads
    np.testing.assert_allclose(found[:16], track.mean(axis=1), atol=5e-3)
    np.testing.assert_allclose(one.transform([wave])[0], found, rtol=1e-5, atol=3e-5)


def test_names_tell_what_a_feature_is():
    names = list(encoder(n_mels=20, n_segments=2).get_feature_names_out())
    assert len(names) == 3 * (2 * 5 + 6) * 20
    assert names.index("audio_mel0_change32") == 10 * 20
    assert names[12] == "audio_mel12_mean" and "audio_delta3_p90" in names
    quiet = noise(8000)
    quiet[4000:] *= 1e-3
    values = dict(zip(names, encoder(n_mels=20, n_segments=2).transform([quiet])[0], strict=True))
    assert values["audio_segment0_mel5_mean"] > values["audio_segment1_mel5_mean"] + 20
    assert values["audio_mel5_p10"] <= values["audio_mel5_p50"] <= values["audio_mel5_p90"]
    plain = encoder(n_mels=20, deltas=False, percentiles=[2.5], n_scales=0)
    assert plain.get_feature_names_out()[-1] == "audio_mel19_p2.5"


def test_loudness_does_not_count():
    wave = noise(5000)
    values = encoder().transform([wave, wave * 1e-6, wave * 3e4])
    np.testing.assert_allclose(values[1:], np.stack([values[0]] * 2), atol=1e-2)


def test_gradients_reach_the_samples():
    module = encoder().module()
    wave = torch.from_numpy(noise(3000))[None].requires_grad_()
    module({"wave": wave, "length": torch.tensor([3000])}).sum().backward()
    assert torch.isfinite(wave.grad).all() and wave.grad.abs().sum() > 0


def test_gradients_are_those_of_the_clip_in_a_batch_that_pads():
    module = deepcopy(encoder(n_mels=16, n_segments=2).module()).double()
    wave = torch.from_numpy(noise(3000)).double()
    alone = wave[None].clone().requires_grad_()
    padded = torch.nn.functional.pad(wave.repeat(2, 1), (0, 2000)).requires_grad_()
    module({"wave": alone, "length": torch.tensor([3000])}).square().sum().backward()
    both = module({"wave": padded, "length": torch.tensor([3000, 4000])})[0]
    both.square().sum().backward()
    torch.testing.assert_close(padded.grad[0, :3000], alone.grad[0], rtol=1e-3, atol=1e-3)


# Kinds of sounds.


def test_all_ways_to_give_one_sound(tmp_path):
    pcm = (noise(4000) / np.abs(noise(4000)).max() * 20000).astype(np.int16)
    data = wav(pcm)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    floats = pcm / 32768
    expected = encoder().transform([path])[0]
    ways = [
        str(path),
        data,
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        pcm,
        floats,
        floats.astype(np.float32),
        list(floats),
        torch.from_numpy(floats),
        (floats, RATE),
        (torch.from_numpy(floats), np.int64(RATE)),
        {"array": floats, "sampling_rate": RATE, "path": "gone.wav"},
        np.stack([floats, floats]),
        np.stack([floats * 2, floats * 0]),
        floats[None],
        pcm.astype(np.int32) * 65536,
    ]
    for row in encoder().transform(ways):
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-3)


def test_unsigned_samples_have_their_zero_in_the_middle():
    bytes_ = np.clip(noise(4000) * 20 + 128, 0, 255).astype(np.uint8)
    middle = (bytes_.astype(np.float64) - 128) / 128
    a, b = encoder().transform([bytes_, middle])
    np.testing.assert_allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_formats(kind):
    t = np.arange(RATE) / RATE
    wave = 0.5 * np.sin(2 * np.pi * 440 * t) * np.linspace(0.2, 1, RATE)
    try:
        data = wav(wave, kind=kind)
    except (ValueError, soundfile.LibsndfileError):
        pytest.skip(f"this libsndfile cannot write {kind}")
    means = encoder(n_mels=32).transform([data, wave])[:, :32]
    assert means.argmax(axis=1)[0] == means.argmax(axis=1)[1]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates(rate):
    def tone(r):
        t = np.arange(int(0.5 * r)) / r
        return np.sin(2 * np.pi * 1000 * t) * np.hanning(len(t))

    data = wav(np.stack([tone(rate)] * 2, axis=1), rate, subtype="FLOAT")
    values = encoder(n_mels=32).transform([data, (tone(rate), rate), tone(RATE)])[:, :64]
    loud = values[2, :32] > -50  # below lies what the resampling filter lets through
    np.testing.assert_allclose(values[0], values[1], atol=1e-3)
    np.testing.assert_allclose(values[0, :32][loud], values[2, :32][loud], atol=1)
    assert read_wave(data, RATE).shape == (RATE // 2,)


def test_silence_and_nothing_are_empty():
    data = wav(np.zeros(0))
    opposite = np.stack([noise(100), -noise(100)])
    column = [np.zeros(500), np.zeros(0), data, wav(np.zeros(300)), opposite, noise(500)]
    encoded = encoder().encode(column)
    assert encoded.presence.tolist() == [Presence.EMPTY] * 5 + [Presence.PRESENT]


def test_max_duration():
    wave = noise(RATE)
    for sample in (wave, wav(wave, subtype="FLOAT"), (wave, RATE)):
        np.testing.assert_allclose(
            encoder(max_duration=0.25).transform([sample]),
            encoder().transform([wave[: RATE // 4]]),
            rtol=1e-5,
            atol=1e-4,
        )


@pytest.mark.parametrize(
    ("sample", "says"),
    [
        (np.array([0.0, np.nan, 1.0]), "NaN or infinite"),
        (np.array([0.0, np.inf]), "NaN or infinite"),
        (np.zeros((4000, 2)), r"\(n_channels, n_samples\), got \(4000, 2\); transpose it"),
        (np.zeros((2, 2, 2)), "shape"),
        (np.array(["a"]), "expected a path"),
        (3.5, "got float"),
        ([[1, 2], [3]], "numbers only"),
        ((np.zeros(5), 0), "a sampling rate must be a positive integer, got 0"),
        (b"no sound", "cannot read the sound"),
        ({"bytes": None, "path": None}, "NoneType"),
    ],
)
def test_what_is_no_sound(sample, says):
    with pytest.raises(SampleError, match=says):
        read_wave(sample, RATE)


# Files that are cut short.


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "FLAC"])
def test_truncated_files(kind, tmp_path):
    data = wav(noise(20000), kind=kind)
    path = tmp_path / "cut.wav"
    for share in (0.3, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(EncodingError, match=r"audio, row 1 \(.*cut.wav\): "):
            encoder().transform([noise(500), path])


def test_a_truncated_wav_says_so():
    data = wav(noise(1000).astype(np.float32))
    with pytest.raises(SampleError, match="truncated: 1990 of 2000 bytes"):
        read_wave(data[:-10], RATE)
    assert read_wave(data, RATE).shape == (1000,)


def test_headers_of_a_stream_and_odd_chunks():
    data = bytearray(wav(noise(1000).astype(np.float32)))
    at = data.index(b"data")
    for size in (0xFFFFFFFF, 0x7FFFF024, 0):  # a writer that could not go back to fill it in
        struct.pack_into("<I", data, at + 4, size)
        assert len(read_wave(bytes(data), RATE)) == 1000
    struct.pack_into("<I", data, at + 4, 2000)
    noted = bytes(data[:at]) + b"note" + struct.pack("<I", 3) + b"abc\0" + bytes(data[at:])
    assert len(read_wave(noted, RATE)) == 1000
    nothing = wav(np.zeros(0)) + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert read_wave(nothing, RATE) is None


def test_real_sounds():
    folder = data_folder("fsdd") / "recordings"
    files = sorted(folder.glob("*_jackson_*.wav")) + sorted(folder.glob("*_nicolas_*.wav"))
    speaker = np.array(["jackson" in file.name for file in files])
    values = encoder().transform(files)
    assert np.isfinite(values).all()
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    assert cross_val_score(model, values, speaker, cv=4).mean() > 0.95


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"n_mels": 0}, "n_mels must be an integer of at least 1, got 0"),
        ({"n_mels": 400}, "n_mels=400 bands are too narrow"),
        ({"win_length": 600}, "win_length must be at most n_fft=512"),
        ({"f_max": 9000}, "f_min and f_max must satisfy"),
        ({"f_min": -1}, "f_min and f_max must satisfy"),
        ({"top_db": 0}, "top_db must be a finite number above 0"),
        ({"percentiles": (10, 101)}, "percentiles must lie in 0..100"),
        ({"percentiles": 50}, "percentiles must be a sequence"),
        ({"deltas": "yes"}, "deltas must be True or False"),
        ({"max_duration": -1.0}, "max_duration must be"),
        ({"sample_rate": 16000.0}, "sample_rate must be an integer"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((ValueError, TypeError), match=f"LogMelEncoder: {says}"):
        LogMelEncoder(**params).fit([])
