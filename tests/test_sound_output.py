"""LogMelEncoder: its sequence, its changes over time, and the trimming to voices."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from data import data_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfuse import FusionClassifier, ModalityTable, Presence, load, weights
from mmfuse.encoders import LogMelEncoder
from mmfuse.encoders._over_time import changes, equal_shares
from mmfuse.encoders._silero import SileroNet, speech_probability
from mmfuse.encoders._voice import energy_parts, keep_parts, silero_parts
from mmfuse.encoders._waves import read_wave
from mmfuse.heads import EarlyFusion

RATE = 16000
needs_silero = pytest.mark.skipif(
    find_spec("silero_vad") is None, reason="needs the package silero-vad: pip install mmfuse[vad]"
)


def encoder(**params) -> LogMelEncoder:
    return LogMelEncoder(**{"device": "cpu", "cache": False, **params}).fit([])


def noise(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=n) * np.linspace(0.1, 1, n)).astype(np.float32)


def digits(n: int, step: int = 7) -> list[np.ndarray]:
    files = sorted((data_folder("fsdd") / "recordings").glob("*.wav"))[::step][:n]
    return [read_wave(file, RATE) for file in files]


# The sequence.


def reference_shares(track: np.ndarray, steps: int) -> np.ndarray:
    """Means over equal shares of (bands, frames), by repeating every frame `steps` times."""
    return np.repeat(track, steps, axis=1).reshape(len(track), steps, -1).mean(axis=2)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 50))
def test_equal_shares_are_means_over_parts_of_equal_length(frames, steps):
    track = np.random.default_rng(0).normal(size=(3, 45))
    shares = equal_shares(torch.tensor(frames), 45, steps).double().numpy()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    for row, n in enumerate(frames):
        np.testing.assert_allclose(
            track @ shares[row], reference_shares(track[:, :n], steps), atol=1e-5
        )


def test_a_sequence_has_the_documented_order():
    one = encoder(output="sequence", n_frames=5, n_mels=20)
    wave = noise(9000)
    values = one.transform([wave]).reshape(-1, *one.output_shape_)
    assert one.output_shape_ == (5, 2, 20) and values.shape == (1, 5, 2, 20)
    with torch.inference_mode():
        batch = one.collate([torch.from_numpy(wave)])
        (mel, slope), frames, _ = one.module().tracks(batch)
    for i, track in enumerate((mel, slope)):
        expected = reference_shares(track[0, :, : frames[0]].numpy(), 5)
        np.testing.assert_allclose(values[0, :, i].T, expected, atol=1e-4)
    names = one.get_feature_names_out().reshape(one.output_shape_)
    assert names[3, 0, 7] == "audio_step3_mel7" and names[4, 1, 19] == "audio_step4_delta19"
    plain = encoder(output="sequence", n_frames=5, n_mels=20, deltas=False)
    assert plain.output_shape_ == (5, 1, 20)
    np.testing.assert_array_equal(plain.transform([wave])[0], values[0, :, 0].ravel())


def test_a_sequence_tells_what_comes_first():
    low, high = (np.sin(2 * np.pi * hz * np.arange(8000) / RATE) for hz in (300, 3000))
    one = encoder(output="sequence", n_frames=8, n_mels=32, deltas=False)
    values = one.transform([np.r_[low, high], np.r_[high, low]]).reshape(2, 8, 32)
    loudest = values.argmax(axis=2)
    assert (loudest[0, :4] < 8).all() and (loudest[0, 4:] > 20).all()
    assert (loudest[1] == loudest[0][::-1]).all()
    for length in (3, 200, 700):  # fewer frames than steps: nothing is padded
        short = one.transform([high[:length]]).reshape(8, 32)
        assert np.isfinite(short).all() and (short.max(axis=1) > -25).all()


@pytest.mark.parametrize("params", [{"output": "sequence"}, {}, {"n_segments": 3}])
def test_real_sounds_do_not_depend_on_the_batch(params):
    waves = [*digits(12), noise(100), noise(50000)]
    alone = encoder(batch_size=1, n_jobs=1, **params).transform(waves)
    together = encoder(batch_size=16, **params).transform(waves)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=3e-5)
    one = encoder(**params)
    with torch.inference_mode():
        batch = one.collate([torch.from_numpy(wave) for wave in waves[:5]])
        clean = one.module()(batch)
        for i, n in enumerate(batch["length"].tolist()):
            batch["wave"][i, n:] = 1e6
        assert torch.equal(one.module()(batch), clean)


@pytest.mark.parametrize("params", [{"output": "sequence"}, {}])
def test_gradients_are_those_without_numpy(params):
    module = encoder(n_mels=16, **params).module()
    wave = torch.from_numpy(noise(4000))[None]
    length = torch.tensor([4000])
    with torch.inference_mode():
        plain = module({"wave": wave, "length": length})
    wave = wave.clone().requires_grad_()
    values = module({"wave": wave, "length": length})
    torch.testing.assert_close(values.detach(), plain)
    values.sum().backward()
    assert torch.isfinite(wave.grad).all() and wave.grad.abs().sum() > 0


# Changes over time.


def test_changes_by_hand():
    square = torch.tensor([0.0, 0, 0, 0, 8, 8, 8, 8, 5]).reshape(1, 1, 9)
    whole = torch.tensor([0]), torch.tensor([9])
    found = [round(float(one), 4) for one in changes(square, 5, whole)]
    assert found == [round(11 / 8, 4), round(8 / 3, 4), 8, 8, 8]  # 8 frames lack a neighbour
    part = torch.tensor([4]), torch.tensor([9])
    assert [float(one) for one in changes(square, 2, part)] == [0.75, 0.0]
    assert [float(one) for one in changes(square, 2, (whole[0], whole[0] + 1))] == [0.0, 0.0]


def test_changes_find_the_pace_of_a_rhythm():
    t = np.arange(4 * RATE) / RATE
    carrier = np.random.default_rng(0).normal(size=len(t))
    paces = {}
    for hz in (3.125, 12.5):  # half a period is 16 or 4 frames
        one = encoder(n_mels=20)
        names = list(one.get_feature_names_out())
        values = one.transform([carrier * (0.01 + (np.sin(2 * np.pi * hz * t) > 0))])[0]
        of = [values[names.index(f"audio_mel10_change{2**k}")] for k in range(6)]
        paces[hz] = 2 ** int(np.argmax(of))
    assert paces == {3.125: 16, 12.5: 4}


# Trimming.


def test_parts_that_stand_out():
    rng = np.random.default_rng(0)
    wave = 1e-3 * rng.normal(size=5 * RATE)
    wave[RATE : 2 * RATE] += 0.3 * rng.normal(size=RATE)
    wave[3 * RATE : 3 * RATE + RATE // 2] += 0.1 * rng.normal(size=RATE // 2)
    wave[4 * RATE + 100] = 5.0  # a click
    parts = energy_parts(wave, RATE)
    seconds = np.array(parts) / RATE
    np.testing.assert_allclose(seconds, [[0.9, 2.1], [2.9, 3.6]], atol=0.035)
    for gain in (1e-4, 1e3):
        assert energy_parts(wave * gain, RATE) == parts
    (a, _), (_, b) = parts
    np.testing.assert_array_equal(keep_parts(wave, parts, cut_pauses=False), wave[a:b])
    joined = keep_parts(wave, parts, cut_pauses=True)
    assert len(joined) == sum(stop - start for start, stop in parts) < b - a
    assert keep_parts(wave, [], cut_pauses=True) is None


def test_a_recording_without_a_voice_is_empty():
    rng = np.random.default_rng(0)
    hum = np.sin(2 * np.pi * 50 * np.arange(RATE) / RATE)
    quiet = 1e-3 * rng.normal(size=2 * RATE)
    spoken = quiet.copy()
    spoken[8000 : 8000 + len(digits(1)[0])] += digits(1)[0]
    column = [hum, quiet, np.zeros(500), hum[:100], spoken]
    encoded = encoder(trim="energy").encode(column)
    assert encoded.presence.tolist() == [Presence.EMPTY] * 4 + [Presence.PRESENT]
    assert np.isnan(encoded.values[:4]).all()
    assert encoder().encode(column).presence.tolist() == [1, 1, 3, 1, 1]


def test_trimming_finds_a_real_digit_in_noise():
    one = encoder(trim="energy", n_mels=32)
    for wave in digits(8, step=31):
        hidden = np.r_[np.zeros(20000), wave, np.zeros(30000)].astype(np.float32)
        hidden += np.abs(wave).max() * 1e-3 * noise(len(hidden))
        kept = len(one.preprocess(hidden))
        assert 0.5 * len(wave) < kept < len(wave) + 0.25 * RATE


def test_trimming_counts_in_the_cache(tmp_path):
    wave = np.r_[np.zeros(8000), noise(8000), np.zeros(8000)]
    rows = [
        encoder(cache=tmp_path, trim=trim).transform([wave])[0] for trim in (None, "energy", None)
    ]
    np.testing.assert_array_equal(rows[0], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 1


def test_parts_that_a_detector_hears():
    heard = np.r_[0, 0.4, 0.9, 0.8, 0.4, 0.36, 0.3, 0, 0.9, 0.2, 0, 0, 0, 0, 0.45, 0.45, 0, 0]
    wave = np.zeros(512 * len(heard))
    margin = int(0.1 * RATE)
    parts = silero_parts(wave, RATE, lambda samples: heard)
    assert parts == [(2 * 512 - margin if 2 * 512 > margin else 0, 6 * 512 + margin)]
    at_eight = silero_parts(wave[::2], RATE // 2, lambda samples: heard[: len(samples) // 512])
    assert at_eight == [(0, 3 * 512 + margin // 2)]


@needs_silero
def test_silero_tells_speech_from_other_sounds():
    table = (data_folder("esc10") / "meta.csv").read_text().split()[1:]
    rows = [line.split(",") for line in table]
    quiet = [row[0] for row in rows if row[2] in ("rain", "helicopter", "fire_crackling")][::6]
    others = [data_folder("esc10") / "audio" / name for name in quiet]
    spoken = [np.concatenate(digits(48)[i : i + 4]) for i in range(0, 48, 4)]
    presence = encoder(trim="silero").encode([*spoken, *others]).presence
    assert (presence[: len(spoken)] == Presence.PRESENT).all()
    assert (presence[len(spoken) :] == Presence.EMPTY).all() and len(others) > 8


@needs_silero
def test_silero_hears_the_same_in_one_piece_and_in_chunks():
    """The original takes a chunk at a time with the 64 samples before, and keeps a state."""
    wave = np.concatenate(digits(4))
    found = speech_probability(wave)
    net = SileroNet().eval()
    from mmfuse.encoders._silero import _load

    net.load_state_dict(_load().state_dict())
    padded = torch.from_numpy(np.pad(wave, (64, -len(wave) % 512)))
    state, expected = None, []
    with torch.inference_mode():
        for start in range(0, len(padded) - 64, 512):
            one = net._features(padded[start : start + 576][None])
            out, state = net.lstm(one, state)
            expected.append(net.final_conv(out.relu()[:, :, None]).sigmoid().item())
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_silero
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_network_is_the_published_one():
    """Same tensors, same probabilities as the TorchScript model that the package ships."""
    file = weights.find("silero-vad-16k").with_name("silero_vad.jit")
    published = torch.jit.load(file).eval()
    theirs = {
        name.removeprefix("_model."): tensor
        for name, tensor in published.state_dict().items()
        if name.startswith("_model.")
    }
    names = {"stft_conv.weight": "stft.forward_basis_buffer"}
    for part in ("weight", "bias"):
        names[f"final_conv.{part}"] = f"decoder.decoder.2.{part}"
        for i in range(4):
            names[f"conv{i + 1}.{part}"] = f"encoder.{i}.reparam_conv.{part}"
        for kind in ("ih", "hh"):
            names[f"lstm.{part}_{kind}_l0"] = f"decoder.rnn.{part}_{kind}"
    net = SileroNet().eval()
    net.load_state_dict({ours: theirs[name] for ours, name in names.items()})
    wave = np.concatenate([*digits(3), np.zeros(3000, dtype=np.float32)])
    padded = torch.from_numpy(np.pad(wave, (0, -len(wave) % 512)))
    published.reset_states()
    with torch.inference_mode():
        expected = [published(part, RATE).item() for part in padded.split(512)]
        found = net(torch.from_numpy(wave)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert max(expected) > 0.9 and min(expected) < 0.5


def test_silero_without_its_package(monkeypatch):
    monkeypatch.setattr(weights, "find", lambda name: None)
    with pytest.raises(weights.WeightsNotFoundError, match="pip install silero-vad"):
        encoder(trim="silero").weights_hash()


# Saving and parameters.


@pytest.mark.parametrize(
    "params", [{"output": "sequence", "n_frames": 6}, {"trim": "energy", "trim_pauses": True}]
)
def test_a_saved_model_hears_the_same(params, tmp_path):
    files = sorted((data_folder("fsdd") / "recordings").glob("[01]_*_[0-3].wav"))
    y = np.array([file.name[0] for file in files])
    X = ModalityTable.from_dict({"audio": files})
    audio = LogMelEncoder(n_mels=20, cache=False, device="cpu", **params)
    model = FusionClassifier(EarlyFusion(), encoders={"audio": audio}, random_state=0).fit(X, y)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    fitted, before = again.encoders_["audio"], model.encoders_["audio"]
    assert fitted.output_shape_ == before.output_shape_
    assert (fitted.get_feature_names_out() == before.get_feature_names_out()).all()
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"output": "frames"}, "output must be one of 'statistics', 'sequence', got 'frames'"),
        ({"n_frames": 0}, "n_frames must be an integer of at least 1, got 0"),
        ({"n_scales": -1}, "n_scales must be an integer of at least 0, got -1"),
        ({"output": "sequence", "n_segments": 2}, "n_segments must be 1 with output='sequence'"),
        ({"trim": "webrtc"}, "trim must be one of None, 'energy', 'silero', got 'webrtc'"),
        ({"trim_pauses": 1, "trim": "energy"}, "trim_pauses must be True or False, got 1"),
        ({"trim_pauses": True}, "trim_pauses=True needs trim='energy' or 'silero', got trim=None"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((ValueError, TypeError), match=f"LogMelEncoder: {says}"):
        encoder(**params)
