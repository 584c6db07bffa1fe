"""Saving and loading fitted models as a folder without pickle."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from mmfuse._version import __version__
from mmfuse.exceptions import SavedModelError
from mmfuse.saving._codec import Decoder, Encoder
from mmfuse.training_record import TrainingRecord

if TYPE_CHECKING:
    from mmfuse.estimators.classifier import FusionClassifier, FusionRegressor

__all__ = ["load", "save"]

FORMAT = 1
_CONFIG, _TENSORS, _MANIFEST = "config.json", "model.safetensors", "manifest.json"
_PLAIN = (  # fitted attributes that JSON can hold, where the estimator has them
    "n_features_in_",
    "feature_names_in_",
    "from_matrix_",
    "block_dims_",
    "classes_",
    "prior_",
    "target_scale_",
    "target_centre_",
    "residual_std_",
    "spread_ratio_",
    "prior_quantiles_",
    "bin_edges_",
    "density_edges_",
    "mixture_start_",
    "quantile_levels_",
    "quantile_shift_",
    "temperature_",
    "pit_map_",
    "output_",
    "single_",
    "history_",
    "input_columns_",
    "output_names_",
)
_PER_OUTPUT = ("classes_", "prior_", "history_")  # lists where a model has several outputs


def save(model: FusionClassifier | FusionRegressor, folder: str | Path) -> Path:
    """Write ``model`` to ``folder``; see `FusionClassifier.save`.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    SavedModelError
        If the model holds something that cannot be saved without pickle, or the folder exists
        and is not a saved model. Nothing is left half written.
    """
    check_is_fitted(model, "head_")
    folder = Path(folder)
    if folder.exists() and not (folder / _MANIFEST).is_file() and any(folder.iterdir()):
        raise SavedModelError(
            f"{folder} exists and is not a saved model; give another folder or empty this one."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(model, draft)
        draft.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return folder


def _write(model: Any, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    encoder = Encoder(folder)
    parts = getattr(model, "outputs_", None)
    save_file(
        {k: v.detach().cpu().contiguous().clone() for k, v in _tensors(model, parts).items()},
        folder / _TENSORS,
    )
    config: dict[str, Any] = {
        "format": FORMAT,
        "class": type(model).__name__,
        "params": {
            k: encoder.encode(v, k) for k, v in model.get_params(deep=False).items() if k != "head"
        },
        "unfitted_head": encoder.encode(model.head, "head"),
        "encoders": {name: _describe(encoder, name, e) for name, e in model.encoders_.items()},
        "fitted": {
            name: encoder.encode(_plain(getattr(model, name)), name)
            for name in _PLAIN
            if hasattr(model, name) and not (parts and name in _PER_OUTPUT)
        },
        "versions": {"mmfuse": __version__, "torch": torch.__version__, "numpy": np.__version__},
    }
    if parts is None:
        config |= _learned(model, encoder)
    else:
        config["outputs"] = [_describe_output(part, encoder) for part in parts]
    (folder / _CONFIG).write_bytes(_dump(config))
    hashes = {p.name: _sha256(p) for p in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_bytes(_dump(_manifest(hashes)))


def _tensors(model: Any, parts: list | None, prefix: str = "") -> dict[str, Any]:
    """Tensors of the head and of the scaler, or those of every output."""
    if parts is not None:
        found: dict[str, Any] = {}
        for t, part in enumerate(parts):
            found |= _tensors(part, None, f"output-{t}.")
        return found
    tensors = {f"{prefix}head.{k}": v for k, v in model.head_.state_dict().items()}
    tensors |= {f"{prefix}scaler.{k}": v for k, v in model.scaler_.state_dict().items()}
    tensors |= _arrays(model, "conformal", f"{prefix}conformal.")
    tensors |= _arrays(model, "density", f"{prefix}density.")
    return tensors | _arrays(model, "record", f"{prefix}record.")


def _arrays(model: Any, what: str, prefix: str) -> dict[str, Any]:
    """Arrays of held-out scores, of densities, or of hashes of the training rows."""
    import torch

    name = {"conformal": "conformal_", "density": "density_forest_", "record": "training_record_"}
    part = getattr(model, name[what], None)
    if part is None:
        return {}
    arrays = part.arrays() if what == "conformal" else part.get_arrays()
    return {f"{prefix}{k}": torch.from_numpy(v) for k, v in arrays.items()}


def _learned(model: Any, encoder: Encoder) -> dict[str, Any]:
    """What describes the trained head of one output, beside its tensors."""
    forest = getattr(model, "density_forest_", None)
    return {
        "head": encoder.encode(model.fusion_head_, "head"),
        "module": {"n_outputs": model.head_.n_outputs, "task": model.head_.task},
        "estimators": {
            key: encoder.write_estimator(estimator, f"head_ ({key})")
            for key, estimator in model.head_.all_estimators().items()
        },
        "density_forest": forest and encoder.write_estimator(forest.forest_, "density_forest_"),
        "calibrator": _calibrator_state(model),
        "conformal": _state_of(model, "conformal_"),
        "risk_control": _state_of(model, "risk_control_"),
    }


def _describe_output(part: Any, encoder: Encoder) -> dict[str, Any]:
    return {
        "target": part.target,
        "class_weight": encoder.encode(part.class_weight, "class_weight"),
        "fitted": {name: encoder.encode(_plain(getattr(part, name)), name) for name in _PER_OUTPUT},
        **_learned(part, encoder),
    }


def _plain(value: Any) -> Any:
    """Arrays of text come as objects from some frames; JSON wants them as text."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        if not all(isinstance(item, str) for item in value):
            raise SavedModelError(
                f"Class labels or column names of mixed types cannot be saved: {value[:3]!r}."
            )
        return {"object": value.tolist()}
    return value


def _describe(encoder: Encoder, name: str, fitted: Any) -> dict:
    entry = {
        "encoder": encoder.encode(fitted, f"encoders_[{name!r}]"),
        "state": encoder.encode(fitted.get_state(), f"encoders_[{name!r}] state"),
        "weights_hash": fitted.weights_hash(),
    }
    tuned = vars(fitted).get("tuned_")
    if tuned is not None:
        file = f"encoder-{len(list(encoder.folder.glob('encoder-*')))}.safetensors"
        tuned.write(encoder.folder / file)
        entry["tuned"] = {"file": file, "report": encoder.encode(tuned.report, "tuned_")}
    return entry


def _calibrator_state(model: Any) -> dict | None:
    calibrator = getattr(model, "calibrator_", None)
    return None if calibrator is None else {"name": calibrator.name, **calibrator.get_state()}


def _state_of(model: Any, name: str) -> dict | None:
    part = getattr(model, name, None)
    return None if part is None else part.get_state()


def load(folder: str | Path, *, device: str = "auto") -> FusionClassifier | FusionRegressor:
    """Load a model that ``save`` wrote.

    Parameters
    ----------
    folder : path
    device : str, default="auto"
        Where the head runs; the device it was trained on is not needed.

    Returns
    -------
    FusionClassifier or FusionRegressor

    Raises
    ------
    SavedModelError
        If a file is missing or was altered, if the folder names a class that is not known, or holds
        types that are not trusted. Hashes show damage; they are no signature.

    Notes
    -----
    Pretrained weights of encoders are not in the folder. Their hash is, and an encoder whose
    weights on this machine differ from those it was fitted with is refused when it is first used.
    Of an encoder that was fine-tuned the folder has the tensors that changed.
    """
    from safetensors.torch import load_file

    from mmfuse.multi_output import gather_outputs, make_output

    folder = Path(folder)
    config = _verified_config(folder)
    decoder = Decoder(folder)
    tensors = load_file(folder / _TENSORS)
    model = _empty_estimator(config, decoder)
    _restore_fitted(model, config, decoder)
    model.modalities_ = tuple(model.block_dims_)
    model.encoders_ = {
        name: _restore_encoder(decoder, entry) for name, entry in config["encoders"].items()
    }
    if "outputs" not in config:
        _restore_modules(model, config, decoder, tensors, device)
        return model
    parts = []
    for t, entry in enumerate(config["outputs"]):
        part = make_output(model, entry["target"], decoder.decode(entry["class_weight"]))
        part.block_dims_, part.modalities_ = model.block_dims_, model.modalities_
        _restore_fitted(part, entry, decoder)
        _restore_modules(part, entry, decoder, _under(f"output-{t}.", tensors), device)
        parts.append(part)
    return gather_outputs(model, parts, model.output_names_)


def _restore_fitted(model: Any, config: dict, decoder: Decoder) -> None:
    for name, value in config["fitted"].items():
        value = decoder.decode(value)
        if isinstance(value, dict) and set(value) == {"object"}:
            value = np.array(value["object"], dtype=object)
        setattr(model, name, value)


def _under(prefix: str, tensors: dict) -> dict:
    """The tensors whose names start with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _empty_estimator(config: dict, decoder: Decoder) -> Any:
    from mmfuse import estimators

    if config["class"] not in estimators.__all__:
        raise SavedModelError(
            f"config.json names the estimator {config['class']!r}; known: "
            f"{', '.join(estimators.__all__)}."
        )
    params = {k: decoder.decode(v) for k, v in config["params"].items()}
    return getattr(estimators, config["class"])(decoder.decode(config["unfitted_head"]), **params)


def _restore_encoder(decoder: Decoder, entry: dict) -> Any:
    encoder = decoder.decode(entry["encoder"])
    encoder.set_state(decoder.decode(entry["state"]))
    encoder.expected_weights_hash_ = entry["weights_hash"]
    if "tuned" in entry:
        from mmfuse.encoders._tuned import TunedWeights

        file = decoder.folder / Path(entry["tuned"]["file"]).name
        encoder.tuned_ = TunedWeights.read(file, decoder.decode(entry["tuned"]["report"]))
    return encoder


def _restore_modules(
    model: Any, config: dict, decoder: Decoder, tensors: dict, device: str
) -> None:
    from mmfuse._device import resolve_device
    from mmfuse.standardize import Standardizer

    model.device_ = resolve_device(device)
    model.fusion_head_ = decoder.decode(config["head"])
    shape = config["module"]
    module = model.fusion_head_.make_module(model.block_dims_, shape["n_outputs"], shape["task"])
    scaler = Standardizer(model.block_dims_)
    module.load_state_dict(_under("head.", tensors))
    scaler.load_state_dict(_under("scaler.", tensors))
    for key, name in config["estimators"].items():
        module.set_estimator(key, decoder.read_estimator(name))
    record = {k: v.numpy() for k, v in _under("record.", tensors).items()}
    if record:
        model.training_record_ = TrainingRecord(**record)
    model.head_ = module.eval().to(model.device_)
    model.scaler_ = scaler.eval().to(model.device_)
    if hasattr(model, "classes_"):
        model.calibrator_ = _restore_calibrator(config["calibrator"])
    else:
        _restore_density(model, config, tensors, decoder)
    _restore_conformal(model, config, tensors)


def _restore_density(model: Any, config: dict, tensors: dict, decoder: Decoder) -> None:
    from mmfuse.density.forest import DensityForest

    file = config.get("density_forest")  # models saved before there were forests have none
    model.density_forest_ = None
    if file is not None:
        arrays = {k: v.numpy() for k, v in _under("density.", tensors).items()}
        model.density_forest_ = DensityForest.from_state(decoder.read_estimator(file), arrays)


def _restore_conformal(model: Any, config: dict, tensors: dict) -> None:
    from mmfuse.conformal.risk_control import RiskControl
    from mmfuse.conformal.thresholds import Conformal

    state = config.get("conformal")  # models saved before there were intervals have none
    arrays = {k: v.numpy() for k, v in _under("conformal.", tensors).items()}
    model.conformal_ = None if state is None else Conformal.from_state(state, arrays)
    control = config.get("risk_control")
    if hasattr(model, "classes_"):
        model.risk_control_ = None if control is None else RiskControl.from_state(control)


def _restore_calibrator(state: dict | None) -> Any:
    from mmfuse.calibration.by_pattern import PatternCalibration
    from mmfuse.calibration.temperature import TemperatureScaling

    if state is None:
        return None
    known = {kind.name: kind for kind in (TemperatureScaling, PatternCalibration)}
    if state["name"] not in known:
        raise SavedModelError(f"config.json names an unknown calibrator {state['name']!r}.")
    return known[state["name"]].from_state(state)


def _verified_config(folder: Path) -> dict:
    """The configuration, after the hash of every file was checked."""
    if not folder.is_dir():
        raise SavedModelError(f"There is no saved model at {folder}: the folder does not exist.")
    path = folder / _MANIFEST
    if not path.is_file():
        raise SavedModelError(f"{folder} is not a saved model: {_MANIFEST} is missing.")
    raw = path.read_bytes()
    try:
        manifest = json.loads(raw)
        hashes = manifest["sha256"]
        intact = raw == _dump(_manifest(hashes) | {"format": manifest["format"]})
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise SavedModelError(f"{path} was altered; the model is not loaded. Restore a copy.")
    if manifest["format"] != FORMAT:
        raise SavedModelError(
            f"{folder} has format {manifest['format']!r}, and this version of mmfuse reads "
            f"format {FORMAT}; use the mmfuse version that saved it."
        )
    for name, expected in hashes.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise SavedModelError(f"{file} is missing; the model is not loaded. Restore a copy.")
        if _sha256(file) != expected:
            raise SavedModelError(f"{file} was altered; the model is not loaded. Restore a copy.")
    if not {_CONFIG, _TENSORS} <= set(hashes):
        raise SavedModelError(f"{path} does not list {_CONFIG} and {_TENSORS}.")
    return json.loads((folder / _CONFIG).read_bytes())


def _manifest(hashes: dict[str, str]) -> dict:
    """Hashes of the files, and a hash of the hashes so that damage to the list itself shows."""
    own = hashlib.sha256(_dump(hashes)).hexdigest()
    return {"format": FORMAT, "sha256": hashes, "sha256_of_list": own}


def _dump(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=False, allow_nan=False) + "\n").encode()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
