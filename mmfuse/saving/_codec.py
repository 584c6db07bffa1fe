"""Parameters to JSON and back: plain values, heads and encoders by name, estimators by skops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmfuse.exceptions import SavedModelError

__all__ = ["TRUSTED_TYPES", "Decoder", "Encoder"]

TRUSTED_TYPES = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.model_selection._split.GroupKFold",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.StratifiedGroupKFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)
"""Types that skops does not trust by itself and that fitted scikit-learn estimators hold.

Each was found in a fitted estimator of scikit-learn; any other is refused at save time.
"""


def known_parts() -> dict[str, type]:
    """Heads, encoders and parameter objects that a saved model may name."""
    from mmfuse import encoders, heads
    from mmfuse.encoders import BaseEncoder
    from mmfuse.finetune import FineTuning
    from mmfuse.heads import BaseHead

    classes: dict[str, type] = {"FineTuning": FineTuning}
    for module in (encoders, heads):
        for name in module.__all__:
            item = getattr(module, name)
            if isinstance(item, type) and issubclass(item, (BaseEncoder, BaseHead)):
                classes[name] = item
    return classes


class Encoder:
    """Turns parameters into JSON; scikit-learn estimators become files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def encode(self, value: Any, where: str) -> Any:
        """JSON for ``value``; ``where`` names it in errors."""
        if value is None or isinstance(value, (bool, str)):
            return value
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            return float(value) if np.isfinite(value) else {"$float": str(float(value))}
        if isinstance(value, list):
            return [self.encode(item, where) for item in value]
        if isinstance(value, tuple):
            return {"$tuple": [self.encode(item, where) for item in value]}
        if isinstance(value, dict):
            pairs = [[self.encode(k, where), self.encode(v, where)] for k, v in value.items()]
            return {"$dict": pairs}
        if isinstance(value, slice):
            ends = (value.start, value.stop, value.step)
            return {"$slice": [self.encode(end, where) for end in ends]}
        if isinstance(value, Path):
            return {"$path": value.as_posix()}
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufU":
            return {"$array": value.tolist(), "dtype": value.dtype.str}
        return self._encode_part(value, where)

    def _encode_part(self, value: Any, where: str) -> Any:
        name = type(value).__name__
        if known_parts().get(name) is type(value):
            params = value.get_params(deep=False)
            inner = {k: self.encode(v, f"{where}.{k}") for k, v in params.items()}
            return {"$part": name, "params": inner}
        if type(value).__module__.split(".")[0] == "sklearn":
            return {"$skops": self.write_estimator(value, where)}
        raise SavedModelError(
            f"{where} is a {type(value).__module__}.{name}, which cannot be saved without pickle. "
            "Saved are plain values, heads and encoders of mmfuse, and scikit-learn objects; "
            "use one of them (an integer for random_state, say), or pickle the model yourself."
        )

    def write_estimator(self, estimator: Any, where: str) -> str:
        """Write a scikit-learn object with skops, if it holds trusted types only."""
        import skops.io

        data = skops.io.dumps(estimator)
        refused = sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))
        if refused:
            raise SavedModelError(
                f"{where} is a {type(estimator).__name__} that holds types which are not on the "
                f"list of trusted ones: {', '.join(refused)}. Use another estimator, or pickle "
                "the model yourself."
            )
        self.count += 1
        name = f"estimator-{self.count}.skops"
        (self.folder / name).write_bytes(data)
        return name


class Decoder:
    """Turns what `Encoder` made back into parameters."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def decode(self, value: Any) -> Any:
        """The parameter that was encoded as ``value``."""
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$part" in value:
            return self._decode_part(value)
        kind, body = next(iter(value.items()))
        if kind == "$float":
            return float(body)
        if kind == "$tuple":
            return tuple(self.decode(item) for item in body)
        if kind == "$dict":
            return {self.decode(k): self.decode(v) for k, v in body}
        if kind == "$slice":
            return slice(*(self.decode(v) for v in body))
        if kind == "$path":
            return Path(body)
        if kind == "$array":
            return np.array(body, dtype=np.dtype(value["dtype"]))
        if kind == "$skops":
            return self.read_estimator(body)
        raise SavedModelError(f"config.json holds an unknown kind of value {kind!r}.")

    def _decode_part(self, value: dict) -> Any:
        name = value["$part"]
        classes = known_parts()
        if name not in classes:
            raise SavedModelError(
                f"config.json names the class {name!r}, which this version of mmfuse does not "
                f"have. Known: {', '.join(sorted(classes))}."
            )
        return classes[name](**{k: self.decode(v) for k, v in value["params"].items()})

    def read_estimator(self, name: str) -> Any:
        """Load a scikit-learn object with the explicit list of trusted types."""
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        try:
            return skops.io.load(self.folder / name, trusted=list(TRUSTED_TYPES))
        except UntrustedTypesFoundException as exc:
            raise SavedModelError(f"{name} holds types that are not trusted: {exc}") from exc
