"""The parts of LoGoNet: voxels, projection, deformable attention, masks, and what it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encoder_list import CAMERA
from torch.nn import functional as F

from mmfuse.encoders import Augmentation, LidarCameraEncoder
from mmfuse.encoders._box_grid import cells_of, grid_centres, to_box_frame, to_lidar_frame
from mmfuse.encoders._deformable import DeformableAttention, ImageFusion, look_up
from mmfuse.encoders._logonet import LoGoNet, SelfAttention, position_information
from mmfuse.encoders._projection import box_corners, inside_box, project, region_of_box
from mmfuse.encoders._voxels import GridPooling, merge, voxelize

SIZE = (0.2, 0.2, 0.4)
BOX = (10.0, 1.0, -0.5, 4.0, 2.0, 1.6, 0.7)


def cloud(n: int = 500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Points around two boxes and which of the two they belong to."""
    rng = torch.Generator().manual_seed(seed)
    points = 3 * torch.randn(n, 4, generator=rng) + torch.tensor([10.0, 1, -0.5, 0])
    return points, torch.arange(n) % 2


def test_centroids_lie_in_their_voxels():
    points, owner = cloud()
    voxels = voxelize(points, owner, SIZE)
    assert voxels.count.sum() == len(points)
    away = (voxels.mean[:, :3] - voxels.centre).abs()
    assert (away <= torch.tensor(SIZE) / 2 + 1e-4).all()


def test_coarse_centroids_are_those_of_the_points():
    points, owner = cloud()
    coarse, parent = merge(voxelize(points, owner, SIZE), 2)
    direct = voxelize(points, owner, (0.4, 0.4, 0.8))
    assert len(coarse.count) < len(parent)
    assert torch.equal(coarse.index, direct.index) and torch.equal(coarse.count, direct.count)
    torch.testing.assert_close(coarse.mean, direct.mean, rtol=1e-4, atol=1e-4)


def test_no_points_make_no_voxels():
    coarse, parent = merge(voxelize(torch.empty(0, 4), torch.empty(0).long(), SIZE), 2)
    assert len(coarse.count) == len(parent) == 0
    pooled = GridPooling(5, (1.0, 2.0))(torch.zeros(3, 8, 3), coarse, torch.empty(0, 5))
    assert pooled.shape == (3, 8, 64) and not pooled.any()


def test_pooling_sees_what_is_near_and_of_the_same_object():
    points, owner = cloud()
    voxels = voxelize(points, owner, SIZE)
    features = torch.randn(len(voxels.count), 5, generator=torch.Generator().manual_seed(0))
    pooling = GridPooling(5, (0.8,)).eval()
    centres = voxels.mean[voxels.owner == 0][:4, :3][None].repeat(2, 1, 1)
    before = pooling(centres, voxels, features)
    distance = torch.cdist(centres[0], voxels.mean[:, :3]).amin(dim=0)
    changed = features.clone()
    changed[(distance > 0.8) | (voxels.owner == 1)] += 7
    torch.testing.assert_close(pooling(centres, voxels, changed)[0], before[0])
    changed = features + 7
    assert not torch.allclose(pooling(centres, voxels, changed)[0], before[0])


AUGMENTATIONS = [
    Augmentation(),
    Augmentation(flip=True, angle=0.6, scale=1.04, shift=(0.5, -0.3, 0.1)),
    Augmentation(angle=-0.7, scale=0.95),
]


@pytest.mark.parametrize("change", AUGMENTATIONS)
def test_augmentation_is_undone_before_pixels_are_looked_up(change):
    points = cloud(100)[0].numpy().astype(float)
    np.testing.assert_allclose(change.undo(change.apply(points)), points, atol=1e-9)
    pixels, seen = project(points, CAMERA, (64, 96))
    again, seen_again = project(change.apply(points), CAMERA, (64, 96), change.matrix)
    assert 10 < seen.sum() < 100
    assert (seen == seen_again).all()
    np.testing.assert_allclose(again[seen], pixels[seen], atol=1e-4)


@pytest.mark.parametrize("change", AUGMENTATIONS)
def test_boxes_are_augmented_with_their_points(change):
    points = cloud(2000)[0].numpy().astype(float)
    inside = inside_box(points, BOX)
    assert inside.any()
    assert (inside_box(change.apply(points), change.apply_to_box(BOX)) == inside).all()


def test_the_order_of_an_augmentation():
    change = Augmentation(flip=True, angle=np.pi / 2, scale=2.0, shift=(1, 0, 0))
    # (1, 2) flipped (1, -2), turned (2, 1), scaled (4, 2), shifted (5, 2)
    np.testing.assert_allclose(change.apply(np.array([[1.0, 2, 3]]))[0], [5, 2, 6], atol=1e-12)


def test_points_behind_the_camera_are_refused():
    ahead, behind = np.array([[10.0, 1, 0.5]]), np.array([[-10.0, -1, -0.5]])
    unsigned = [(CAMERA @ [*p[0], 1]) for p in (ahead, behind)]
    np.testing.assert_allclose(unsigned[0][:2] / unsigned[0][2], unsigned[1][:2] / unsigned[1][2])
    assert project(ahead, CAMERA, (64, 96))[1].tolist() == [True]
    pixels, seen = project(behind, CAMERA, (64, 96))
    assert seen.tolist() == [False] and np.isnan(pixels).all()
    unit = torch.tensor(np.diag([1 / 96, 1 / 64, 1]) @ CAMERA, dtype=torch.float32)
    both = torch.tensor(np.concatenate([ahead, behind]), dtype=torch.float32)
    places, seen = look_up(both, unit[None].repeat(2, 1, 1))
    assert seen.tolist() == [True, False]
    np.testing.assert_allclose(places[0] * torch.tensor([96, 64]), [43, 29.5], atol=1e-4)
    assert region_of_box((-10, -1, -0.5, 4, 2, 2, 0), CAMERA, (64, 96)) is None


def test_a_box_that_passes_the_camera_is_cut():
    whole = region_of_box((2.0, 0, 0, 8, 1, 1, 0), CAMERA, (64, 96))
    assert whole == (0, 0, 96, 64)  # its near faces are at the camera
    left = region_of_box((1.0, 3, 0, 8, 1, 1, 0), CAMERA, (64, 96))
    assert left[0] == 0 and left[2] == pytest.approx(48 - 50 * 2.5 / 5)
    assert region_of_box((500.0, 0, 0, 4, 2, 2, 0), CAMERA, (64, 96)) is None  # under a pixel


def test_the_cells_of_the_grid():
    boxes = torch.tensor([BOX, (3.0, -2, 0, 1, 1, 2, -2.0)])
    local = grid_centres(boxes, 6)
    assert local.shape == (2, 216, 3)
    assert len(local[0].unique(dim=0)) == 216
    centres = to_lidar_frame(local, boxes)
    for box, places in zip(boxes.tolist(), centres.numpy(), strict=True):
        assert inside_box(places, box).all()
    flat = centres.flatten(0, 1)
    back = to_box_frame(flat, boxes.repeat_interleave(216, dim=0))
    torch.testing.assert_close(back, local.flatten(0, 1), rtol=1e-5, atol=1e-5)
    cells, inside = cells_of(back, boxes.repeat_interleave(216, dim=0), 6)
    assert inside.all()
    assert ((cells[:, 0] * 6 + cells[:, 1]) * 6 + cells[:, 2]).view(2, -1)[1].tolist() == [
        *range(216)
    ]
    corners = torch.tensor(box_corners(BOX), dtype=torch.float32)
    own = to_box_frame(corners, boxes[:1].repeat(8, 1))
    torch.testing.assert_close(own.abs(), boxes[:1, 3:6].repeat(8, 1) / 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("angle", [0.3, -2.5])
def test_turning_box_and_points_leaves_position_information(angle):
    rng = np.random.default_rng(0)
    corners = box_corners(BOX)
    points = rng.uniform(corners.min(axis=0), corners.max(axis=0), (400, 3))
    points = np.column_stack([points, rng.random(400)])
    change = Augmentation(angle=angle, shift=(2, 1, 0))
    found = []
    for cloud_, box in ((points, BOX), (change.apply(points), change.apply_to_box(BOX))):
        owner = torch.zeros(len(cloud_)).long()
        found.append(
            position_information(torch.tensor(cloud_), owner, torch.tensor([box]).double(), 6)
        )
    (first, count), (second, turned) = found
    assert first.shape == (1, 216, 7)
    assert count.sum() == inside_box(points, BOX).sum() > 100
    assert torch.equal(count, turned)
    torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-6)
    cell = int(count[0].argmax())
    own, inside = to_box_frame(torch.tensor(points[:, :3]), torch.tensor([BOX] * 400)), None
    cells, inside = cells_of(own, torch.tensor([BOX] * 400), 6)
    flat = (cells[:, 0] * 6 + cells[:, 1]) * 6 + cells[:, 2]
    members = own[inside & (flat == cell)]
    torch.testing.assert_close(first[0, cell, 4:].float(), members.mean(dim=0).float())
    assert first[0, cell, 3] == pytest.approx(np.log10(len(members) + 0.5))


def plain_attention(dim: int = 8) -> DeformableAttention:
    """Zero offsets, uniform weights, identity projections."""
    attention = DeformableAttention(dim)
    with torch.no_grad():
        attention.offset.bias.zero_()
        for linear in (attention.value, attention.output):
            linear.weight.copy_(torch.eye(dim))
            linear.bias.zero_()
    return attention


def test_deformable_attention_without_offsets_is_bilinear_sampling():
    rng = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 8, 5, 7, generator=rng)
    places = torch.rand(20, 2, generator=rng)
    rows = torch.arange(20) % 2
    found = plain_attention()(torch.randn(20, 8, generator=rng), places, maps, rows)
    for i in range(20):
        at = 2 * places[i].view(1, 1, 1, 2) - 1
        one = F.grid_sample(maps[rows[i]][None], at, align_corners=False).flatten()
        torch.testing.assert_close(found[i], one, rtol=1e-5, atol=1e-5)
    # in the middle of a cell it is the cell
    middle = torch.tensor([[(2 + 0.5) / 7, (3 + 0.5) / 5]])
    found = plain_attention()(torch.zeros(1, 8), middle, maps, torch.tensor([1]))
    torch.testing.assert_close(found[0], maps[1, :, 3, 2], rtol=1e-5, atol=1e-5)


def test_offsets_are_in_cells_of_the_map():
    maps = torch.arange(35.0).view(1, 1, 5, 7).repeat(1, 8, 1, 1)
    attention = plain_attention()
    with torch.no_grad():
        attention.offset.bias.copy_(torch.tensor([1.0, 0.0]).repeat(16))  # one to the right
    middle = torch.tensor([[(2 + 0.5) / 7, (3 + 0.5) / 5]])
    found = attention(torch.zeros(1, 8), middle, maps, torch.tensor([0]))
    torch.testing.assert_close(found, torch.full((1, 8), 3.0 * 7 + 3), rtol=1e-5, atol=1e-4)


def test_places_outside_the_picture_keep_their_query():
    rng = torch.Generator().manual_seed(0)
    fusion = ImageFusion(8).eval()
    queries, maps = torch.randn(4, 8, generator=rng), torch.randn(1, 8, 5, 7, generator=rng)
    places, seen = torch.rand(4, 2, generator=rng), torch.tensor([True, False, True, False])
    rows = torch.zeros(4).long()
    attended = fusion.attend(queries, places, seen, maps, rows)
    assert torch.equal(attended[~seen], queries[~seen])
    assert not torch.isclose(attended[seen], queries[seen]).any(dim=1).all()
    assert torch.equal(fusion.attend(queries, places, seen, None, rows), queries)
    assert fusion(queries, places, seen, maps, rows).isfinite().all()


def test_cells_without_points_do_not_reach_others():
    rng = torch.Generator().manual_seed(0)
    attention = SelfAttention(16).eval()
    cells, where = torch.randn(3, 10, 16, generator=rng), torch.randn(3, 10, 4, generator=rng)
    filled = torch.rand(3, 10, generator=rng) < 0.5
    filled[2] = False
    before = attention(cells, where, filled)
    changed = cells + 5 * torch.randn(3, 10, 16, generator=rng) * ~filled[..., None]
    after = attention(changed, where, filled)
    torch.testing.assert_close(after[filled], before[filled], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[~filled], before[~filled])
    assert torch.equal(before[2], cells[2])  # a box without points passes unchanged
    assert before.isfinite().all()
    shifted = cells.clone()
    shifted[0, filled[0].nonzero()[0, 0]] += 5
    moved = attention(shifted, where, filled)[0][filled[0]]
    assert not torch.isclose(moved, before[0][filled[0]]).any()


def small(**arguments) -> LidarCameraEncoder:
    arguments = {
        "features": "logonet",
        "n_cells": 2,
        "width": 8,
        "frame_size": (32, 96),
    } | arguments
    arguments = {"weights": None, "device": "cpu", "cache": False} | arguments
    return LidarCameraEncoder(**arguments).fit([])


def coloured(n: int, seed: int) -> tuple[list[dict], np.ndarray]:
    """Objects that only their colour in the picture tells apart."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    cells = []
    for label in y:
        box = (rng.uniform(6, 12), rng.uniform(-3, 3), 0.0, 3.0, 2.0, 2.0, rng.uniform(-3, 3))
        points = rng.uniform(-0.7, 0.7, (25, 4)) + [*box[:3], 0.7]
        image = rng.integers(0, 90, (64, 96, 3), dtype=np.uint8)
        left, top, right, bottom = map(int, region_of_box(box, CAMERA, (64, 96)))
        image[top:bottom, left:right, 2 * label] += 160
        cells.append({"points": points, "image": image, "calib": CAMERA, "box": box})
    return cells, y


def train(encoder: LidarCameraEncoder, cells: list[dict], y: np.ndarray, steps: int):
    """Train a fresh module and a linear layer on its vectors; return both."""
    net = encoder._build_module()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        last = torch.nn.Linear(encoder.n_features_out_, 2)
        batch = encoder.collate([encoder.preprocess(cell) for cell in cells])
        learned = [p for p in [*net.parameters(), *last.parameters()] if p.requires_grad]
        optimizer = torch.optim.Adam(learned, lr=3e-3)
        net.train()
        for _ in range(steps):
            loss = F.cross_entropy(last(net(batch)), torch.from_numpy(y))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval(), last.eval()


def test_it_learns_from_the_picture_what_points_do_not_tell():
    cells, y = coloured(16, 0)
    new, truth = coloured(30, 1)
    accuracy = {}
    for sensors in ("both", "lidar"):
        encoder = small(sensors=sensors, weights="auto")
        net, last = train(encoder, cells, y, 12)
        with torch.no_grad():
            scores = last(net(encoder.collate([encoder.preprocess(cell) for cell in new])))
        accuracy[sensors] = float((scores.argmax(dim=1).numpy() == truth).mean())
    assert accuracy["both"] >= 0.85
    assert accuracy["lidar"] <= 0.75


def test_gradients_reach_every_trained_part_and_the_inputs():
    encoder = small()
    net = encoder._build_module()
    cells, _ = coloured(3, 0)
    batch = encoder.collate([encoder.preprocess(cell) for cell in cells])
    for name in ("points", "pictures"):
        batch[name] = batch[name].requires_grad_()
    net(batch).square().sum().backward()
    dead = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert dead == []
    frozen = [n for n, p in net.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith("picture.backbone.") for n in frozen)
    assert batch["points"].grad.abs().sum() > 0 and batch["pictures"].grad.abs().sum() > 0
    assert not net.train().picture.backbone.training


def test_objects_of_a_frame_share_its_features(tmp_path):
    pytest.importorskip("PIL.Image").fromarray(np.zeros((64, 96, 3), np.uint8)).save(
        tmp_path / "a.png"
    )
    cells, _ = coloured(4, 0)
    for cell in cells[:3]:
        cell["image"] = tmp_path / "a.png"
    encoder = small()
    batch = encoder.collate([encoder.preprocess(cell) for cell in cells])
    assert batch["pictures"].shape == (2, 3, 32, 96)
    assert batch["picture"].tolist() == [0, 0, 0, 1]


def test_states_of_sensors_are_told_apart_and_finite():
    (cell,), _ = coloured(1, 0)
    box, no_points = cell["box"], np.empty((0, 4), np.float32)
    behind = {**cell, "box": (-10, *box[1:])}
    column = [
        cell,
        {**cell, "points": None},
        {**cell, "points": no_points},  # looked, and there was nothing
        {**cell, "image": None},
        {**behind, "points": cell["points"] - [box[0] + 10, 0, 0, 0]},
        {**cell, "points": None, "image": None},
        {**behind, "points": no_points},
    ]
    encoded = small().encode(column)
    assert encoded.presence.tolist() == [1, 1, 1, 1, 1, 0, 3]
    values = encoded.values[:5]
    assert np.isfinite(values).all() and np.isnan(encoded.values[5:]).all()
    apart = np.linalg.norm(values[:, None] - values[None], axis=2)
    assert (apart[~np.eye(5, dtype=bool)] > 1e-4).all()


def test_only_empty_boxes_make_no_nan():
    net = LoGoNet(None, n_cells=2, width=4).eval()
    batch = {
        "boxes": torch.tensor([BOX]),
        "points": torch.empty(0, 4),
        "owner": torch.empty(0).long(),
        "pictures": torch.empty(0, 3, 1, 1),
        "picture": torch.tensor([-1]),
        "projection": torch.zeros(1, 3, 4),
        "states": torch.tensor([[3, 0]]),
    }
    assert net(batch).isfinite().all()


def test_a_checkpoint_gives_the_trained_module_back(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    cells, y = coloured(4, 0)
    encoder = small(sensors="lidar")
    net, _ = train(encoder, cells, y, 2)
    safetensors.save_file(net.state_dict(), tmp_path / "net.safetensors")
    again = small(sensors="lidar", checkpoint=tmp_path / "net.safetensors")
    with torch.no_grad():
        wanted = net(encoder.collate([encoder.preprocess(cell) for cell in cells])).numpy()
    np.testing.assert_allclose(again.transform(cells), wanted, atol=1e-5)
    assert np.abs(encoder.transform(cells) - wanted).max() > 1e-3
    assert again.weights_hash() != encoder.weights_hash()
    wrong = small(sensors="lidar", width=9, checkpoint=tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="is not the state of this module: .* use the arguments"):
        wrong.module()


def test_random_weights_follow_the_seed():
    cells, _ = coloured(3, 0)
    first, same, other = (
        small(sensors="lidar", random_state=s).transform(cells) for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 1e-2
