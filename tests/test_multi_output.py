"""Classification of several targets: each is what it would be alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold, cross_val_score

from mmfuse import FusionClassifier, ModalityTable, load, modality_report
from mmfuse.cli.app import _open
from mmfuse.encoders import NumericEncoder
from mmfuse.heads import AutoFusion, ContextualFusion, EarlyFusion, LateFusion, contextual_path
from mmfuse.metrics import ranked_probability_score

DEPRESSION = [0, 1, 2, 3, 4]  # bands of a questionnaire
STRESS = ["no", "some", "yes"]


def disorders(n: int = 160, *, absent: float = 0.2, seed: int = 0):
    """Interviews of two disorders that often come together, in three modalities with gaps."""
    rng = np.random.default_rng(seed)
    low, tense = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], n).T
    views = {
        "text": np.stack([low, tense, 0 * low], axis=1),
        "audio": np.stack([low, 0.5 * tense], axis=1),
        "face": np.stack([0.5 * low, tense], axis=1),
    }
    gone = rng.random((n, 3)) < absent
    gone[gone.all(axis=1)] = False
    arrays = {}
    for m, (name, centre) in enumerate(views.items()):
        arrays[name] = centre + 0.6 * rng.normal(size=centre.shape)
        arrays[name][gone[:, m]] = np.nan
    phq = np.digitize(low + 0.2 * rng.logistic(size=n), [-1.0, 0.0, 0.7, 1.5])
    ptsd = np.array(STRESS)[np.digitize(tense + 0.2 * rng.logistic(size=n), [0.3, 1.2])]
    return ModalityTable(arrays), pd.DataFrame({"phq": phq, "ptsd": ptsd})


def ordered(y: pd.Series) -> pd.Series:
    return y.astype(pd.CategoricalDtype(STRESS, ordered=True))


@pytest.fixture(scope="module")
def both():
    X, y = disorders()
    y["ptsd"] = ordered(y["ptsd"])
    return FusionClassifier(target="ordinal", random_state=0).fit(X, y), X, y


def test_two_disorders_at_once(both) -> None:
    model, X, y = both
    assert [c.tolist() for c in model.classes_] == [DEPRESSION, STRESS]
    assert model.output_names_ == ["phq", "ptsd"]
    assert model.predict(X).shape == (160, 2) and model.predict(X).dtype == object
    for lists in (model.predict_proba(X), model.predict_log_proba(X)):
        assert [p.shape for p in lists] == [(160, 5), (160, 3)]
    assert model.predict_expected(X).shape == (160, 2)
    X_new, y_new = disorders(400, seed=1)
    for hidden in ([], ["text"], ["audio", "face"]):
        p = model.predict_proba(X_new.hide(hidden))
        for t, name in enumerate(y):
            prior = np.tile(model.prior_[t], (400, 1))
            options = {"classes": model.classes_[t]}
            found = ranked_probability_score(y_new[name], p[t], **options)
            assert found < 0.75 * ranked_probability_score(y_new[name], prior, **options)
    nothing = model.predict_proba(X[:1].hide(list(X.modalities)))
    for p, prior in zip(nothing, model.prior_, strict=True):
        np.testing.assert_allclose(p[0], prior, atol=1e-9)


def test_every_output_is_what_it_is_alone(both) -> None:
    model, X, y = both
    p = model.predict_proba(X)
    for t, name in enumerate(y):
        alone = FusionClassifier(target="ordinal", random_state=0).fit(X, y[name])
        np.testing.assert_array_equal(alone.predict_proba(X), p[t])
        np.testing.assert_array_equal(model.output(name).predict_proba(X), p[t])
        np.testing.assert_array_equal(model.output(t).predict(X), model.predict(X)[:, t])
        assert list(alone.history_) == list(model.history_[t])
        np.testing.assert_array_equal(
            alone.head_report_.drop(columns="seconds"),
            model.output(t).head_report_.drop(columns="seconds"),
        )


def test_kinds_and_class_weights_may_differ() -> None:
    X, y = disorders()
    weight, groups = np.random.default_rng(0).random(160), np.arange(160) % 20
    kinds, balance = ["ordinal", "nominal"], ["balanced", {"no": 1.0, "some": 2.0, "yes": 3.0}]
    model = FusionClassifier(
        EarlyFusion(C=0.3), target=kinds, class_weight=balance, random_state=0
    ).fit(X, y, sample_weight=weight, groups=groups)
    assert [head.task for head in model.head_] == ["ordinal", "classification"]
    for t, name in enumerate(y):
        alone = FusionClassifier(
            EarlyFusion(C=0.3), target=kinds[t], class_weight=balance[t], random_state=0
        ).fit(X, y[name], sample_weight=weight, groups=groups)
        np.testing.assert_array_equal(alone.predict_proba(X), model.predict_proba(X)[t])
    with pytest.raises(ValueError, match="predict_expected needs classes on a scale"):
        model.predict_expected(X)


def test_score_is_the_share_of_rows_with_every_output_right(both) -> None:
    model, X, y = both
    right = (model.predict(X) == y.to_numpy(dtype=object)).all(axis=1)
    weight = np.random.default_rng(0).random(160)
    assert model.score(X, y) == right.mean()
    assert model.score(X, y, weight) == pytest.approx(np.average(right, weights=weight))
    numbers = np.stack([y["phq"], y["ptsd"] != "no"], axis=1).astype(int)
    scores = cross_val_score(FusionClassifier(EarlyFusion(C=1.0)), X, numbers, cv=2)
    assert (scores > 0.3).all()


def test_labels_keep_their_type() -> None:
    X, y = disorders(60)
    codes = np.stack([y["phq"], y["ptsd"] == "no"], axis=1).astype(int)
    mixed = np.array([[int(a), b] for a, b in y.to_numpy()], dtype=object)
    for target, kind in ((codes, "i"), (codes.tolist(), "i"), (mixed, "O")):
        model = FusionClassifier(EarlyFusion(C=1.0)).fit(X, target)
        assert model.predict(X).dtype.kind == kind
        assert model.output_names_ == [0, 1]
        assert model.score(X, target) > 0.3


def test_one_column_is_one_output() -> None:
    X, y = disorders(60)
    with pytest.warns(UserWarning, match="column-vector y was passed"):
        model = FusionClassifier(EarlyFusion(C=1.0)).fit(X, y[["phq"]].to_numpy())
    assert model.predict(X).shape == (60,)
    with pytest.raises(ValueError, match="this model has one output, and is its model itself"):
        model.output(0)


def test_a_fit_forgets_the_outputs_of_the_one_before() -> None:
    X, y = disorders(60)
    model = FusionClassifier(EarlyFusion(C=1.0)).fit(X, y)
    assert not hasattr(model, "decision_function")
    with pytest.raises(AttributeError, match="no attribute 'decision_function'") as error:
        model.decision_function(X)
    assert "take model.output(t).decision_function" in str(error.value.__cause__)
    assert model.output("phq").decision_function(X).shape == (60, 5)
    model.fit(X, y["phq"])
    assert model.decision_function(X).shape == (60, 5)
    assert model.predict(X).shape == (60,) and not hasattr(model, "outputs_")


def test_x_is_encoded_once(monkeypatch) -> None:
    X, y = disorders(60, absent=0.0)
    frame = pd.DataFrame(X["text"], columns=["a", "b", "c"])
    table = ModalityTable({"text": frame, "audio": X["audio"]})
    calls = []
    encode = NumericEncoder.encode

    def counted(self, *args, **kwargs):
        calls.append(1)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(NumericEncoder, "encode", counted)
    model = FusionClassifier(EarlyFusion(C=1.0), encoders={"text": NumericEncoder()})
    model.fit(table, y)
    assert len(calls) == 1
    model.predict_proba(table)
    assert len(calls) == 2
    assert model.output(0).predict(table).shape == (60,)


def test_splits_from_a_generator_serve_every_output() -> None:
    X, y = disorders(60)
    splits = KFold(3).split(np.zeros(60))
    model = FusionClassifier(EarlyFusion(C=1.0), cv=splits, random_state=0).fit(X, y)
    splits = list(KFold(3).split(np.zeros(60)))
    listed = FusionClassifier(EarlyFusion(C=1.0), cv=splits, random_state=0).fit(X, y)
    for p, q in zip(model.predict_proba(X), listed.predict_proba(X), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize(
    "head",
    [
        LateFusion(),
        EarlyFusion("mlp", hidden=(8,), max_epochs=5),
        EarlyFusion(RandomForestClassifier(5)),
        AutoFusion({"early": EarlyFusion(C=1.0), "late": LateFusion(C=1.0)}),
    ],
)
def test_saved_and_loaded(head, tmp_path: Path) -> None:
    X, y = disorders(80)
    model = FusionClassifier(
        head, target=["ordinal", "nominal"], class_weight=["balanced", None], random_state=0
    ).fit(X, y)
    again = load(model.save(tmp_path / "model"))
    for p, q in zip(again.predict_proba(X), model.predict_proba(X), strict=True):
        np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert again.history_ == model.history_ and again.output_names_ == ["phq", "ptsd"]
    assert repr(again.get_params()) == repr(model.get_params())
    one = load(again.output("phq").save(tmp_path / "one"))
    np.testing.assert_array_equal(one.predict_proba(X), model.predict_proba(X)[0])


def test_a_plain_matrix_comes_back_from_disk(tmp_path: Path) -> None:
    X, y = disorders(60, absent=0.0)
    matrix = pd.DataFrame(np.hstack([X["text"], X["audio"]]), columns=list("abcde"))
    model = FusionClassifier(EarlyFusion(C=1.0)).fit(matrix, y)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.output("ptsd").predict(matrix), model.predict(matrix)[:, 1])
    assert again.outputs_[0].feature_names_in_.tolist() == list("abcde")


def test_reports_are_about_one_output(both) -> None:
    model, X, y = both
    with pytest.raises(ValueError, match=r"pass model.output\('phq'\) and its column of y"):
        modality_report(model, X, y)
    report = modality_report(model.output("phq"), X, y["phq"], n_bootstrap=20)
    assert len(report.subsets) == 8


def test_what_is_about_one_output_says_so(both, tmp_path: Path) -> None:
    model, X, y = both
    path = model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"takes a model of one; .* model.output\('phq'\).save"):
        _open(path, tmp_path / "rows.csv", None, None, "stop")
    with pytest.raises(ValueError, match="y must have one column for a classifier; got 2"):
        contextual_path(FusionClassifier(ContextualFusion()), X, y, [0.0])
    with pytest.raises(AttributeError, match=r"several outputs, in output\(t\)"):
        _ = model.head_report_


def with_gap(y: pd.DataFrame) -> pd.DataFrame:
    y = y.copy()
    y.loc[[3, 7], "ptsd"] = None
    return y


@pytest.mark.parametrize(
    ("params", "change", "message"),
    [
        ({}, with_gap, r"NaN in output 'ptsd', in 2 of 30 rows \(first in row 3\); leave those"),
        ({}, lambda y: y[:20], "X has 30 rows and y has 20"),
        ({}, lambda y: y.assign(ptsd="no"), "output 'ptsd' of y: .* holds only one class: 'no'"),
        ({}, lambda y: csr_matrix(np.eye(30)), r"y is a sparse matrix; pass y.toarray\(\)"),
        ({"target": ["ordinal"]}, None, "target has 1 entries and y has 2 columns"),
        ({"target": ["ordinal", "rank"]}, None, "target must be .* got 'rank'"),
        ({"class_weight": [None] * 3}, None, "class_weight has 3 entries and y has 2 columns"),
        ({"head": EarlyFusion(C=-1)}, None, "C must be 'cv' or a positive number"),
    ],
)
def test_errors_say_which_output(params, change, message: str) -> None:
    X, y = disorders(30)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(**params).fit(X, y if change is None else change(y))


def test_unknown_outputs_are_named(both) -> None:
    model, X, y = both
    for which in ("gad", 2, -1, True):
        with pytest.raises(ValueError, match="this model has the outputs 'phq', 'ptsd'"):
            model.output(which)
    with pytest.raises(ValueError, match="y must have 2 columns, as in fit; got 1"):
        model.score(X, y[["phq"]])
