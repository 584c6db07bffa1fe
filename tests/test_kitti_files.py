"""Files of KITTI: scenes with their objects, and files that are broken or of another kind."""

from __future__ import annotations

import numpy as np
import pytest
from encoder_list import CAMERA
from road_scenes import BOX, CALIB, LABELS, both, lidar, points_in, write_frames

from mmfuse.datasets import read_kitti
from mmfuse.encoders._kitti import read_calibration, read_labels, read_points
from mmfuse.exceptions import EncodingError, SampleError


@pytest.fixture
def folder(tmp_path):
    return write_frames(tmp_path)


def test_read_kitti(folder):
    scenes = read_kitti(folder)
    assert scenes.y.tolist() == ["Car", "Pedestrian"] * 2
    assert scenes.groups.tolist() == ["000000"] * 2 + ["000001"] * 2
    assert scenes.X.modalities == ("lidar", "camera")
    assert scenes.X.presence.tolist() == [[1, 1], [1, 1], [1, 0], [1, 0]]
    assert scenes.X.ids.tolist() == ["000000-0", "000000-1", "000001-0", "000001-1"]
    assert set(scenes.X["camera"][0]) == {"image", "calib", "box"}
    assert set(scenes.X["lidar"][0]) == {"points", "box"}
    assert scenes.labels["occluded"].tolist() == [0, 2, 0, 2]
    assert scenes.labels["length"].tolist() == [4.0, 0.8, 4.0, 0.8]
    expected = [10, 1, 0, 4, 2, 1.6, 1.9708 - np.pi / 2]
    np.testing.assert_allclose(scenes.objects[0]["box"], expected, atol=1e-9)
    assert len(read_kitti(folder, frames=["000001"]).y) == 2
    encoded = both().encode(scenes.objects)
    # no point is in the box of the second object, and only the first frame has a picture of it
    assert encoded.presence.tolist() == [1, 1, 1, 3]


def test_read_kitti_errors(folder):
    with pytest.raises(FileNotFoundError, match="read_kitti: .*calib has no folder label_2; name"):
        read_kitti(folder / "calib")
    with pytest.raises(
        FileNotFoundError, match=r"no labels of the frames \['7'\]; it has 2 frames"
    ):
        read_kitti(folder, frames=["000000", "7"])
    with pytest.raises(TypeError, match="frames must be a list of names, got the string '000000'"):
        read_kitti(folder, frames="000000")
    (folder / "calib" / "000001.txt").unlink()
    with pytest.raises(SampleError, match="calib/000001.txt: no such file"):
        read_kitti(folder)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0" * 17, "has 17 bytes, which is no multiple of 16; .* cut short or of another kind"),
        (np.full(8, np.nan, "<f4").tobytes(), "has 2 of 2 points with values that are not finite"),
        (np.full(4, 1e9, "<f4").tobytes(), "has 1 of 1 points .* beyond 1e.06, first at point 0"),
    ],
)
def test_broken_sweeps(tmp_path, data, message):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(SampleError, match=f"a.bin {message}"):
        read_points(path)
    with pytest.raises(EncodingError, match=f"scenes, row 1: .*a.bin {message}.*on_error='mark'"):
        column = [{"points": points_in(), "box": BOX}, {"points": path, "box": BOX}]
        lidar().encode(column, name="scenes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P2: 1 2 3\n", "P2 must have 12 finite numbers, got 3"),
        (CALIB.replace("50 0 48", "50 nan 48"), "P2 must have 12 finite numbers, got 12"),
        (CALIB.replace("50 0 48", "50 x 48"), "P2: could not convert string to float: 'x'"),
        (CALIB.replace("R0_rect", "R1"), "lacks R0_rect; it needs P2, R0_rect, Tr_velo_to_cam"),
        ("", "lacks P2, R0_rect, Tr_velo_to_cam"),
    ],
)
def test_broken_calibrations(tmp_path, text, message):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(SampleError, match=f"c.txt.*{message}"):
        read_calibration(tmp_path / "c.txt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Car 1 2\n", "line 1 has 3 values where a label has 15"),
        (LABELS + "Car " + "a " * 14, "line 4: could not convert"),
        (LABELS.replace("14.0", "inf"), "line 3 has a value that is not finite"),
    ],
)
def test_broken_labels(tmp_path, text, message):
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(SampleError, match=f"l.txt, {message}"):
        read_labels(tmp_path / "l.txt")


def test_files_of_another_kind(tmp_path):
    with pytest.raises(SampleError, match="gone.bin: no such file"):
        read_points(tmp_path / "gone.bin")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(SampleError, match="l.txt is not a text file"):
        read_labels(tmp_path / "l.txt")
    with pytest.raises(SampleError, match=f"{tmp_path.name}: Is a directory"):
        read_calibration(tmp_path)
    (tmp_path / "i.png").write_bytes(b"no picture")
    cell = {"image": tmp_path / "i.png", "calib": CAMERA, "box": BOX}
    with pytest.raises(EncodingError, match="row 0.*i.png: cannot identify image file"):
        both().transform([cell])
    with pytest.raises(EncodingError, match=r"row 0: .*gone: no such file; .*on_error='mark'"):
        lidar().transform([{"points": str(tmp_path / "gone"), "box": BOX}])
