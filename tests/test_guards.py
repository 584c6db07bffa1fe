"""Guards: shared groups, repeated content and leaking modalities, on real data."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from data import data_folder
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier

import mmfuse
from mmfuse import Blocks, FusionClassifier, FusionRegressor, ModalityTable, modality_report
from mmfuse.datasets import export_av_digits, load_av_digits
from mmfuse.digests import block_digests, group_digests, row_digests
from mmfuse.exceptions import LeakageError, LeakageWarning
from mmfuse.guards import check_disjoint, find_duplicates, find_leaks, forget_training
from mmfuse.heads import EarlyFusion
from mmfuse.inner_split import warn_inner_split
from mmfuse.splits import make_folds

# -- groups ------------------------------------------------------------------------------------


def test_shared_groups_are_named():
    check_disjoint([1, 2], [3], ["4"])
    message = "2 groups (7, 'ben') of calibration are also in test"
    with pytest.raises(LeakageError, match=re.escape(message)):
        check_disjoint(
            np.array(["1"]),
            np.array(["7", "ben"], dtype=object),
            np.array([7, "ben", "eve"], dtype=object),
            names=("training", "calibration", "test"),
        )
    many = np.arange(9)
    with pytest.raises(LeakageError, match=re.escape("9 groups (0, 1, 2, 3, 4 and 4 more) of tra")):
        check_disjoint(many, many)


@pytest.mark.parametrize(
    "parts, options, message",
    [
        (([1],), {}, "needs the groups of two parts or more; got 1"),
        (([1], [[2]]), {}, "the groups of test must be one label per row; got the shape (1, 1)"),
        (([1], [2, None]), {}, "the group of row 1 of test is missing; give every row a group"),
        (([1], [2]), {"names": ("a",)}, "2 parts have 1 names"),
    ],
)
def test_bad_groups_are_named(parts, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_disjoint(*parts, **options)


def test_labels_are_compared_as_files_mix_them_up():
    same = group_digests(np.array([7, 7.0, "7", np.int8(7)], dtype=object))
    assert len(set(same)) == 1
    assert group_digests(np.array(["7.5"]))[0] != same[0]


def test_rows_that_differ_have_digests_that_differ():
    bits = (np.arange(2**16)[:, None] >> np.arange(16)) & 1  # words that differ in high bits alone
    wide = np.hstack([bits, bits * 2.0**-20, np.full((2**16, 1), np.inf)])
    for matrix in (bits, bits + 0.5, bits * 1e30, wide, np.random.default_rng(0).random((5000, 3))):
        assert len(np.unique(block_digests(matrix))) == len(matrix)
    wide = wide[:, :32]
    halves = Blocks({"a": wide[:, :20].astype(np.float32), "b": wide[:, 20:].astype(np.float32)})
    np.testing.assert_array_equal(row_digests(halves), block_digests(wide))
    np.testing.assert_array_equal(row_digests(halves[700:2900]), block_digests(wide)[700:2900])


def test_given_folds_with_shared_groups_are_refused():
    groups = np.repeat(np.arange(4), 3)
    split = [(np.arange(8), np.arange(8, 12))]  # row 8 is of group 2, and so are 6 and 7
    with pytest.raises(LeakageError, match=re.escape("cv split 0 puts groups [2] on both sides")):
        make_folds(split, np.arange(12) % 2, groups, classification=True, seed=0)


def _people(seed=0, n=120):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    X = {name: (y[:, None] + rng.normal(size=(n, 3))).astype(np.float32) for name in ("a", "b")}
    return Blocks(X), y, np.repeat(np.arange(n // 4), 4)


def test_a_report_on_training_people_is_refused_and_on_training_rows_warned_of(tmp_path):
    X, y, groups = _people()
    model = FusionClassifier(EarlyFusion(), cv=3).fit(X[:80], y[:80], groups=groups[:80])
    model.save(tmp_path / "model")
    for one in (model, mmfuse.load(tmp_path / "model")):
        with pytest.raises(
            LeakageError,
            match=r"modality_report: the model was fitted on 5 groups "
            r"\('15', '16', '17', '18', '19'\), which are also among",
        ):
            modality_report(one, X[60:], y[60:], groups=groups[60:].astype(str), n_bootstrap=5)
        with pytest.warns(LeakageWarning, match=r"20 of 60 rows are identical .*\(rows 0, 1, 2, 3"):
            modality_report(one, X[60:], y[60:], n_bootstrap=5)
        with pytest.raises(LeakageError, match="20 of 60 rows are identical"):
            modality_report(one, X[60:], y[60:], n_bootstrap=5, overlap="raise")
        with pytest.raises(ValueError, match="overlap must be one of auto, raise, warn, ignore; g"):
            modality_report(one, X[60:], y[60:], n_bootstrap=5, overlap="no")
        with warnings.catch_warnings():
            warnings.simplefilter("error", LeakageWarning)
            warnings.simplefilter("ignore", mmfuse.exceptions.ModalityNeglectWarning)
            modality_report(one, X[80:], y[80:], groups=groups[80:], n_bootstrap=5)
            modality_report(one, X, y, groups=groups, n_bootstrap=5, overlap="ignore")
    forget_training(model)
    assert not hasattr(model, "training_record_")


def test_the_record_holds_digests_alone_and_serves_regressors_and_outputs():
    X, y, groups = _people()
    record = FusionRegressor(EarlyFusion(), cv=3).fit(X, y * 1.0, groups=groups).training_record_
    assert record.rows.dtype == record.groups.dtype == np.int64
    assert len(record.rows) == 120 and len(record.groups) == 30
    assert not np.isin(record.groups, np.arange(30)).any()
    both = FusionClassifier(EarlyFusion(), cv=3).fit(X, np.stack([y, 1 - y], axis=1), groups=groups)
    assert (both.output(1).training_record_.groups == record.groups).all()
    assert not hasattr(forget_training(both).output(0), "training_record_")


def test_what_stops_early_by_itself_depends_on_the_rows():
    head = EarlyFusion(model=HistGradientBoostingClassifier())  # early_stopping="auto"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_inner_split(head, np.zeros(10_000), "Owner")
        warn_inner_split(head, None, "Owner")
    with pytest.warns(LeakageWarning, match="Owner: HistGradientBoostingClassifier stops early"):
        warn_inner_split(head, np.zeros(10_001), "Owner")
    head = EarlyFusion(model=GradientBoostingClassifier(n_iter_no_change=3))
    with pytest.warns(LeakageWarning, match="turn it off with n_iter_no_change=None"):
        warn_inner_split(head, np.zeros(9), "Owner")


def test_early_stopping_on_rows_drawn_without_groups_is_warned_of():
    X, y, groups = _people()
    for inner, on in ((True, True), (False, False)):
        base = HistGradientBoostingClassifier(early_stopping=inner, max_iter=2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            FusionClassifier(EarlyFusion(model=base), cv=2).fit(X, y, groups=groups)
        said = [str(w.message) for w in caught if w.category is LeakageWarning]
        assert bool(said) == on
    base = HistGradientBoostingClassifier(early_stopping=True, max_iter=2)
    with pytest.warns(LeakageWarning, match="turn it off with early_stopping=False"):
        FusionClassifier(EarlyFusion(model=base), cv=2).fit(X, y, groups=groups)


# -- duplicates --------------------------------------------------------------------------------


def test_recordings_in_both_parts_are_found_by_content(tmp_path):
    digits = load_av_digits(n_rows=480)
    train, test = np.arange(240), np.arange(240, 480)
    found = find_duplicates(digits.X[train], digits.X[test])
    shared = np.isin(digits.recording[test], digits.recording[train])
    audio = found.pairs[found.pairs["modality"] == "audio"]
    assert audio["test_row"].tolist() == np.flatnonzero(shared).tolist() and shared.sum() > 100
    same = digits.recording[train][audio["train_row"]] == digits.recording[test][audio["test_row"]]
    assert same.all() and not found.any_row
    assert "image: 0 of 240 test rows are in training" in repr(found)
    whole = find_duplicates(digits.X[:40], digits.X[30:50])
    assert whole.any_row and whole.summary.loc["all modalities", "n_shared"] == 10
    speakers = digits.groups == "george"
    assert len(find_duplicates(digits.X[speakers], digits.X[~speakers])) == 0

    pytest.importorskip("PIL")
    manifest = export_av_digits(tmp_path, 40)
    files = ModalityTable.from_csv(manifest, image="photo_path", audio="wav_path")
    (tmp_path / "copy.png").write_bytes(files["image"][3].read_bytes())
    other = ModalityTable({"image": [tmp_path / "copy.png", None]})
    pairs = find_duplicates(files, other).pairs
    assert pairs[["modality", "train_row", "test_row"]].values.tolist() == [
        ["image", 3, 0],
        ["all modalities", 3, 0],
    ]


def test_numbers_frames_and_gaps_are_compared_by_value():
    nan = np.nan
    digests = block_digests(np.array([[0.0, nan], [-0.0, -nan], [nan, nan], [0.0, 1.0]]))
    assert digests[0] == digests[1] != digests[3] and digests[2] == 0
    train = ModalityTable({"x": [[1.0, 2.0], [nan, nan]], "t": pd.DataFrame({"p": [1, 2]})})
    test = {"x": [[nan, nan], [1.0, 2.0]], "t": pd.DataFrame({"p": [2, 3]})}
    found = find_duplicates(train, test)
    assert found.summary["n_shared"].to_dict() == {"x": 1, "t": 1, "all modalities": 1}
    assert found.summary.loc["x", "n_test"] == 1


@pytest.mark.parametrize(
    "train, test, error, message",
    [
        ({"a": [[1]]}, {"b": [[1]]}, ValueError, "X_train has the modalities a and X_test has b"),
        ({"a": [[1]]}, Blocks({"a": [[1]]}), TypeError, "one part is raw and the other encoded"),
        ([1], {"a": [[1]]}, TypeError, "X_train must be a ModalityTable, Blocks or a dict of col"),
    ],
)
def test_parts_that_cannot_be_compared_are_named(train, test, error, message):
    with pytest.raises(error, match=re.escape(message)):
        find_duplicates(train, test)


def test_cells_that_cannot_be_read_are_named(tmp_path):
    good = {"a": ["some text"]}
    with pytest.raises(ValueError, match=r"modality 'a', row 0 \(.*gone.wav\): no such file; mend"):
        find_duplicates(good, {"a": [tmp_path / "gone.wav"]})
    with pytest.raises(ValueError, match="row 0 holds an object of type object, whose content"):
        find_duplicates(good, {"a": np.array([object()], dtype=object)})


# -- leaks -------------------------------------------------------------------------------------


def _mosi(part):
    folder = data_folder("mosi")
    with np.load(folder / f"{part}.npz", allow_pickle=False) as file:
        X = Blocks({name: file[name] for name in ("text", "audio", "video")})
        return X, file["label"], file["video_id"]


def test_views_that_learned_the_labels_are_named_by_honest_validation():
    X, y, groups = _mosi("train")
    V, v, v_groups = _mosi("clean")
    with pytest.warns(
        LeakageWarning, match="'video' knows the target in training and not in valid"
    ):
        found = find_leaks(X, y, groups=groups, validation=(V, v), validation_groups=v_groups)
    assert found.flagged == ["text", "video"]
    assert (found.frame.loc[["text", "video"], "gap_low"] > 0.25).all()
    assert "a loss of at least" in found.frame.loc["text", "reasons"][0] and "text" in repr(found)


def test_without_validation_the_implausible_view_is_named():
    X, y, groups = _mosi("train")
    with pytest.warns(LeakageWarning, match="'text' is implausibly good: skill 0.9. alone, and"):
        assert find_leaks(X, y, groups=groups).flagged == ["text"]


def _honest(name):
    if name == "mosi clean":
        return _mosi("clean")
    if name == "htad":
        frame = pd.read_csv(data_folder("htad_audio_motion") / "htad.csv")
        X = {v: frame.filter(like=f"{v}_").to_numpy() for v in ("v1", "v2")}
        return Blocks(X), frame["class"].to_numpy(), None
    if name == "mfeat":
        with np.load(data_folder("mfeat_six_views") / "views.npz", allow_pickle=False) as file:
            views = ("fac", "fou", "kar", "mor", "pix", "zer")
            return Blocks({v: file[v] for v in views})[:500], file["label"][:500], None
    digits = load_av_digits()
    images = np.asarray(digits.X["image"]).reshape(960, -1)[:, ::2]
    # a cheap spectrum of the sounds; any honest features serve
    waves = [cell["array"] for cell in digits.X["audio"]]
    sounds = [np.log1p(np.abs(np.fft.rfft(w, 4096))[:1024].reshape(64, 16).sum(1)) for w in waves]
    return Blocks({"image": images, "audio": np.array(sounds)}), digits.y, digits.recording


@pytest.mark.parametrize("name", ["mosi clean", "htad", "mfeat", "av_digits"])
def test_honest_sets_raise_no_alarm(name):
    X, y, groups = _honest(name)
    units = np.arange(len(y)) if groups is None else groups
    for seed in range(2 if len(y) < 400 else 1):
        rng = np.random.default_rng(seed)
        distinct = np.unique(units)
        train = np.isin(units, rng.permutation(distinct)[: len(distinct) // 2])
        options = {}
        if groups is not None:
            options = {"groups": groups[train], "validation_groups": groups[~train]}
        with warnings.catch_warnings():
            warnings.simplefilter("error", LeakageWarning)
            found = find_leaks(
                X[train], y[train], validation=(X[~train], y[~train]), n_bootstrap=200, **options
            )
        assert found.flagged == [] and found.warnings == []


def test_targets_in_columns_in_values_and_in_gaps_are_named():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    noise = rng.normal(size=(200, 4))
    chart = np.column_stack([rng.normal(size=200), y])
    with pytest.warns(
        LeakageWarning, match="'chart' holds the target in its column 1, which alone"
    ):
        found = find_leaks({"sound": y[:, None] + noise, "chart": chart}, y, n_bootstrap=100)
    assert found.flagged == ["chart"]
    gaps = noise.copy()
    gaps[y == 1] = np.nan
    gaps[1] = 0.0
    gaps[3] = 0.0
    with pytest.warns(LeakageWarning, match="'sound' tells the target by being there"):
        assert find_leaks({"sound": gaps, "face": noise}, y).flagged == ["sound"]
    value = rng.normal(size=200)
    single = {"a": value[:, None] + 0.01 * noise[:, :1], "b": noise}
    with pytest.warns(LeakageWarning, match="'a' is implausibly good: .* far above all others"):
        found = find_leaks(single, value, validation=(single, value))
    assert found.flagged == ["a"] and abs(found.frame.loc["a", "gap"]) < 0.05


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"confidence": 2}, "confidence must lie between 0 and 1; got 2"),
        ({"task": "rank"}, "task must be 'auto', 'classification' or 'regression'; got 'rank'"),
        ({"validation": 3}, "validation must be a pair (X, y)"),
        ({"validation_groups": [1]}, "validation_groups are given without validation=(X, y)"),
        ({"validation": ({"a": [[1.0]]}, [0, 1])}, "has 1 rows and its y has 2"),
        ({"validation": ({"a": [[1.0]]}, [9])}, "the y of validation holds 9, which is no class"),
        ({"X": np.ones((12, 2))}, "X must have named modalities"),
        ({"X": {"a": np.ones((4, 2))}, "y": [0, 1, 0, 1]}, "4 rows say nothing; at least 10"),
    ],
)
def test_bad_arguments_of_the_leak_guard_are_named(options, message):
    given = {"X": {"a": np.arange(12.0)[:, None]}, "y": np.arange(12) % 2, **options}
    with pytest.raises(ValueError, match=re.escape(message)):
        find_leaks(given.pop("X"), given.pop("y"), **given)


def test_validation_people_of_training_are_refused():
    X, y, groups = _people()
    with pytest.raises(LeakageError, match="the group 3 of training is also in validation"):
        find_leaks(X[:60], y[:60], groups=groups[:60], validation=(X[:4], y[:4]),
                   validation_groups=[3, 3, 99, 99])  # fmt: skip
