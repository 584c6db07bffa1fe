"""Objects in road scenes: real projections, statistics, states and saving."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import data_folder
from encoder_list import CAMERA
from road_scenes import BOX, both, lidar, points_in, write_frames

import mmfuse as mf
from mmfuse.datasets import read_kitti
from mmfuse.encoders import Augmentation, LidarCameraEncoder, _frames_kept
from mmfuse.encoders._kitti import box_of_label, read_calibration, read_labels, read_points
from mmfuse.encoders._lidar_statistics import statistic_names
from mmfuse.encoders._object_modules import crop
from mmfuse.encoders._projection import inside_box, project, region_of_box
from mmfuse.exceptions import EncodingError, SampleError, WeightsNotFoundError
from mmfuse.heads import LateFusion


@pytest.fixture
def folder(tmp_path):
    return write_frames(tmp_path)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("a.bin", "expected a dict with the keys of ObjectInFrame, got str"),
        (np.ones(3), "expected a dict with the keys of ObjectInFrame, got ndarray"),
        ({"velodyne": "a", "box": BOX}, "an object in a frame has no 'velodyne'; its keys are po"),
        ({"points": points_in()}, "box must be x, y, z, length, width, height .* got None"),
        ({"points": points_in(), "box": BOX[:6]}, r"box must be .* got \(10.0, 1.0,"),
        ({"points": points_in(), "box": (0, 0, 0, 1, 0, 1, 0)}, "the last three above 0"),
        ({"points": points_in()[:, :3], "box": BOX}, r"shape \(n_points, 4\) .* got shape \(50, 3"),
        ({"points": [[1, 2, 3, 4]], "box": BOX}, "points must be a file or an array .* got list"),
        ({"image": np.ones((9, 9)), "box": BOX}, "an image needs calib, a KITTI calibration file"),
        (
            {"image": np.ones((9, 9)), "box": BOX, "calib": np.eye(4)},
            r"calib must be a finite matrix of shape \(3, 4\), got shape \(4, 4\)",
        ),
        (
            {"image": np.ones((9, 9)), "box": BOX, "calib": CAMERA, "augmentation": "flip"},
            r"augmentation must be a finite matrix of shape \(4, 4\), got str",
        ),
    ],
)
def test_cells_that_are_no_objects(cell, message):
    with pytest.raises(EncodingError, match=f"object, row 0.*{message}"):
        both().transform([cell])


def test_an_object_that_no_sensor_recorded():
    with pytest.raises(SampleError, match="the object has no points and no image"):
        both().preprocess({"box": BOX})
    assert both().encode([{"box": BOX, "points": None, "image": ""}]).presence.tolist() == [0]
    assert lidar().encode([{"box": BOX, "image": "a.png"}]).presence.tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sensors": "radar"}, "sensors must be one of 'both', 'lidar', 'camera', got 'radar'"),
        ({"features": "deep"}, "features must be one of 'statistics', 'logonet', got 'deep'"),
        ({"n_cells": 0}, "n_cells must be an integer of at least 1, got 0"),
        ({"width": 2.5}, "width must be an integer of at least 1, got 2.5"),
        ({"random_state": None}, "random_state must be an integer of at least 0, got None"),
        ({"context": -1}, "context must be a number from 0 to 10, got -1"),
        ({"frame_size": (100, 640)}, r"frame_size must be .* multiples of 32, got \(100, 640\)"),
        ({"checkpoint": "a.safetensors"}, "checkpoint must be None with features='statistics'"),
        ({"features": "logonet", "checkpoint": "a.pt"}, "must be a .safetensors file or None"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises((ValueError, TypeError), match=f"LidarCameraEncoder: .*{message}"):
        lidar(**arguments)


def test_other_bad_arguments():
    with pytest.raises(WeightsNotFoundError, match="there is no checkpoint gone.safetensors"):
        lidar(features="logonet", checkpoint="gone.safetensors")
    with pytest.raises(ValueError, match="backbone must be a model of timm, got 'resnet0'"):
        both(backbone="resnet0")


# Real frames.


@pytest.fixture(scope="module")
def kitti():
    return data_folder("kitti")


def overlap(a, b):
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (sum((r[2] - r[0]) * (r[3] - r[1]) for r in (a, b)) - shared)


def test_projected_boxes_are_the_labelled_regions(kitti):
    found = {"Car": [], "Van": [], "Truck": [], "Cyclist": [], "Pedestrian": []}
    for path in sorted((kitti / "label_2").glob("*.txt")):
        calibration = read_calibration(kitti / "calib" / path.name)
        for label in read_labels(path):
            if label.kind in found:
                box = box_of_label(label, calibration)
                region = region_of_box(box, calibration.projection, (375, 1242))
                found[label.kind].append(overlap(region, label.region))
    people = found.pop("Pedestrian")
    vehicles = np.concatenate(list(found.values()))
    assert len(vehicles) == 36 and len(people) == 9
    assert vehicles.min() > 0.96
    assert min(people) > 0.45  # their regions were drawn around the person, tighter than the box


def test_projection_is_the_known_formula(kitti):
    text = (kitti / "calib" / "000008.txt").read_text()
    rows = {line.split(":")[0]: line.split(":")[1].split() for line in text.splitlines() if line}
    p2 = np.array(rows["P2"], float).reshape(3, 4)
    r0, tr = np.eye(4), np.eye(4)
    r0[:3, :3] = np.array(rows["R0_rect"], float).reshape(3, 3)
    tr[:3] = np.array(rows["Tr_velo_to_cam"], float).reshape(3, 4)
    points = read_points(kitti / "velodyne_fov" / "000008.bin")
    flat = (p2 @ r0 @ tr @ np.column_stack([points[:, :3], np.ones(len(points))]).T).T
    calibration = read_calibration(kitti / "calib" / "000008.txt")
    pixels, seen = project(points, calibration.projection, (375, 1242))
    assert seen.mean() > 0.99  # the sweep was cut to the picture
    np.testing.assert_allclose(pixels[seen], (flat[:, :2] / flat[:, 2:])[seen], rtol=1e-9)


def test_half_of_a_whole_sweep_is_behind_the_camera(kitti):
    points = read_points(kitti / "velodyne" / "000000.bin")
    projection = read_calibration(kitti / "calib" / "000000.txt").projection
    pixels, seen = project(points, projection, (370, 1224))
    assert not seen[points[:, 0] < 0].any()
    flat = np.column_stack([points[:, :3], np.ones(len(points))]) @ projection.T
    unsigned = flat[:, :2] / flat[:, 2:]
    wrong = (points[:, 0] < 0) & (unsigned >= 0).all(axis=1) & (unsigned < [1224, 370]).all(axis=1)
    assert wrong.sum() > 1000  # what ignoring the sign of the depth would let in


def test_statistics_of_real_objects(kitti):
    scenes = read_kitti(kitti, points="velodyne_fov")
    assert len(scenes.y) == 45 and (scenes.X.presence == 1).all()
    encoder = lidar()
    values = encoder.transform(scenes.X["lidar"])
    column = dict(zip(statistic_names(6), values.T, strict=True))
    counts = [inside_box(read_points(c["points"]), c["box"]).sum() for c in scenes.objects]
    np.testing.assert_allclose(column["log_count"], np.log1p(counts), rtol=1e-5)
    ranges = [np.linalg.norm(c["box"][:3]) for c in scenes.objects]
    np.testing.assert_allclose(column["log_range"], np.log(ranges), rtol=1e-4)
    many = np.array(counts) > 100
    tall = np.isin(scenes.y, ["Pedestrian", "Cyclist"])
    slope = column["extent_z"] / np.maximum(column["extent_x"], 0.1)
    assert np.median(slope[many & tall]) > 2 * np.median(slope[many & (scenes.y == "Car")])
    for axis in "xyz":
        shares = [column[f"profile_{axis}_{i}"] for i in range(6)]
        np.testing.assert_allclose(np.sum(shares, axis=0), 1, atol=1e-5)


# Statistics and states.


def test_statistics_turn_with_box_and_points():
    points = points_in()
    for change in (Augmentation(angle=1.2), Augmentation(angle=-3.0)):
        turned = {
            "points": change.apply(points).astype(np.float32),
            "box": change.apply_to_box(BOX),
        }
        first, second = lidar().transform([{"points": points, "box": BOX}, turned])
        np.testing.assert_allclose(first, second, atol=2e-3)


def test_statistics_by_hand():
    box = (3.0, 4.0, 0.0, 4.0, 2.0, 2.0, 0.0)
    local = np.array([[-1.5, -0.5, -1, 0.1], [1.5, 0.5, 1, 0.3], [0, 0, 0, 0.5]])
    cell = {"points": local + [3, 4, 0, 0], "box": box}
    names = statistic_names(2)
    found = dict(zip(names, lidar(n_cells=2).transform([cell])[0], strict=True))
    assert found["log_count"] == pytest.approx(np.log(4))
    assert found["log_range"] == pytest.approx(np.log(5))
    assert found["log_count_range"] == pytest.approx(np.log(4 * 25))
    assert [found[f"extent_{axis}"] for axis in "xyz"] == pytest.approx([3, 1, 2])
    assert found["std_z"] == pytest.approx(np.sqrt(2 / 3))
    assert [found[f"height_{q}"] for q in (10, 50, 90)] == pytest.approx([0.2, 1, 1.8])
    assert found["reflectance_mean"] == pytest.approx(0.3)
    assert found["reflectance_90"] == pytest.approx(0.46)
    assert found["profile_z_0"] == pytest.approx(1 / 3)  # the point in the middle is above
    assert found["cell_0_0_0"] == pytest.approx(1 / 3)
    assert found["cell_1_1_1"] == pytest.approx(2 / 3)
    assert found["linearity"] == pytest.approx(1, abs=1e-3)  # the points are on a line
    assert found["extent_sight"] == pytest.approx((3 * 3 + 1 * 4) / 5)
    assert found["extent_across"] == pytest.approx(abs(1 * 3 - 3 * 4) / 5)


def test_points_outside_the_box_do_not_count():
    points = points_in()
    outside = points_in((20.0, 1, 0))
    alone, among = lidar().transform(
        [{"points": p, "box": BOX} for p in (points, np.concatenate([outside, points]))]
    )
    np.testing.assert_allclose(alone, among, atol=1e-6)


def test_states_and_gaps():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    seen = {"image": image, "calib": CAMERA, "box": BOX}
    unseen = {**seen, "box": (-10, *BOX[1:])}
    none = np.empty((0, 4))
    column = [
        {**seen, "points": points_in()},
        seen,
        {**seen, "points": points_in((20, 1, 0))},
        {**unseen, "points": points_in(unseen["box"])},
        {"points": points_in(), "box": BOX},
        {**unseen, "points": none},
        {"box": BOX},
        None,
    ]
    encoder = both()
    encoded = encoder.encode(column)
    assert encoded.presence.tolist() == [1, 1, 1, 1, 1, 3, 0, 0]
    names = encoder.get_feature_names_out().tolist()
    assert names[-4:] == [
        f"object_{s}_{state}" for s in ("lidar", "camera") for state in ("present", "empty")
    ]
    assert encoded.values[:5, -4:].tolist() == [
        [1, 0, 1, 0],
        [0, 0, 1, 0],
        [0, 1, 1, 0],
        [1, 0, 0, 1],
        [1, 0, 0, 0],
    ]
    gaps = np.isnan(encoded.values[:5])
    sides = [np.array([n.startswith(f"object_{s}_") for n in names]) for s in ("lidar", "camera")]
    sides = [side & ~np.isin(names, names[-4:]) for side in sides]
    assert gaps[:, sides[0]].all(axis=1).tolist() == [False, True, True, False, False]
    assert gaps[:, sides[1]].all(axis=1).tolist() == [False, False, False, True, True]
    assert lidar().encode(column).presence.tolist() == [1, 0, 3, 1, 1, 3, 0, 0]
    camera = both(sensors="camera")
    assert camera.encode(column).presence.tolist() == [1, 1, 1, 3, 0, 3, 0, 0]
    np.testing.assert_allclose(camera.transform(column)[0], encoded.values[0, sides[1]], atol=1e-5)
    np.testing.assert_allclose(lidar().transform(column)[0], encoded.values[0, sides[0]], atol=1e-5)


def test_augmented_points_look_up_the_same_pixels():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    change = Augmentation(flip=True, angle=0.5, scale=1.05, shift=(1, 0, 0.2))
    cell = {"image": image, "calib": CAMERA, "box": BOX}
    changed = {**cell, "box": change.apply_to_box(BOX), "augmentation": change.matrix}
    first, second = both(sensors="camera").transform([cell, changed])
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_crops_are_square_and_hold_the_region():
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[10:20, 2:8] = 200
    picture = pytest.importorskip("PIL.Image").fromarray(pixels)
    square = np.asarray(crop(picture, (2, 10, 8, 20), 0.1))
    assert square.shape == (12, 12, 3)
    assert (square == 200).sum() == 10 * 6 * 3
    large = np.asarray(crop(picture, (0, 0, 60, 40), 0.0))
    assert large.shape == (60, 60, 3)
    assert (large[:10] == 127).all() and (large[-10:] == 127).all()  # above and below the picture
    assert (large[10:50] == pixels[:, :60]).all()


def test_files_are_read_once_per_frame(folder, monkeypatch):
    from mmfuse.encoders import _object_cells

    read = []
    original = _object_cells.read_points
    monkeypatch.setattr(
        _object_cells, "read_points", lambda path: read.append(path) or original(path)
    )
    cells = [
        {"points": folder / "velodyne" / "000000.bin", "box": BOX[:6] + (t,)} for t in range(5)
    ]
    expected = lidar().transform(cells)
    assert len(read) == 1
    points_in(n=60).tofile(folder / "velodyne" / "000000.bin")
    assert np.abs(lidar().transform(cells) - expected).max() > 1e-3
    assert len(read) == 2


def test_kept_frames_are_few_and_errors_are_not_kept():
    kept = _frames_kept.Recent(2)
    made = []
    for key in (1, 2, 1, 3, 1, 2):
        assert kept.get(key, lambda key=key: made.append(key) or key) == key
    assert made == [1, 2, 3, 2] and len(kept) == 2
    with pytest.raises(SampleError, match="broken"):
        kept.get(9, lambda: (_ for _ in ()).throw(SampleError("broken")))
    assert kept.get(9, lambda: "mended") == "mended"
    kept.clear()
    assert len(kept) == 0


def test_strings_and_paths_have_the_same_key(folder, tmp_path):
    path = folder / "velodyne" / "000000.bin"
    encoder = lidar(cache=tmp_path / "kept")
    first = encoder.transform([{"points": str(path), "box": BOX}])
    np.testing.assert_array_equal(encoder.transform([{"points": path, "box": list(BOX)}]), first)
    points_in(n=9).tofile(path)  # the content counts, not the name
    assert np.abs(encoder.transform([{"points": str(path), "box": BOX}]) - first).max() > 1e-3


def test_statistics_are_differentiable():
    points = torch.tensor(points_in(n=30), requires_grad=True)
    batch = {
        "points": points,
        "owner": torch.zeros(30).long(),
        "boxes": torch.tensor([BOX]),
    }
    lidar().module()(batch).sum().backward()
    assert points.grad.isfinite().all() and points.grad.abs().sum() > 0


@pytest.mark.parametrize("features", ["statistics", "logonet"])
def test_a_fused_model_is_saved_and_loaded(tmp_path, features):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
    cells = []
    for i in range(24):
        box = (8 + 0.2 * i, rng.uniform(-2, 2), 0.0, *((4, 2, 1.6) if i % 2 else (1, 1, 1.8)), 0.1)
        shape = np.array(box[3:6]) / 2.2
        points = np.column_stack([rng.uniform(-shape, shape, (40, 3)) + box[:3], rng.random(40)])
        cells.append({"points": points, "image": image, "calib": CAMERA, "box": box})
    y = np.array(["person", "car"] * 12)
    X = mf.ModalityTable({"lidar": cells, "camera": cells}).hide("camera", rows=[3, 4])
    small = {"weights": None, "image_size": 32, "cache": False, "device": "cpu", "n_cells": 2}
    small |= {"features": features, "width": 8, "frame_size": (32, 96)}
    encoders = {s: LidarCameraEncoder(sensors=s, **small) for s in ("lidar", "camera")}
    model = mf.FusionClassifier(LateFusion(), encoders=encoders, random_state=0).fit(X, y)
    model.save(tmp_path / "model")
    again = mf.load(tmp_path / "model")
    new = X.hide("lidar", rows=slice(0, 8)).hide("camera", rows=slice(8, 16))
    np.testing.assert_allclose(again.predict_proba(new), model.predict_proba(new), atol=1e-6)
    if features == "statistics":
        assert model.score(X.hide("camera"), y) == 1.0


def test_gaps_reach_the_cache_and_the_estimator(tmp_path):
    cells = [
        {"points": points_in(seed=i), "box": BOX}
        if i % 3
        else {
            "points": points_in(seed=i),
            "box": BOX,
            "image": np.full((64, 96, 3), 10 * i, np.uint8),
            "calib": CAMERA,
        }
        for i in range(12)
    ]
    encoder = both(cache=tmp_path)
    first = encoder.transform(cells)
    assert np.isnan(first).any()
    np.testing.assert_array_equal(encoder.transform(cells), first)
    X = mf.ModalityTable({"object": cells})
    y = np.arange(12) % 2
    model = mf.FusionClassifier(LateFusion(), encoders={"object": encoder}, random_state=0).fit(
        X, y
    )
    assert np.isfinite(model.predict_proba(X)).all()
