"""Contributions of features: closed forms, completeness, names, faithfulness, stability."""

from __future__ import annotations

import re
import sys

import numpy as np
import pandas as pd
import pytest
from data import data_folder
from explain_heads import GameHead, table
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import GroupShuffleSplit

from mmfuse import FusionClassifier, FusionRegressor, explain, faithfulness
from mmfuse.datasets import load_av_digits
from mmfuse.encoders import LogMelEncoder, NumericEncoder
from mmfuse.explanations import refit, stability
from mmfuse.heads import EarlyFusion, LateFusion

TREES = HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=3)
MLP = {"hidden": (8,), "max_epochs": 8, "learning_rate": 0.01}


def network():
    pytest.importorskip("captum")
    X, y = table()
    return FusionClassifier(EarlyFusion("mlp", **MLP), cv=2, random_state=0).fit(X, y), X


def test_gradients_of_a_linear_head_are_coefficients_times_features():
    pytest.importorskip("captum")
    X, y = table(gaps=False)
    model = FusionRegressor(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    found = explain(model, X, level="feature")
    assert found.method == "gradients" and found.names[:3] == ("a_0", "a_1", "a_2")
    z = model.scaler_(model._tensors(model.encode(X)))
    by_hand = [
        z[n].numpy() * c.detach().numpy()[:, 0] for n, c in zip(z, model.head_.coef, strict=True)
    ]
    np.testing.assert_allclose(
        found.values[:, :, 0], np.hstack(by_hand) * model.target_scale_[0], atol=1e-9
    )
    occluded = explain(model, X, level="feature", method="occlusion")
    np.testing.assert_allclose(occluded.values, found.values, atol=1e-9)


def test_an_interaction_is_shared_by_gradients_and_counted_twice_by_occlusion():
    pytest.importorskip("captum")
    rng = np.random.default_rng(3)
    X = {name: rng.normal(size=(30, 2)) for name in "abcd"}
    model = FusionRegressor(GameHead(), cv=2, calibration=None).fit(X, rng.normal(size=30))
    scale = model.target_scale_[0]
    z = {n: t[:, 0].numpy() for n, t in model.scaler_(model._tensors(model.encode(X))).items()}
    found = explain(model, X, level="feature").values[:, :, 0] / scale
    np.testing.assert_allclose(found[:, 0], z["a"] + z["a"] * z["b"], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-12)
    occluded = explain(model, X, level="feature", method="occlusion")
    np.testing.assert_allclose(
        occluded.values[:, 0, 0] / scale, z["a"] + 2 * z["a"] * z["b"], atol=1e-6
    )
    np.testing.assert_allclose(occluded.gap[:, 0] / scale, -2 * z["a"] * z["b"], atol=1e-6)
    assert "not attributed" in occluded[0].to_text()


@pytest.mark.parametrize("baseline", ["mean", "absent"])
def test_gradients_add_up_and_absent_is_exactly_zero(baseline):
    model, X = network()
    found = explain(model, X, level="feature", baseline=baseline)
    assert np.abs(found.gap).max() < 1e-3 * np.abs(found.prediction - found.base).max()
    assert (found.values[found.states != 1] == 0.0).all()
    start = explain(model, X).base
    if baseline == "absent":
        assert found.names[-3:] == ("a: present", "b: present", "c: present")
        np.testing.assert_allclose(found.base, start, atol=1e-9)
        assert np.abs(found.values[:, -3:]).max() > 1e-3
    else:
        assert np.abs(found.base - start).max() > 1e-3


def test_names_come_from_encoders_and_frames_and_groups_add_up():
    pytest.importorskip("captum")
    X, y = table(gaps=False)
    X["a"] = pd.DataFrame(X["a"], columns=["AU12", "AU06", "AU04"])
    X["b"] = pd.DataFrame(X["b"], columns=["pitch", "energy"])
    encoded = FusionClassifier(EarlyFusion(C=1.0), encoders={"smiles": NumericEncoder()})
    encoded.set_params(random_state=0).fit({"smiles": X["a"]}, y)
    own = explain(encoded, {"smiles": X["a"]}, level="feature", classes=0)
    assert own.names == tuple(encoded.encoders_["smiles"].get_feature_names_out())
    assert any("AU12" in name for name in own.names)
    with_names = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    found = explain(with_names, X, level="feature")
    assert found.names == ("AU12", "AU06", "AU04", "pitch", "energy", "c_0", "c_1")
    groups = {"a": {"smile": ["AU12", "AU06"]}, "c": {"all": [0, 1]}}
    fewer = explain(with_names, X, level="feature", groups=groups)
    assert fewer.names == ("smile", "AU04", "pitch", "energy", "all")
    np.testing.assert_allclose(fewer.values[:, 0], found.values[:, :2].sum(axis=1), atol=1e-12)
    for level in ("part", "modality"):
        assert len(found.summary(by=level, n_bootstrap=20)) == 3 * (7 if level == "part" else 3)


def test_trees_fall_back_to_occlusion_and_say_so():
    X, y = table()
    model = FusionClassifier(LateFusion(TREES), cv=2, random_state=0).fit(X, y)
    found = explain(model, X, level="feature", classes=1)
    assert found.method == "occlusion"
    assert (found.values[found.states != 1] == 0.0).all() and np.abs(found.values).max() > 0.1
    message = "the head holds scikit-learn estimators (HistGradientBoostingClassifier)"
    with pytest.raises(ValueError, match=re.escape(message)):
        explain(model, X, level="feature", method="gradients")


def test_densities_are_occluded_too():
    X, y = table(n=40)
    model = FusionRegressor(EarlyFusion(C=1.0), output="binned", bins=4, random_state=0)
    model.fit(X, y + 0.1)
    found = explain(model, X, level="feature")
    blocks = model.encode(X)
    arrays = {n: np.array(blocks[n]) for n in blocks.names}
    arrays["a"][:, 1] = model.scaler_.statistics("a")[0][1]
    arrays["a"][~blocks.present[:, 0]] = np.nan
    np.testing.assert_allclose(
        found.values[:, 1, 0], model.predict(blocks) - model.predict(arrays), atol=1e-5
    )
    with pytest.raises(ValueError, match="output='binned' is read from a density"):
        explain(model, X, level="feature", method="gradients")


def test_an_answer_that_jumps_is_an_error():
    pytest.importorskip("captum")
    rng = np.random.default_rng(3)
    X = {name: rng.normal(size=(30, 2)) for name in "abcd"}
    model = FusionRegressor(GameHead(jump=True), cv=2, calibration=None).fit(X, X["a"][:, 0])
    with pytest.raises(ValueError, match="the head's answer jumps or has no gradient. Take"):
        explain(model, X, level="feature")
    assert np.abs(explain(model, X, level="feature", method="occlusion").values).max() > 0


def test_without_captum_the_extra_is_named(monkeypatch):
    X, y = table()
    model = FusionRegressor(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'mmfuse[explain]'")):
        explain(model, X, level="feature")


@pytest.mark.parametrize(
    "groups, message",
    [
        ({"z": {}}, "groups has the modality 'z'; the model knows a, b, c"),
        ({"a": {"g": ["a_9"]}}, "group 'g' of modality 'a' has the feature 'a_9'"),
        ({"a": {"g": [0], "h": [0]}}, "a feature of 'a' is in two places of groups"),
        ({"a": {"g": []}}, "group 'g' of modality 'a' has no features"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    X, y = table()
    model = FusionRegressor(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=re.escape(message)):
        explain(model, X, level="feature", groups=groups)


def htad():
    frame = pd.read_csv(data_folder("htad_audio_motion") / "htad.csv").sample(400, random_state=0)
    y = frame["class"].to_numpy()
    X = {
        "audio": frame.filter(regex="^v1_").reset_index(drop=True),
        "motion": frame.filter(regex="^v2_").reset_index(drop=True),
    }
    split = {n: (f[:250], f[250:].reset_index(drop=True)) for n, f in X.items()}
    train, test = ({n: parts[i] for n, parts in split.items()} for i in (0, 1))
    return train, y[:250], test, y[250:]


def test_top_features_of_real_rows_hurt_more_than_random_ones_and_than_the_reverse():
    pytest.importorskip("captum")
    train, y, test, _ = htad()
    model = FusionClassifier(EarlyFusion(C=0.1), random_state=0).fit(train, y)
    explanation = explain(model, test, level="feature")
    found = faithfulness(model, test, explanation, n_random=2, random_state=0)
    assert found.gain_low > 0 and found.n_rows == 150
    assert (found.curve["top"] > found.curve["random"])[:-1].all()
    assert found.curve["top"].iloc[-1] == pytest.approx(found.curve["random"].iloc[-1])
    shuffled = explanation.values[:, np.random.default_rng(0).permutation(52)]
    fake = type(explanation)(**{**vars(explanation), "values": shuffled})
    chance = faithfulness(model, test, fake, n_random=2, random_state=0)
    assert chance.gain < 0.4 * found.gain
    again = faithfulness(model, test, explanation, n_random=2, random_state=0)
    pd.testing.assert_frame_equal(found.curve, again.curve)


def test_top_modalities_and_occluded_trees_hurt_more_than_random_ones():
    train, y, test, _ = htad()
    trees = FusionClassifier(EarlyFusion(TREES), cv=2, random_state=0).fit(train, y)
    options = {"n_random": 2, "random_state": 0, "output": "probability"}
    assert faithfulness(trees, test, shares=[0.5], **options).gain_low > 0
    found = faithfulness(trees, test, level="feature", shares=[0.1, 0.3], **options)
    assert found.gain_low > 0


def mosi():
    """Opinions in videos; no video is on both sides."""
    z = np.load(data_folder("mosi") / "clean.npz", allow_pickle=False)
    X, groups = {n: z[n] for n in ("text", "audio", "video")}, z["video_id"]
    halves = GroupShuffleSplit(1, train_size=0.65, random_state=0)
    train, test = next(halves.split(z["label"], groups=groups))
    return X, z["label"], groups, train, test


def av_digits():
    """Pictures as 7 x 7 means, sound as log-mel statistics; no speaker is on both sides."""
    digits = load_av_digits(240)
    small = np.stack(digits.X["image"]).reshape(-1, 7, 4, 7, 4).mean(axis=(2, 4)).reshape(-1, 49)
    sound = LogMelEncoder(cache=False).fit(digits.X["audio"]).transform(digits.X["audio"])
    test = np.isin(digits.groups, ["lucas"])
    X = {"image": small, "audio": sound}
    return X, digits.y, digits.groups, np.flatnonzero(~test), np.flatnonzero(test)


@pytest.mark.parametrize("load", [mosi, av_digits])
def test_explanations_of_unseen_groups_are_faithful_and_more_stable_than_chance(load):
    pytest.importorskip("captum")
    X, y, groups, train, test = load()
    part = {n: (X[n][train], X[n][test]) for n in X}
    one, other = ({n: pair[i] for n, pair in part.items()} for i in (0, 1))
    rule = FusionClassifier(EarlyFusion(C=0.01))
    model = clone(rule).set_params(random_state=0).fit(one, y[train], groups=groups[train])
    drawn = groups[test] if load is mosi else None  # digits are of one speaker
    options = {"n_random": 2, "random_state": 0, "groups": drawn}
    found = faithfulness(model, other, level="feature", **options)
    assert found.gain_low > 0
    assert (found.curve["top_low"] > found.curve["random_high"]).loc[:0.5].all()
    assert faithfulness(model, other, level="modality", **options).gain_low > 0
    models = refit(rule, one, y[train], groups=groups[train], n_models=3, random_state=0)
    shuffled = np.random.default_rng(0).permutation(y[train])
    chance = refit(rule, one, shuffled, groups=groups[train], n_models=3, random_state=0)
    agree = stability(models, other).row_correlation
    assert agree > 0.3 and agree > stability(chance, other).row_correlation + 0.1


def test_the_deletion_curve_is_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    X, y = table()
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    ax = faithfulness(model, X, random_state=0).plot().ax_
    assert [line.get_label() for line in ax.lines[:2]] == ["top", "random"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shares": [0.0]}, "shares must lie above 0 and up to 1"),
        ({"n_random": 0}, "n_random must be an integer of at least 1; got 0"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1; got 0"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1; got 1.0"),
        ({"groups": [1]}, "there are 60 rows and groups has 1"),
    ],
)
def test_wrong_options_of_faithfulness_are_refused(options, message):
    X, y = table()
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=message):
        faithfulness(model, X, **options)


def test_an_explanation_of_something_else_is_refused():
    X, y = table()
    model = FusionClassifier(EarlyFusion(C=1.0), random_state=0).fit(X, y)
    blocks = model.encode(X)
    with pytest.raises(ValueError, match="X has 60 rows and the explanation 10"):
        faithfulness(model, X, explain(model, blocks[:10]))
    with pytest.raises(ValueError, match="pass the same output and classes as to explain"):
        faithfulness(model, X, explain(model, X, classes=1))
    grouped = explain(model, X, level="feature", method="occlusion", groups={"a": {"g": [0, 1]}})
    with pytest.raises(ValueError, match="as feature_groups"):
        faithfulness(model, X, grouped)
    assert faithfulness(
        model, X, grouped, feature_groups={"a": {"g": [0, 1]}}, random_state=0
    ).n_rows == int(blocks.present.any(axis=1).sum())
    with pytest.raises(ValueError, match="nothing is present in any row"):
        faithfulness(model, blocks[:1])


def test_stability_tells_signal_from_noise():
    X, y = table(gaps=False)
    model = FusionClassifier(EarlyFusion(C=1.0))
    models = refit(model, X, y, n_models=3, random_state=0)
    found = stability(models, X)
    assert found.n_models == 3 and found.rank_correlation > 0.5
    assert found.row_correlation > 0.8
    one = found.table.loc[(0, "a")]
    assert one["low"] < one["mean"] < one["high"] and one["sd"] > 0 and one["rank_low"] == 1
    same = stability([models[0], models[0]], X)
    assert same.rank_correlation == same.row_correlation == 1.0
    assert (same.table["sd"] == 0).all()
    again = refit(model, X, y, n_models=3, random_state=0)
    np.testing.assert_array_equal(stability(again, X).table, found.table)
    seeds = refit(model, X, y, n_models=2, resample="seed", random_state=0)
    assert stability(seeds, X).row_correlation > found.row_correlation
    other = FusionClassifier(EarlyFusion(C=1.0)).fit({"a": X["a"]}, y)
    with pytest.raises(ValueError, match="do not explain the same parts and outputs"):
        stability([models[0], other], {"a": X["a"]})
    with pytest.raises(ValueError, match="resample must be 'bootstrap' or 'seed'; got 'jackknife'"):
        refit(model, X, y, resample="jackknife")
    with pytest.raises(ValueError, match="n_models must be an integer of at least 1; got 0"):
        refit(model, X, y, n_models=0)
