"""ActionUnitEncoder: tables of three tools, and closed forms of its statistics."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from data import data_folder

import mmfuse as mf
from mmfuse import FusionClassifier, ModalityTable, Presence
from mmfuse.cli.doctor import examine
from mmfuse.encoders import ActionUnitEncoder
from mmfuse.encoders._face_tables import as_layout, read_recording
from mmfuse.exceptions import EncodingError
from mmfuse.heads import EarlyFusion

_R = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
_C = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 28, 45)


def openface(n: int = 8, *, seed: int = 0) -> pd.DataFrame:
    """A table with the header of OpenFace 2.2 FeatureExtraction, its leading blanks included."""
    rng = np.random.default_rng(seed)
    names = ["frame", "face_id", "timestamp", "confidence", "success"]
    names += [f"gaze_{eye}_{axis}" for eye in "01" for axis in "xyz"]
    names += ["gaze_angle_x", "gaze_angle_y"]
    names += [f"eye_lmk_{axis}_{i}" for axis in "xy" for i in range(56)]
    names += [f"pose_{kind}{axis}" for kind in "TR" for axis in "xyz"]
    names += [f"{axis}_{i}" for axis in "xy" for i in range(68)]
    names += [f"p_{name}" for name in ("scale", "rx", "ry", "rz", "tx", "ty", *range(34))]
    table = pd.DataFrame(rng.normal(size=(n, len(names))), columns=names)
    table["frame"], table["face_id"] = np.arange(1, n + 1), 0
    table["timestamp"], table["confidence"], table["success"] = np.arange(n) / 30, 0.98, 1
    for unit in _R:
        table[f"AU{unit:02d}_r"] = rng.uniform(0, 5, n).round(2)
    for unit in _C:
        table[f"AU{unit:02d}_c"] = rng.integers(0, 2, n).astype(float)
    first, *others = table.columns
    return table.set_axis([first, *(f" {name}" for name in others)], axis=1)


def py_feat(n: int = 6, *, seed: int = 1) -> pd.DataFrame:
    """A table as py-feat 0.6 writes it with Fex.to_csv."""
    rng = np.random.default_rng(seed)
    names = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    names += [f"{axis}_{i}" for axis in "xy" for i in range(68)] + ["Pitch", "Roll", "Yaw"]
    names += [f"AU{unit:02d}" for unit in (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 43)]
    names += ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"]
    table = pd.DataFrame(rng.uniform(size=(n, len(names))), columns=names)
    table["FaceScore"], table["FaceRectWidth"], table["FaceRectHeight"] = 0.99, 80.0, 90.0
    table["input"], table["frame"] = "clip.mp4", np.arange(n)
    return table


def libreface(n: int = 5, *, seed: int = 2) -> pd.DataFrame:
    """A table as LibreFace writes it for a video."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"frame_idx": np.arange(n), "frame_time_in_ms": np.arange(n) * 33.4})
    for name in ("pitch", "yaw", "roll", "gaze_yaw", "gaze_pitch"):
        table[name] = rng.normal(0, 10, n)
    for unit in (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24):
        table[f"au_{unit}"] = rng.integers(0, 2, n)
    for unit in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
        table[f"au_{unit}_intensity"] = rng.uniform(0, 5, n).round(3)
    table["facial_expression"] = "Neutral"
    return table


TABLES = {"OpenFace": openface, "py-feat": py_feat, "LibreFace": libreface}


def encoder(**params) -> ActionUnitEncoder:
    return ActionUnitEncoder(cache=False, device="cpu", **params)


def named(fitted: ActionUnitEncoder, column) -> pd.DataFrame:
    return pd.DataFrame(fitted.transform(column), columns=fitted.get_feature_names_out())


@pytest.mark.parametrize("source", TABLES)
def test_the_tool_is_recognised(source):
    recording = read_recording(TABLES[source](), min_confidence=0.75)
    assert recording.source == source
    assert recording.counts["used"] == recording.counts["frames"] == len(TABLES[source]())
    angles = {"gaze_yaw", "gaze_pitch", "pose_pitch", "pose_yaw", "pose_roll"}
    expected = angles - ({"gaze_yaw", "gaze_pitch"} if source == "py-feat" else set())
    assert {name for name in recording.signals if name[:2] != "AU"} == expected


@pytest.mark.parametrize("source", TABLES)
def test_files_frames_and_arrays_are_the_same(source, tmp_path):
    table = TABLES[source]()
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "b.tsv", index=False, sep="\t")
    arrays = {name: table[name].to_numpy() for name in table}
    cells = [tmp_path / "a.csv", str(tmp_path / "a.csv"), tmp_path / "b.tsv", table, arrays]
    cells.append({"path": str(tmp_path / "a.csv")})
    values = encoder().fit(cells[:1]).transform(cells)
    for row in values[1:]:
        np.testing.assert_allclose(row, values[0], rtol=1e-6)


def test_units_have_two_digits_and_intensities_one_scale():
    layout = as_layout(list(libreface().columns))
    assert layout.intensities["AU01"] == "au_1_intensity" and layout.flags["AU24"] == "au_24"
    table = libreface()
    frame = named(encoder().fit([table]), [table])
    assert frame["face_AU12_mean"][0] == pytest.approx(table["au_12_intensity"].mean() / 5)
    assert frame["face_AU12_rate"][0] == pytest.approx(table["au_12"].mean())
    assert frame["face_pose_yaw_mean"][0] == pytest.approx(np.radians(table["yaw"].mean()))


def test_statistics_are_those_of_numpy():
    table = openface(40)
    table.loc[[3, 17, 18], " success"] = 0
    table.loc[30, " AU06_r"] = np.nan
    frame = named(encoder(percentiles=(0, 25, 50, 90)).fit([table]), [table])
    used = table[" success"] == 1
    for unit in ("AU01", "AU06", "AU45"):
        series = table[f" {unit}_r"].where(used) / 5
        expected = {
            "mean": series.mean(),
            "sd": series.std(ddof=0),
            "p0": series.min(),
            "p25": series.quantile(0.25),
            "p50": series.median(),
            "p90": series.quantile(0.9),
            "delta_mean": series.diff().abs().mean(),
            "delta_sd": series.diff().std(ddof=0),
            "rate": table.loc[used, f" {unit}_c"].mean(),
        }
        for statistic, value in expected.items():
            assert frame[f"face_{unit}_{statistic}"][0] == pytest.approx(value, rel=1e-5), statistic
    assert frame["face_found_share"][0] == pytest.approx(37 / 40)


def test_a_unit_that_has_flags_alone_has_a_rate_alone():
    fitted = encoder().fit([openface()])
    names = set(fitted.get_feature_names_out())
    assert "face_AU28_rate" in names and "face_AU28_mean" not in names
    assert fitted.action_units_ == tuple(f"AU{unit:02d}" for unit in _R)
    assert fitted.n_features_out_ == (len(_R) + 5) * 7 + len(_C) + 1


def test_activity_from_intensities():
    table = {"AU12": np.array([0.1, 0.3, 0.6, 0.9]), "AU04": np.array([0.0, np.nan, 0.6, 0.2])}
    frame = named(encoder().fit([table]), [table])
    assert frame["face_AU12_rate"][0] == pytest.approx(0.5)
    assert frame["face_AU04_rate"][0] == pytest.approx(1 / 3)
    low = named(encoder(activation=0.25).fit([table]), [table])
    assert low["face_AU12_rate"][0] == pytest.approx(0.75)


def test_frames_without_a_face_do_not_count():
    table = openface(6)
    table.loc[0, " success"] = 0
    table.loc[1, " confidence"] = 0.4
    table.loc[2, [name for name in table if "AU" in name]] = np.nan
    table.loc[3, " AU12_r"] = np.nan
    counts = encoder().frame_counts([table, None])
    assert counts.loc[0].to_dict() == {
        "frames": 6,
        "used": 3,
        "no_face": 2,
        "low_confidence": 1,
        "incomplete": 1,
    }
    assert counts.loc[1].isna().all()
    fitted = encoder().fit([table])
    kept = table.iloc[3:].reset_index(drop=True)
    a, b = named(fitted, [table]), named(fitted, [kept])
    same = [name for name in a if name != "face_found_share"]
    np.testing.assert_allclose(a[same], b[same], rtol=1e-5)
    assert encoder(min_confidence=0.3).frame_counts([table]).loc[0, "low_confidence"] == 0


def test_no_face_in_any_frame_is_empty():
    away = openface(4, seed=3)
    away[" success"] = 0
    no_rows = openface(1).iloc[:0]
    missed = py_feat(3)
    missed.loc[:, [name for name in missed if name != "frame" and name != "input"]] = np.nan
    fitted = encoder().fit([openface()])
    encoded = fitted.encode([away, openface(), no_rows])
    assert encoded.presence.tolist() == [Presence.EMPTY, Presence.PRESENT, Presence.EMPTY]
    assert np.isnan(encoded.values[[0, 2]]).all() and not encoded.errors
    assert encoder().fit([py_feat()]).encode([missed]).presence.tolist() == [Presence.EMPTY]


def test_a_unit_that_a_table_lacks_is_missing_and_not_zero():
    whole, part = openface(seed=1), openface(seed=2).drop(columns=[" AU06_r", " AU06_c"])
    fitted = encoder().fit([part, whole])
    assert fitted.n_features_out_ == encoder().fit([whole]).n_features_out_
    frame = named(fitted, [part])
    about = [name for name in frame if "AU06" in name]
    assert len(about) == 8 and frame[about].isna().all(axis=None)
    assert frame.drop(columns=about).notna().all(axis=None)
    assert fitted.encode([part]).presence.tolist() == [Presence.PRESENT]


def test_missing_units_go_through_the_cache(tmp_path):
    part = openface().drop(columns=[" AU06_r", " AU06_c"])
    fitted = ActionUnitEncoder(cache=tmp_path, device="cpu").fit([openface(), part])
    first = fitted.transform([part, openface()])
    np.testing.assert_array_equal(fitted.transform([part, openface()]), first)
    fewer = ActionUnitEncoder(cache=tmp_path, device="cpu", action_units=["AU12"])
    assert fewer.fit([openface()]).transform([openface()]).shape == (1, 6 * 7 + 2)


def test_named_units_fix_the_width():
    a = encoder(action_units=["AU12", "AU06"], angles=False).fit([openface()])
    b = encoder(action_units=["AU12", "AU06"], angles=False).fit([py_feat()])
    assert list(a.get_feature_names_out()) == list(b.get_feature_names_out())
    assert a.get_feature_names_out()[0] == "face_AU12_mean" and a.n_features_out_ == 17
    other = {"AU01_r": [1.0, 2.0]}
    with pytest.raises(EncodingError, match="face, row 0: it has none of the .* AU12, AU06 that"):
        a.transform([other])


def test_another_tool_than_in_fit_is_an_error():
    fitted = encoder().fit([openface()])
    match = "row 1: it is a recording of py-feat, but fit saw those of OpenFace; tools differ"
    with pytest.raises(EncodingError, match=match):
        fitted.transform([openface(), py_feat()])
    with pytest.warns(UserWarning, match="recordings of OpenFace and py-feat; they differ"):
        both = encoder().fit([openface(), py_feat()])
    assert both.sources_ == ("OpenFace", "py-feat")
    assert np.isfinite(named(both, [py_feat()])["face_AU12_mean"][0])


def test_the_recordings_own_baseline():
    table = {"AU01_r": np.array([2.0, 2.5, 2.0, 4.0]), "AU12_r": np.array([0.0, 1.0, 0.0, 3.0])}
    frame = named(encoder(baseline="own", baseline_percentile=0).fit([table]), [table])
    assert frame["face_AU01_mean"][0] == pytest.approx((0 + 0.5 + 0 + 2) / 4 / 5)
    assert frame["face_AU12_mean"][0] == pytest.approx(0.2)
    assert frame["face_AU01_rate"][0] == pytest.approx(0.25)  # 2.0 above rest, of 5


def test_a_given_baseline(tmp_path):
    table, rest = openface(seed=4), openface(seed=5)
    rest.loc[2, " success"] = 0
    rest = rest.drop(columns=" AU09_r")
    table.to_csv(tmp_path / "talk.csv", index=False)
    rest.to_csv(tmp_path / "rest.csv", index=False)
    cell = {"recording": str(tmp_path / "talk.csv"), "baseline": str(tmp_path / "rest.csv")}
    fitted = encoder(baseline="given").fit([cell])
    frame, plain = named(fitted, [cell]), named(encoder().fit([table]), [table])
    level = rest.loc[rest[" success"] == 1, " AU12_r"].mean() / 5
    assert frame["face_AU12_p50"][0] == pytest.approx(plain["face_AU12_p50"][0] - level, abs=1e-6)
    assert frame["face_AU12_sd"][0] == pytest.approx(plain["face_AU12_sd"][0], abs=1e-6)
    assert frame["face_pose_yaw_mean"][0] == plain["face_pose_yaw_mean"][0]
    assert np.isnan(frame["face_AU09_mean"][0]) and np.isfinite(frame["face_AU09_rate"][0])


def test_a_changed_baseline_is_not_read_from_the_cache(tmp_path):
    talk, rest = {"AU12": [0.5, 0.7]}, tmp_path / "rest.csv"
    fitted = ActionUnitEncoder(baseline="given", cache=tmp_path / "cache", device="cpu")
    cell = {"recording": talk, "baseline": str(rest)}
    for level in (0.1, 0.2):
        rest.write_text(f"AU12\n{level}\n", encoding="utf-8")
        frame = named(fitted.fit([cell]), [cell])
        assert frame["face_AU12_mean"][0] == pytest.approx(0.6 - level)


def test_baselines_that_cannot_be_used():
    with pytest.raises(ValueError, match="baseline='own' needs recordings of several frames"):
        encoder(baseline="own").fit([np.zeros((4, 4, 3), np.uint8)])
    fitted = encoder(baseline="given").fit([{"recording": openface(), "baseline": openface()}])
    away = openface().assign(**{" success": 0})
    for cell, message in (
        (openface(), "baseline='given' needs cells .*this one has no baseline"),
        (
            {"recording": openface(), "baseline": py_feat()},
            "its baseline is a recording of py-feat",
        ),
        ({"recording": openface(), "baseline": away}, "its baseline has no frame with a face"),
    ):
        with pytest.raises(EncodingError, match=f"face, row 0: {message}"):
            fitted.transform([cell])


def test_one_face_per_frame():
    main, other = openface(6, seed=6), openface(4, seed=7)
    other[" face_id"] = 1
    together = pd.concat([main, other]).sort_values("frame", kind="stable")
    fitted = encoder().fit([main])
    np.testing.assert_array_equal(fitted.transform([together]), fitted.transform([main]))
    near, far = py_feat(5, seed=8), py_feat(5, seed=9)
    far["FaceRectWidth"] = 20.0
    crowd = pd.concat([far, near]).sort_values("frame", kind="stable")
    fitted = encoder().fit([near])
    np.testing.assert_array_equal(fitted.transform([crowd]), fitted.transform([near]))
    with pytest.raises(EncodingError, match="frame 0 is there more than once.*one row per frame"):
        fitted.transform([crowd.drop(columns=["FaceRectWidth"])])


def test_what_windows_writes_for_nan(tmp_path):
    table = openface(5)
    text = table.assign(**{" AU12_r": ["-nan(ind)", "1.0", "nan(ind)", "2.0", "inf"]})
    text.to_csv(tmp_path / "a.csv", index=False)
    fitted = encoder().fit([table])
    assert named(fitted, [tmp_path / "a.csv"])["face_AU12_mean"][0] == pytest.approx(0.3)
    assert fitted.frame_counts([tmp_path / "a.csv"]).loc[0, "incomplete"] == 3


BROKEN = {
    "words.csv": ("AU12_r,success\n0.5,1\nhigh,1\n", "'AU12_r', frame row 1: 'high' is no number"),
    "other.csv": ("time,loudness\n0,1\n", "no action unit among its columns 'time', 'loudness'"),
    "ragged.csv": (
        "AU12_r\n1,2,3\n1,2\n1,2,3,4\n",
        "row 0 of the table has more values than the header has names",
    ),
    "empty.csv": ("", "the table has no header"),
    "twice.csv": ("AU12_r, AU12_r ,success\n1,2,1\n", "the column 'AU12_r' is there twice"),
    "talk.wav": ("RIFF", "must end in one of .avi, .*.csv.*, got '.wav'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_fail_with_row_and_path(name, tmp_path):
    content, message = BROKEN[name]
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    fitted = encoder(on_error="mark").fit([openface(), path])
    with pytest.warns(UserWarning, match="1 of 2 cells could not be encoded"):
        encoded = fitted.encode([openface(), path])
    assert encoded.presence.tolist() == [Presence.PRESENT, Presence.FAILED]
    assert encoded.errors[1].startswith(f"face, row 1 ({path}): ")
    with pytest.raises(EncodingError, match=message):
        fitted.set_params(on_error="raise").transform([openface(), path])
    with pytest.raises(EncodingError, match="face, row 1: .*; fix or remove the sample"):
        fitted.frame_counts([openface(), path])
    assert fitted.set_params(on_error="mark").frame_counts([path]).isna().all(axis=None)


def test_other_samples_that_are_no_recording():
    fitted = encoder().fit([openface()])
    for cell, message in (
        (
            {"AU12_r": [1.0, 2.0], "AU06_r": [1.0]},
            "the arrays .* must be of one length, got {'AU12_r': 2, 'AU",
        ),
        (3.5, "expected a path, a DataFrame or dict of arrays .*type float"),
    ):
        with pytest.raises(EncodingError, match=f"row 0: {message}"):
            fitted.transform([cell])


def test_fit_must_see_a_recording(tmp_path):
    with pytest.raises(ValueError, match=r"at least one recording .*got 1 cells.*row 0.*no such"):
        encoder().fit([tmp_path / "gone.csv"])
    with pytest.raises(ValueError, match="got 0 cells"):
        encoder().fit([None, Presence.EMPTY])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"action_units": "AU12"}, "action_units must be 'auto' or a sequence"),
        ({"action_units": ["AU12", "AU12"]}, "action_units must be 'auto' or a sequence"),
        ({"action_units": ["smile"]}, "action_units must be 'auto' or a sequence"),
        ({"angles": 1}, "angles must be True or False"),
        ({"min_confidence": "high"}, "min_confidence must be a finite number"),
        ({"baseline": "mean"}, "baseline must be one of None, 'own', 'given'"),
        ({"baseline_percentile": 101}, "baseline_percentile must lie in 0..100"),
        ({"activation": "low"}, "activation must be a finite number"),
        ({"percentiles": (10, 101)}, "percentiles must be numbers in 0..100"),
        ({"percentiles": (10, 10)}, "percentiles must be different numbers"),
        ({"percentiles": 10}, "percentiles must be a sequence of numbers"),
        ({"deltas": None}, "deltas must be True or False"),
        ({"frame_rate": 0}, "frame_rate must be a finite number above 0 or None"),
    ],
)
def test_bad_arguments(params, message):
    with pytest.raises((ValueError, TypeError), match=f"ActionUnitEncoder: {message}.* got "):
        encoder(**params).fit([openface()])


def test_state_keeps_what_was_learned():
    fitted = encoder(percentiles=()).fit([openface()])
    state = json.loads(json.dumps(fitted.get_state()))
    assert state["sources"] == ["OpenFace"] and "AU28" in state["rated_units"]
    other = encoder(percentiles=()).set_state(state)
    np.testing.assert_array_equal(other.transform([openface(7)]), fitted.transform([openface(7)]))


def test_a_saved_model_reads_recordings(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 2
    tables = [openface(12, seed=i) for i in range(30)]
    for table, label in zip(tables, y, strict=True):
        table[" AU12_r"] = np.clip(table[" AU12_r"] * 0.2 + 3 * label, 0, 5)
    tables[4] = tables[5] = None
    tables[6] = tables[6].drop(columns=[" AU06_r", " AU06_c"])
    tables[7][" success"] = 0
    X = ModalityTable({"face": tables, "age": rng.normal(size=(30, 2))})
    faces = {"face": ActionUnitEncoder(action_units=["AU06", "AU12"], device="cpu")}
    model = FusionClassifier(EarlyFusion(), encoders=faces, random_state=0, cv=3).fit(X, y)
    assert model.score(X, y) > 0.8
    model.save(tmp_path / "model")
    again = mf.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
    assert again.encode(X).presence[[4, 7], 0].tolist() == [Presence.ABSENT, Presence.EMPTY]
    assert "face: ActionUnitEncoder: ready" in examine(tmp_path / "model").to_text()


def test_real_tables_of_py_feat():
    clips = sorted(data_folder("face_au_series").glob("0*.csv"))
    fitted = encoder().fit(clips)
    assert fitted.sources_ == ("py-feat",) and len(fitted.action_units_) == 20
    assert fitted.angles_ == ("gaze_pitch", "gaze_yaw", "pose_pitch", "pose_roll", "pose_yaw")
    frame = named(fitted, clips)
    assert frame.shape == (12, 25 * 7 + 20 + 1) and frame.notna().all(axis=None)
    table = pd.read_csv(clips[0])
    assert frame["face_AU12_mean"][0] == pytest.approx(table["AU12"].mean(), rel=1e-5)
    assert fitted.frame_counts(clips)["used"].between(14, 39).all()


def test_a_real_table_of_openface():
    path = data_folder("face_au_series") / "openface_output_example.csv"
    fitted = encoder().fit([path])
    table = pd.read_csv(path, skipinitialspace=True)
    used = (table["success"] == 1) & (table["confidence"] >= 0.75)
    frame = named(fitted, [path])
    assert frame["face_found_share"][0] == pytest.approx(used.mean())
    assert frame["face_AU12_mean"][0] == pytest.approx(table.loc[used, "AU12_r"].mean() / 5)
    assert frame["face_AU28_rate"][0] == pytest.approx(table.loc[used, "AU28_c"].mean())
    yaw = np.arctan2(table["gaze_0_x"] + table["gaze_1_x"], -table["gaze_0_z"] - table["gaze_1_z"])
    assert frame["face_gaze_yaw_mean"][0] == pytest.approx(yaw[used].mean(), rel=1e-5)
