"""Saving without pickle, and refusing what is damaged or unknown."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import KFold

from mmfuse import FusionClassifier, FusionRegressor, ModalityTable, load
from mmfuse.encoders import LogMelEncoder, NumericEncoder
from mmfuse.exceptions import SavedModelError
from mmfuse.heads import EarlyFusion, LateFusion
from mmfuse.saving import folder as saving
from tests.head_list import heads_for
from tests.samples import two_views
from tests.test_estimators import clinic


@pytest.mark.parametrize("name", heads_for("classification"))
def test_every_head_comes_back_equal(name: str, tmp_path: Path) -> None:
    X, y = two_views(60, absent=0.2)
    model = FusionClassifier(heads_for("classification")[name], random_state=0).fit(X, y)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert repr(again.get_params()) == repr(model.get_params())
    assert again.history_ == model.history_ and again.modalities_ == model.modalities_


@pytest.mark.parametrize("name", heads_for("regression"))
def test_every_regressor_comes_back_equal(name: str, tmp_path: Path) -> None:
    X, y = two_views(60)
    model = FusionRegressor(heads_for("regression")[name], random_state=0).fit(X, y * 3.0)
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    np.testing.assert_array_equal(again.residual_std_, model.residual_std_)


@pytest.mark.parametrize("labels", [["ill", "well"], [3, 7], [True, False], [1.0, 2.0]])
def test_class_labels_keep_their_type(labels: list, tmp_path: Path) -> None:
    X, y = two_views(40, classes=2)
    for target in (np.array(labels)[y], np.array(labels, dtype=object)[y]):
        if target.dtype == object and not isinstance(labels[0], str):
            continue  # scikit-learn calls an object array of numbers an unknown target
        model = FusionClassifier(LateFusion(C=1.0)).fit(X, target)
        again = load(model.save(tmp_path / "model"))
        assert again.classes_.tolist() == model.classes_.tolist()
        assert again.classes_.dtype == model.classes_.dtype
        np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_encoders_parameters_and_columns_come_back(tmp_path: Path) -> None:
    frame, y = clinic()
    X = ModalityTable.from_pandas(frame, table=["age", "sex"], voice="voice")
    model = FusionClassifier(
        LateFusion(RandomForestClassifier(5)),
        encoders={"table": NumericEncoder()},
        class_weight={"ill": 2.0, "well": 1.0},
        cv=KFold(3),
        random_state=0,
    ).fit(X, y)
    model.input_columns_ = {"voice": {"columns": ["voice"], "kind": "numeric"}}
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert again.class_weight == {"ill": 2.0, "well": 1.0}
    assert again.cv.get_n_splits() == 3
    assert again.input_columns_ == model.input_columns_
    assert isinstance(again.head.base, RandomForestClassifier)


def test_audio_model_loads_in_a_new_process(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(24) % 2
    tones = [np.sin(np.arange(4000) * (0.1 + 0.2 * k)) + 0.1 * rng.normal(size=4000) for k in y]
    X = ModalityTable({"audio": [t.astype(np.float32) for t in tones]})
    model = FusionClassifier(encoders={"audio": LogMelEncoder(cache=False)}, random_state=0)
    model.fit(X, y).save(tmp_path / "model")
    np.save(tmp_path / "x.npy", np.stack(tones[:3]).astype(np.float32))
    code = (
        "import numpy as np, mmfuse, sys; m = mmfuse.load(sys.argv[1]); "
        "x = np.load(sys.argv[2], allow_pickle=False); "
        "print(m.predict_proba({'audio': list(x)})[:, 1].tolist())"
    )
    arguments = [str(tmp_path / "model"), str(tmp_path / "x.npy")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    there = json.loads(done.stdout)
    np.testing.assert_allclose(there, model.predict_proba(X[:3])[:, 1], atol=1e-6)


def saved(folder: Path) -> Path:
    X, y = two_views(40)
    return (
        FusionClassifier(EarlyFusion(RandomForestClassifier(3)), random_state=0)
        .fit(X, y)
        .save(folder)
    )


def test_every_altered_byte_is_refused_by_name(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    names = sorted(p.name for p in folder.iterdir())
    assert {"config.json", "manifest.json", "model.safetensors"} < set(names)
    assert all(name.endswith((".json", ".safetensors", ".skops")) for name in names)
    for name in names:
        good = (folder / name).read_bytes()
        for place in {0, len(good) // 2, len(good) - 1}:
            broken = bytearray(good)
            broken[place] ^= 1
            (folder / name).write_bytes(bytes(broken))
            with pytest.raises(SavedModelError, match=f"{name} was altered"):
                load(folder)
        (folder / name).unlink()
        with pytest.raises(SavedModelError, match=f"{name} is missing"):
            load(folder)
        (folder / name).write_bytes(good)
    load(folder)


def rewrite(folder: Path, name: str, raw: bytes) -> None:
    """Change a file and put the manifest right, as an attacker would."""
    (folder / name).write_bytes(raw)
    hashes = json.loads((folder / "manifest.json").read_text())["sha256"]
    hashes[name] = hashlib.sha256(raw).hexdigest()
    (folder / "manifest.json").write_bytes(saving._dump(saving._manifest(hashes)))


def rewrite_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    rewrite(folder, "config.json", saving._dump(config))


def test_unknown_classes_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    rewrite_config(folder, lambda config: config["head"].update({"$part": "os.system"}))
    with pytest.raises(SavedModelError, match="names the class 'os.system', which this version"):
        load(folder)
    folder = saved(tmp_path / "model2")
    rewrite_config(folder, lambda config: config.update({"class": "Popen"}))
    with pytest.raises(SavedModelError, match="names the estimator 'Popen'"):
        load(folder)


def test_untrusted_types_in_a_skops_file_are_refused(tmp_path: Path) -> None:
    import skops.io

    folder = saved(tmp_path / "model")
    file = next(folder.glob("*.skops"))
    rewrite(folder, file.name, skops.io.dumps(Homemade()))
    with pytest.raises(SavedModelError, match="not trusted"):
        load(folder)


class Homemade(ClassifierMixin, BaseEstimator):
    """An estimator that is not scikit-learn's."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.repeat(self.classes_[0], len(X))

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"head": EarlyFusion(Homemade())}, "head.model is a .*Homemade, which cannot be saved"),
        ({"random_state": np.random.RandomState(0)}, "random_state is a .*RandomState"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_leaves_nothing(params, message, tmp_path) -> None:
    X, y = two_views(40)
    model = FusionClassifier(**params).fit(X, y)
    with pytest.raises(SavedModelError, match=message):
        model.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("data")
    X, y = two_views(40)
    model = FusionClassifier(LateFusion(C=1.0)).fit(X, y)
    with pytest.raises(SavedModelError, match="exists and is not a saved model"):
        model.save(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "data"
    model.save(tmp_path / "m")
    model.save(tmp_path / "m")  # a saved model is replaced
    with pytest.raises(SavedModelError, match="the folder does not exist"):
        load(tmp_path / "other")


def test_saved_parameters_are_those_of_the_fit(tmp_path: Path) -> None:
    X, y = two_views(40)
    model = FusionClassifier(EarlyFusion("mlp", hidden=(8,), max_epochs=3), random_state=0)
    model.fit(X, y)
    expected = model.predict_proba(X)
    model.set_params(head__hidden=(99,))  # changes the next fit, not this one
    again = load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict_proba(X), expected)
