"""The estimators inside scikit-learn's tools, and their own promises."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
    learning_curve,
)
from sklearn.pipeline import Pipeline

from mmfuse import (
    Blocks,
    FusionClassifier,
    FusionRegressor,
    ModalityEncoder,
    ModalityTable,
    Presence,
)
from mmfuse.datasets import export_av_digits
from mmfuse.encoders import ImageEncoder, LogMelEncoder, NumericEncoder
from mmfuse.exceptions import EncodingError
from mmfuse.heads import EarlyFusion, LateFusion
from tests.samples import digit_halves, two_views

QUICK = FusionClassifier(LateFusion(C=1.0), random_state=0)


def clinic(n: int = 90) -> tuple[pd.DataFrame, np.ndarray]:
    """A frame with a clinical table and a vector column, with gaps."""
    rng = np.random.default_rng(0)
    y = np.array(["ill", "well"])[np.arange(n) % 2]
    age = 40 + 15 * (y == "ill") + 5 * rng.normal(size=n)
    frame = pd.DataFrame(
        {
            "age": age,
            "sex": rng.choice(["f", "m"], n),
            "voice": list(rng.normal((y == "ill")[:, None], 1, (n, 4))),
        }
    )
    frame.loc[::7, "voice"] = None
    return frame, y


@pytest.mark.parametrize("head", [LateFusion(C=1.0), EarlyFusion(C=1.0)])
def test_rows_in_reverse_are_the_same_rows(head) -> None:
    X, y = two_views(absent=0.2)
    blocks = FusionClassifier(head, random_state=0).fit(X, y).encode(X)
    model = FusionClassifier(head, random_state=0).fit(blocks[::-1], y[::-1])
    turned = Blocks({name: blocks[name][::-1] for name in blocks.names}, blocks.presence[::-1])
    expected = model.predict_proba(blocks)
    for reverse in (blocks[::-1], turned, X[::-1]):
        np.testing.assert_allclose(model.predict_proba(reverse)[::-1], expected, atol=1e-6)


def test_cross_validation_with_groups() -> None:
    X, y = two_views(absent=0.2)
    groups = np.repeat(np.arange(12), 10)
    scores = cross_val_score(
        QUICK, X, y, groups=groups, cv=GroupKFold(3), params={"groups": groups}
    )
    assert scores.mean() > 0.5
    assert cross_val_predict(QUICK, X, y, method="predict_proba").shape == (120, 3)


def test_grid_over_heads_and_nested_parameters() -> None:
    X, y = two_views()
    model = FusionClassifier(EarlyFusion(), encoders={"a": NumericEncoder()}, random_state=0)
    grid = {
        "head": [EarlyFusion(C=1.0), LateFusion(C=1.0)],
        "head__modality_dropout": [0.0, 0.3],
        "encoders__a__on_error": ["raise", "mark"],
    }
    search = GridSearchCV(model, grid, cv=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.encoders["a"].on_error in ("raise", "mark")
    assert model.encoders["a"].on_error == NumericEncoder().on_error  # the original is untouched


def test_grid_in_worker_processes() -> None:
    X, y = two_views(60)
    search = GridSearchCV(QUICK, {"head__C": [0.1, 1.0]}, cv=2, n_jobs=2).fit(X, y)
    assert search.score(X, y) > 0.6


@pytest.mark.parametrize(
    "tool",
    [
        lambda m: CalibratedClassifierCV(m, cv=2),
        lambda m: CalibratedClassifierCV(m, cv=2, method="isotonic"),
        lambda m: StackingClassifier([("m", m)], LogisticRegression(), cv=2),
        lambda m: VotingClassifier([("m", m), ("n", m)], voting="soft"),
        lambda m: BaggingClassifier(m, n_estimators=2, random_state=0),
        lambda m: Pipeline([("fuse", m)]),
    ],
)
def test_meta_estimators(tool) -> None:
    X, y = two_views(absent=0.2)
    assert tool(QUICK).fit(X, y).score(X, y) > 0.6


def test_permutation_importance_is_per_modality() -> None:
    X, y = two_views()
    noise = np.random.default_rng(1).normal(size=(len(y), 3))
    table = ModalityTable({"a": X["a"], "noise": noise})
    model = QUICK.fit(table, y)
    result = permutation_importance(model, table, y, random_state=0, n_repeats=5)
    assert result.importances_mean.shape == (2,)
    assert result.importances_mean[0] > 5 * abs(result.importances_mean[1])


def test_learning_curve() -> None:
    X, y = two_views()
    sizes, _, test = learning_curve(QUICK, X, y, cv=2, train_sizes=[0.5, 1.0], shuffle=True)
    assert test.shape == (2, 2) and len(sizes) == 2


def test_pipeline_with_the_encoding_step_apart() -> None:
    frame, y = clinic()
    X = ModalityTable.from_pandas(frame, table=["age", "sex"], voice="voice")
    pipe = Pipeline([("encode", ModalityEncoder({"table": NumericEncoder()})), ("fuse", QUICK)])
    pipe.fit(X, y)
    inside = FusionClassifier(
        LateFusion(C=1.0), encoders={"table": NumericEncoder()}, random_state=0
    ).fit(X, y)
    np.testing.assert_allclose(pipe.predict_proba(X), inside.predict_proba(X))
    assert "encode__encoders__table__on_error" in pipe.get_params()
    with pytest.raises(ValueError, match="cannot turn into 'pandas'"):
        ModalityEncoder({}).set_output(transform="pandas")


def test_every_way_in_gives_the_same_answer() -> None:
    X, y = two_views(absent=0.2)
    a, b = np.array(X["a"]), np.array(X["b"])
    model = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(X, y)
    expected = model.predict_proba(X)
    frame = pd.DataFrame({"a": list(a), "b": list(b)})
    ways = [{"a": a, "b": b}, frame, np.asarray(X), Blocks({"a": a, "b": b}), model.encode(X)]
    for way in ways:
        np.testing.assert_allclose(model.predict_proba(way), expected, err_msg=str(type(way)))
        again = FusionClassifier(LateFusion(C=1.0), random_state=0).fit(way, y)
        np.testing.assert_allclose(again.predict_proba(way), expected, err_msg=str(type(way)))
    joined = np.hstack([a, b])
    modalities = {"a": slice(0, 3), "b": [3, 4, 5, 6, 7]}
    matrix = FusionClassifier(LateFusion(C=1.0), modalities=modalities, random_state=0)
    np.testing.assert_allclose(matrix.fit(joined, y).predict_proba(joined), expected)


def test_frame_with_numeric_columns_is_one_matrix_unless_told() -> None:
    X, y = digit_halves()
    frame = pd.DataFrame(X["upper"]).add_prefix("p")
    model = QUICK.fit(frame, y)
    assert model.modalities_ == ("x",) and model.feature_names_in_[0] == "p0"
    split = FusionClassifier(
        LateFusion(C=1.0), modalities={"left": ["p0", "p1"], "right": ["p2", "p3"]}
    ).fit(frame, y)
    assert split.block_dims_ == {"left": 2, "right": 2}


def test_missing_column_is_absence_and_partial_nan_is_imputed() -> None:
    X, y = two_views()
    model = QUICK.fit(X, y)
    np.testing.assert_allclose(model.predict_proba({"b": X["b"]}), model.predict_proba(X.hide("a")))
    b = np.array(X["b"])
    b[:, 4] = np.nan
    proba = model.predict_proba({"b": b})
    b[:, 4] = X["b"][:, 4].mean()
    np.testing.assert_allclose(proba, model.predict_proba({"b": b}), atol=1e-6)


def test_calibration_options() -> None:
    X, y = two_views()
    raw = FusionClassifier(EarlyFusion(C=100.0), calibration=None, random_state=0).fit(X, y)
    tempered = FusionClassifier(EarlyFusion(C=100.0), random_state=0).fit(X, y)
    assert raw.calibrator_ is None
    slope = tempered.calibrator_.slope(np.ones((1, 2), dtype=bool))
    assert slope < 1 / 1.2  # an unregularised fit is over-confident
    np.testing.assert_array_equal(raw.predict(X), tempered.predict(X))
    with pytest.raises(ValueError, match="calibration must be"):
        FusionClassifier(calibration="isotonic").fit(X, y)


def test_calibration_repairs_held_out_log_loss() -> None:
    X, y = two_views(600)
    train = np.arange(600) < 100

    def loss(calibration) -> float:
        model = FusionClassifier(EarlyFusion(C=1e4), calibration=calibration, random_state=0)
        p = model.fit(X[train], y[train]).predict_log_proba(X[~train])
        return -p[np.arange(500), y[~train]].mean()

    assert loss("auto") < loss(None)


def test_groups_never_leak_into_calibration() -> None:
    """Rows of a group are copies; without groups the folds would see them and be certain."""
    rng = np.random.default_rng(0)
    base, labels = rng.normal(size=(12, 40)), rng.integers(0, 2, 12)
    labels[:2] = 0, 1
    X = {"a": np.repeat(base, 8, axis=0) + 0.01 * rng.normal(size=(96, 40))}
    y, groups = np.repeat(labels, 8), np.repeat(np.arange(12), 8)
    head = EarlyFusion(C=10.0)
    blind = FusionClassifier(head, random_state=0).fit(X, y)
    aware = FusionClassifier(head, random_state=0).fit(X, y, groups=groups)
    new = {"a": rng.normal(size=(200, 40))}
    assert aware.calibrator_.temperature_ > 2 * blind.calibrator_.temperature_
    certainty = [np.abs(m.predict_proba(new)[:, 0] - 0.5).mean() for m in (aware, blind)]
    assert certainty[0] < certainty[1]


def test_class_weight_moves_the_decision() -> None:
    X, y = two_views(300, classes=2)
    rare = np.flatnonzero((y == 0) | (np.arange(300) % 6 == 0))
    plain = QUICK.fit(X[rare], y[rare])
    share = (plain.predict(X) == 1).mean()
    balanced = FusionClassifier(LateFusion(C=1.0), class_weight="balanced", random_state=0)
    assert (balanced.fit(X[rare], y[rare]).predict(X) == 1).mean() > share + 0.05


def test_pickle_and_regressor_attributes() -> None:
    X, y = two_views()
    model = FusionRegressor(random_state=0).fit(X, y.astype(float))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert model.residual_std_.shape == (1,)
    assert 0 < model.residual_std_[0] < y.std() * 1.05


def test_decision_function_agrees_with_probabilities() -> None:
    X, y = two_views(classes=2)
    model = QUICK.fit(X, y)
    p = model.predict_proba(X)[:, 1]
    np.testing.assert_allclose(model.decision_function(X), np.log(p / (1 - p)), rtol=1e-9)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))


# -- bad input, each with its message ---------------------------------------------------------


def bad(match: str, error: type[Exception] = ValueError):
    return pytest.raises(error, match=match)


def test_unknown_modality_names() -> None:
    X, y = two_views(30)
    with bad("encoders name the modality 'audoi', which X does not have; X has: a, b"):
        FusionClassifier(encoders={"audoi": NumericEncoder()}).fit(X, y)
    model = QUICK.fit(X, y)
    with bad("X has the modality 'lidar', which this model never saw in training; it knows: a, b"):
        model.predict({"a": X["a"], "lidar": X["b"]})
    with bad("no encoder 'voice'"):
        QUICK.set_params(encoders__voice__n_mels=3)


def test_wrong_numbers_of_rows() -> None:
    X, y = two_views(30)
    with bad("X has 30 rows and y has 29"):
        QUICK.fit(X, y[:-1])
    with bad("X has 30 rows and groups has 3"):
        QUICK.fit(X, y, groups=[1, 2, 3])
    with bad("X has 30 rows and sample_weight has 3"):
        QUICK.fit(X, y, sample_weight=[1, 2, 3])
    with bad("a.*30.*b.*29"):
        QUICK.fit({"a": X["a"], "b": X["b"][:-1]}, y)


def test_modality_absent_in_all_training_rows() -> None:
    X, y = two_views(30)
    with bad("Modality 'b' is absent in all 30 training rows"):
        QUICK.fit(X.hide("b"), y)


def test_bad_targets() -> None:
    X, y = two_views(30)
    gap = y.astype(float)
    gap[[3, 7]] = np.nan
    with bad(r"Input y contains NaN in 2 of 30 rows \(row 3, 7\)"):
        QUICK.fit(X, gap)
    with bad(r"Input y contains NaN in 2 of 30 rows"):
        FusionRegressor().fit(X, gap)
    with bad("needs at least two classes; y holds only one class: 1"):
        QUICK.fit(X, np.ones(30, int))
    with bad("Only one class has rows with positive sample_weight"):
        QUICK.fit(X, y, sample_weight=(y == 1).astype(float))
    with bad("must not be negative"):
        QUICK.fit(X, y, sample_weight=-np.ones(30))


def test_unfitted_model() -> None:
    X, _ = two_views(30)
    for call in ("predict", "predict_proba", "decision_function", "encode"):
        with pytest.raises(NotFittedError):
            getattr(FusionClassifier(), call)(X)
    with pytest.raises(NotFittedError):
        FusionClassifier().save("nowhere")


def test_widths_and_kinds_are_compared() -> None:
    X, y = two_views(30)
    model = QUICK.fit(X, y)
    with bad("Modality 'a' has 5 .*3"):
        model.predict({"a": X["b"], "b": X["a"]})
    with bad("fitted on the modalities a, b"):
        model.predict(np.zeros((3, 8)))
    with bad("infinity in modality 'a', row 2"):
        a = np.array(X["a"])
        a[2] = np.inf
        model.predict({"a": a})
    with bad("object array with 3 columns"):
        model.predict(np.asarray(ModalityTable({"a": X["a"], "b": X["b"], "c": X["a"]})))


def test_raw_modalities_need_an_encoder() -> None:
    frame, y = clinic(20)
    images = np.zeros((20, 8, 8), np.uint8)
    with bad("'photo' has no encoder and is an array of shape"):
        QUICK.fit({"photo": images}, y)
    with bad("'note' has no encoder, and its cells are not numeric vectors"):
        QUICK.fit({"note": ["some text"] * 20}, y)
    with bad("'t' has no encoder and is a table with text or categories"):
        QUICK.fit(ModalityTable({"t": frame[["age", "sex"]]}), y)
    with bad("encoders are given, and X is a plain matrix"):
        FusionClassifier(encoders={"a": NumericEncoder()}).fit(np.zeros((20, 2)), y)


def test_files_that_cannot_be_read_are_named_by_row_and_file(tmp_path: Path) -> None:
    manifest = export_av_digits(tmp_path, n_rows=20)
    photos, sounds = sorted(tmp_path.rglob("*.png")), sorted(tmp_path.rglob("*.wav"))
    photos[3].write_bytes(b"not a picture")
    whole = sounds[5].read_bytes()
    sounds[5].write_bytes(whole[: len(whole) // 2])
    table = pd.read_csv(manifest)
    y = table["label"] % 2
    encoders = {"photo": ImageEncoder(weights=None), "sound": LogMelEncoder()}
    X = ModalityTable.from_csv(manifest, photo="photo_path", sound="wav_path")
    for name, column, file in (
        ("photo", "photo_path", photos[3].name),
        ("sound", "wav_path", sounds[5].name),
    ):
        row = int(np.flatnonzero(table[column].str.endswith(file))[0])
        with bad(rf"{name}, row {row} \(.*{file}\): .*use on_error='mark'", EncodingError):
            FusionClassifier(encoders={name: encoders[name]}).fit(X.select([name]), y)
        encoders[name].set_params(on_error="mark")
    with pytest.warns(UserWarning, match="of 20 cells could not be encoded"):
        model = FusionClassifier(encoders=encoders, random_state=0).fit(X, y)
    with pytest.warns(UserWarning, match="marked FAILED"):
        states = model.encode(X).presence
    assert (states == Presence.FAILED).any(axis=0).tolist() == [True, True]


def test_too_few_rows_to_split_still_fit() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = FusionClassifier(random_state=0).fit({"a": [[0.0], [1.0]]}, [0, 1])
    assert model.calibrator_ is None
    assert list(model.predict({"a": [[0.0], [1.0]]})) == [0, 1]
