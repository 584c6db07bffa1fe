"""Degradation: every subset and corruption, against what is computed by hand and on real digits."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from data import data_folder
from report_models import THREE, SumRegressor, report_case
from sklearn.metrics import accuracy_score, log_loss

from mmfuse import Blocks, FusionClassifier, FusionRegressor, ModalityTable, degradation
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import LogMelEncoder
from mmfuse.exceptions import LeakageError, LeakageWarning
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import expected_calibration_error


def _call(model, X, y, **options):
    return degradation(model, X, y, **{"n_bootstrap": 50, **options})


def test_every_subset_is_scored_as_if_the_others_were_absent():
    model, blocks, y = report_case(THREE)
    found = _call(model, blocks, y, corruptions={})
    frame = found.to_frame().set_index("modality")
    assert len(frame) == 7 and (frame["condition"] == "subset").all()
    for label, row in frame.iterrows():
        proba = model.predict_proba(blocks.select(label.split(" + ")))
        assert row["log_loss"] == pytest.approx(log_loss(y, proba))
        assert row["accuracy"] == accuracy_score(y, model.classes_[proba.argmax(axis=1)])
        ece = expected_calibration_error(y, proba, classes=model.classes_)
        assert row["ece"] == pytest.approx(ece)
        assert row["log_loss_low"] < row["log_loss"] < row["log_loss_high"]
    assert frame.loc["image + audio + noise", "log_loss_change"] == 0
    assert "coverage" not in frame and len(found.summary()) == 0
    assert "Degradation, 400 rows" in repr(found)


def test_corruption_grows_harms_and_draws_the_same_each_time():
    model, blocks, y = report_case({"image": 1.5, "audio": 1.5})
    asked = {"image": ["feature_noise", "swapped_rows"]}
    found = _call(model, blocks, y, corruptions=asked)
    again = _call(model, blocks, y, corruptions=asked)
    pd.testing.assert_frame_equal(found.frame, again.frame)
    curves = found.frame[found.frame["condition"] == "corruption"]
    noise = curves[curves["corruption"] == "feature_noise"]
    assert noise["log_loss"].is_monotonic_increasing
    assert set(noise["unit"]) == {"training standard deviations"}
    # a model that trusts the wrong rows fully is worse off than without the modality
    alone = found.frame.set_index("modality").loc["audio", "log_loss"]
    last = curves.iloc[-1]
    assert last["level"] == 1 and last["harms"] and last["log_loss"] > alone
    assert not curves.iloc[0]["harms"]
    assert found.summary()["harms_from"].notna().all()


def test_absent_cells_stay_absent_and_all_nan_rows_become_so():
    model, blocks, y = report_case({"image": 1.5, "audio": 1.5}, absent={"image": 0.5})
    seen = []

    class Spy(type(model)):
        def predict_proba(self, X):
            seen.append(X.presence[:, 0] == 1)
            return super().predict_proba(X)

    spy = Spy(model.modalities, classes=model.classes)
    _call(spy, blocks, y, corruptions={"image": ["feature_noise", "dropped_features"]})
    whole = blocks.present[:, 0]
    noisy, dropped = seen[-10:-5], seen[-5:]
    assert all((mask == whole).all() for mask in noisy)
    assert all(not (mask & ~whole).any() for mask in dropped)
    assert dropped[-1].sum() == pytest.approx(whole.sum() * (1 - 0.9**2), rel=0.4)


def test_sets_and_intervals_are_asked_for_their_coverage():
    model, blocks, y = report_case({"image": 1.5, "audio": 1.5})

    class WithSets(type(model)):
        def predict_set(self, X, coverage):
            assert coverage == 0.8
            proba = self.predict_proba(X)
            return proba >= proba.max(axis=1, keepdims=True)  # holds the best class alone

    sets = WithSets(model.modalities, classes=model.classes)
    frame = _call(sets, blocks, y, coverage=0.8, corruptions={"image": ["feature_noise"]}).frame
    assert (frame["coverage"] == frame["accuracy"]).all() and "coverage_low" in frame

    class Cannot(type(model)):
        def predict_set(self, X, coverage):
            raise ValueError("nothing was held out")

    cannot = Cannot(model.modalities, classes=model.classes)
    with pytest.warns(UserWarning, match="coverage is left out: nothing was held out"):
        assert "coverage" not in _call(cannot, blocks, y, corruptions={}).frame

    rng = np.random.default_rng(0)
    X = {name: rng.normal(size=(300, 2)) for name in ("a", "b")}
    y = X["a"][:, 0] + X["b"][:, 0] + 0.3 * rng.normal(size=300)
    cut = lambda part: {name: value[part] for name, value in X.items()}  # noqa: E731
    fitted = FusionRegressor(EarlyFusion(), cv=3).fit(cut(slice(200)), y[:200])
    found = _call(fitted, cut(slice(200, None)), y[200:], corruptions={"a": ["feature_noise"]})
    frame = found.frame
    assert found.loss == "rmse" and {"r2", "rmse", "mae", "coverage"} <= set(frame)
    assert frame["coverage"].iloc[2] > 0.8
    assert frame["coverage"].iloc[-1] < 0.5 < frame["coverage"].iloc[2]  # too sure of noise


def test_raw_sounds_are_corrupted_and_encoded_again_and_the_rest_once(monkeypatch, tmp_path):
    monkeypatch.setenv("MMFUSE_CACHE", str(tmp_path))
    digits = load_av_digits(n_rows=160)
    X = ModalityTable(
        {
            "audio": digits.X["audio"],
            "image": np.asarray(digits.X["image"]).reshape(160, -1)[:, ::4] / 255.0,
        }
    )
    train = np.isin(digits.groups, ["george", "jackson", "lucas"])
    encoder = LogMelEncoder(sample_rate=8000, n_mels=16, n_scales=1)
    model = FusionClassifier(EarlyFusion(), encoders={"audio": encoder}, cv=2)
    model.fit(X[train], digits.y[train], groups=digits.groups[train])
    files = sorted(tmp_path.rglob("*.sqlite*"))
    sizes = [path.stat().st_size for path in files]
    found = _call(
        model, X[~train], digits.y[~train], corruptions={"audio": ["white_noise", "clipping"]}
    )
    curve = found.frame[found.frame["corruption"] == "white_noise"]
    assert curve["level"].tolist() == [30, 20, 10, 0, -10] and set(curve["unit"]) == {"dB SNR"}
    assert curve["log_loss"].iloc[-1] > curve["log_loss"].iloc[0]
    assert encoder.cache is not False and [p.stat().st_size for p in files] == sizes

    summary = found.summary()
    assert summary["corruption"].tolist() == ["white_noise", "clipping"]
    with pytest.raises(
        LeakageError, match="degradation: the model was fitted on the group 'lucas'"
    ):
        _call(model, X, digits.y, groups=np.where(train, "lucas", digits.groups), corruptions={})
    with pytest.warns(LeakageWarning, match="120 of 160 rows are identical to rows that the model"):
        _call(model, X, digits.y, corruptions={})
    with pytest.raises(ValueError, match="'image' has no corruption 'blur'; it has feature_noise"):
        _call(model, X, digits.y, overlap="ignore", corruptions={"image": ["blur"]})


def test_persons_of_a_real_set_and_the_picture(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    with np.load(data_folder("mosi") / "clean.npz", allow_pickle=False) as file:
        X = Blocks({name: file[name] for name in ("text", "audio", "video")})
        y, groups = file["label"], file["video_id"]
    train = np.isin(groups, np.unique(groups)[:9])
    model = FusionClassifier(EarlyFusion(), cv=3).fit(X[train], y[train], groups=groups[train])
    with warnings.catch_warnings():
        warnings.simplefilter("error", LeakageWarning)
        found = _call(model, X[~train], y[~train], groups=groups[~train])
    assert len(found.frame) == 7 + 3 * 3 * 5
    display = found.plot()
    assert len(display.axes_) == 4
    assert [ax.get_title(loc="left") for ax in display.axes_[1:]] == [
        "text goes wrong",
        "audio goes wrong",
        "video goes wrong",
    ]
    lines = [line for line in display.axes_[1].lines if len(line.get_xdata()) == 6]
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines}) == 3
    display.figure_.savefig(tmp_path / "degradation.png")
    matplotlib.pyplot.close("all")
    with pytest.raises(ValueError, match="4 axes are needed, one for the subsets and one for each"):
        found.plot([display.axes_[0]])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"coverage": 1.0}, "coverage must lie between 0 and 1; got 1.0"),
        ({"confidence": 95}, "confidence must lie between 0 and 1; got 95"),
        ({"max_modalities": 1}, "2 modalities have 3 subsets to predict, and max_modalities=1"),
        ({"corruptions": {"smell": []}}, "corruptions name the modality 'smell', which the model"),
        ({"corruptions": {"image": ["blur"]}}, "Those of raw samples need a table and an encoder"),
    ],
)
def test_bad_arguments_are_named(options, message):
    model, blocks, y = report_case(n_rows=10)
    with pytest.raises(ValueError, match=re.escape(message)):
        _call(model, blocks, y, **options)


def test_cells_that_no_corruption_can_read_are_named():
    class Encoder:
        modality = "text"

        def get_params(self, deep=False):
            return {}

    model = SumRegressor(("a",))
    model.encode = lambda X: Blocks({"a": [[1.0], [2.0]]})
    model.encoders_ = {"a": Encoder()}
    table = ModalityTable({"a": np.array([{"what": 1}, {"what": 2}], dtype=object)})
    with pytest.raises(ValueError, match="modality 'a', row 0: typos cannot be applied"):
        _call(model, table, [1.0, 2.0], corruptions={"a": ["typos"]})


def test_a_bar_is_shown_when_asked_for_and_nothing_else(capsys):
    model, blocks, y = report_case(n_rows=50)
    _call(model, blocks, y, corruptions={})
    assert capsys.readouterr().err == ""
    _call(model, blocks, y, corruptions={}, verbose=1)
    assert "degradation" in capsys.readouterr().err
