"""Corruptions: seeded, graded, and as strong as their units say."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from mmfuse.corruptions import (
    KINDS,
    corruptions_of,
    get_corruption,
    register_corruption,
    unregister_corruption,
)
from mmfuse.corruptions.cells import corrupt_cell
from mmfuse.datasets import load_av_digits

ALL = [one for kind in KINDS for one in corruptions_of(kind)]
TEXT = "the patient slept badly and woke up at four in the morning feeling tired " * 4


def _sample(kind):
    rng = np.random.default_rng(0)
    digits = load_av_digits(n_rows=2)
    cell = digits.X["audio"][0]
    return {
        "audio": (cell["array"][None], 8000),
        "image": np.repeat(np.asarray(digits.X["image"][0])[:, :, None], 3, axis=2),
        "text": TEXT,
        "frames": np.cumsum(rng.normal(size=(40, 3)), axis=0),
        "points": rng.normal(size=(200, 4)) * 10,
        "block": rng.normal(size=(60, 5)),
    }[kind]


def _apply(one, sample, level, seed=0):
    if one.kind == "block":
        return one.corrupt_block(sample, level, seed, scale=np.ones(sample.shape[1]))
    return one.corrupt(sample, level, seed, row=0)


def _numbers(sample):
    return sample[0] if isinstance(sample, tuple) else sample


@pytest.mark.parametrize("one", ALL, ids=lambda one: f"{one.kind}-{one.name}")
def test_a_corruption_is_seeded_keeps_its_input_and_says_its_unit(one):
    sample, level = _sample(one.kind), one.levels[2]
    before = np.copy(_numbers(sample))
    first, again = (_numbers(_apply(one, sample, level)) for _ in range(2))
    assert np.array_equal(_numbers(sample), before)
    assert np.array_equal(first, again, equal_nan=one.kind != "text")
    assert not np.array_equal(first, _numbers(sample))
    assert one.unit and one.function.__doc__ and list(one.levels)
    if one.kind == "image":
        assert first.dtype == np.uint8 and first.shape == sample.shape


def test_levels_are_what_their_units_say():
    wave, rate = _sample("audio")
    for level in (30, 0):
        noisy = get_corruption("white_noise", "audio").corrupt((wave, rate), level, 0, 0)[0]
        ratio = 10 * np.log10(np.mean(wave**2) / np.mean((noisy - wave) ** 2))
        assert ratio == pytest.approx(level, abs=0.3)
    clipped = get_corruption("clipping", "audio").corrupt((wave, rate), 0.25, 0, 0)[0]
    top = np.abs(clipped).max()
    size = np.abs(wave)  # whole steps of 16 bits: several samples are as loud as the limit
    assert np.mean(size > top) <= 0.25 <= np.mean(size >= top)
    lost = get_corruption("dropped_segments", "audio").corrupt(
        (np.ones((1, 80000)), 8000), 0.25, 0, 0
    )
    assert np.mean(lost[0] == 0) == pytest.approx(0.25, abs=0.06)
    runs = np.diff(np.flatnonzero(np.diff(lost[0][0])))
    assert (runs % 160 == 0).all()  # parts of 20 ms

    grey = np.full((40, 60, 3), 200, np.uint8)
    grey[:5] = 0
    covered = get_corruption("occlusion", "image").corrupt(grey, 0.25, 0, 0)
    assert np.mean((covered != grey).any(axis=2)) == pytest.approx(0.25, abs=0.04)
    dark = get_corruption("darkness", "image").corrupt(grey, 2, 0, 0)
    assert (dark[10, 0, 0] / 255) ** 2.2 == pytest.approx((200 / 255) ** 2.2 / 4, rel=0.02)
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[32:] = 255
    soft = get_corruption("blur", "image").corrupt(edge, 4 / 64, 0, 0)[:, 0, 0] / 255
    assert soft[36] == pytest.approx(0.87, abs=0.02)  # half a pixel above one sigma: Phi(1.125)

    words = get_corruption("dropped_words", "text").corrupt(TEXT * 5, 0.5, 0, 0).split()
    assert len(words) / len((TEXT * 5).split()) == pytest.approx(0.5, abs=0.08)
    points = _sample("points")
    kept = get_corruption("dropped_points", "points").corrupt(points, 0.75, 0, 0)
    assert len(kept) == pytest.approx(50, abs=18)
    moved = get_corruption("range_noise", "points").corrupt(points, 0.1, 0, 0)
    assert (
        np.std(np.linalg.norm(moved[:, :3], axis=1) - np.linalg.norm(points[:, :3], axis=1)) < 0.12
    )
    frames = np.arange(40.0)[:, None]
    shifted = get_corruption("desynchronised", "frames").corrupt(frames, 0.25, 0, 0)
    assert np.median(np.abs(shifted - frames)) == 10 and len(shifted) == 40
    few = get_corruption("dropped_frames", "frames")
    assert all(len(few.corrupt(frames, 1.0, seed, 0)) == 1 for seed in range(3))


def test_what_is_lost_at_one_level_is_lost_at_the_next():
    for kind, name in (("text", "dropped_words"), ("points", "dropped_points")):
        one = get_corruption(name, kind)
        sizes = [len(one.corrupt(_sample(kind), level, 0, 0)) for level in one.levels]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]


def test_blocks_are_disturbed_in_training_units_and_swapped_between_groups():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 2)).astype(np.float32)
    noise = get_corruption("feature_noise", "block")
    noisy = noise.corrupt_block(values, 2, 0, scale=np.array([1.0, 100.0]))
    assert np.std(noisy - values, axis=0) == pytest.approx([2, 200], rel=0.1)
    gone = get_corruption("dropped_features", "block")
    assert np.isnan(gone.corrupt_block(values, 0.25, 0, scale=np.ones(2))).mean() == pytest.approx(
        0.25, abs=0.04
    )
    swap = get_corruption("swapped_rows", "block")
    for share in (0.5, 1):
        moved = swap.corrupt_block(values, share, 0, scale=np.ones(2))
        assert (moved != values).any(axis=1).mean() == share
        assert sorted(moved[:, 0]) == sorted(values[:, 0])
    groups = np.repeat(np.arange(40), 10)
    marked = np.repeat(groups[:, None], 2, axis=1).astype(np.float32)
    moved = swap.corrupt_block(marked, 1, 0, scale=np.ones(2), groups=groups)
    assert (moved[:, 0] != groups).all() and sorted(moved[:, 0]) == sorted(marked[:, 0])


def test_cells_in_every_form_are_read_and_given_back(tmp_path):
    cut = lambda sample: sample[:2]  # noqa: E731
    turns = [("doctor", "how are you"), {"speaker": "p", "text": "fine thanks"}, "bye"]
    said = corrupt_cell(turns, "text", str.upper)
    assert said == [("doctor", "HOW ARE YOU"), {"speaker": "p", "text": "FINE THANKS"}, "BYE"]
    (tmp_path / "a.txt").write_text("note")
    assert corrupt_cell(tmp_path / "a.txt", "text", str.upper) == "NOTE"
    frame = pd.DataFrame({"AU01": [1.0, 2, 3], "input": ["x"] * 3})
    frame.to_csv(tmp_path / "a.csv", index=False)
    for cell in (frame, tmp_path / "a.csv", {"AU01": [1.0, 2, 3]}):
        assert corrupt_cell(cell, "frames", cut)["AU01"].tolist() == [1, 2]
    both = corrupt_cell({"recording": frame, "baseline": frame}, "frames", cut)
    assert len(both["recording"]) == 2 and len(both["baseline"]) == 3
    assert corrupt_cell(np.ones((4, 2)), "frames", cut).shape == (2, 2)
    thing = corrupt_cell({"points": np.ones((5, 4)), "box": 1}, "points", cut)
    assert thing["points"].shape == (2, 4) and thing["box"] == 1
    pytest.importorskip("PIL")
    region = corrupt_cell((np.zeros((4, 4), np.uint8), (0, 0, 2, 2)), "image", lambda p: p + 1)
    assert region["image"].max() == 1 and tuple(region["box"]) == (0, 0, 2, 2)
    for kind, cell in (("text", 3), ("frames", "x"), ("points", np.ones(3))):
        with pytest.raises(ValueError, match=f"is in no form of {kind} that is known"):
            corrupt_cell(cell, kind, cut)


def test_others_may_register_their_own():
    @register_corruption("reversed", kind="text", levels=(1,), unit="on or off")
    def backwards(text, level, rng):
        return text[::-1]

    try:
        assert get_corruption("reversed", "text") in corruptions_of("text")
        with pytest.raises(ValueError, match="there is a corruption 'reversed' of text already"):
            register_corruption("reversed", kind="text", levels=(1,), unit="")
    finally:
        unregister_corruption("reversed", "text")
    with pytest.raises(
        ValueError, match="no corruption 'reversed' of text; known: dropped_words, t"
    ):
        unregister_corruption("reversed", "text")
    with pytest.raises(
        ValueError, match="kind must be one of block, audio, image, text, frames, p"
    ):
        register_corruption("x", kind="smell", levels=(1,), unit="")
    with pytest.raises(ValueError, match="'x' needs at least one level"):
        register_corruption("x", kind="text", levels=(), unit="")

    @register_corruption("short", kind="block", levels=(1,), unit="rows")
    def short(values, level, rng, *, scale, groups):
        return values[1:]

    try:
        with pytest.raises(
            ValueError, match=re.escape("must keep the shape (3, 2) of a block; it")
        ):
            get_corruption("short", "block").corrupt_block(np.ones((3, 2)), 1, 0, scale=np.ones(2))
    finally:
        unregister_corruption("short", "block")
