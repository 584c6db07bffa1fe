"""Nested parameters of a dict of encoders, as scikit-learn spells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["EncoderParamsMixin"]

_PREFIX = "encoders__"


class EncoderParamsMixin:
    """``encoders__NAME`` and ``encoders__NAME__PARAMETER`` in get_params and set_params.

    Stands left of ``BaseEstimator``.
    """

    encoders: Mapping[str, Any] | None

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters, with those of the encoders when deep."""
        params = super().get_params(deep=deep)  # type: ignore[misc]  # BaseEstimator is next
        if deep and isinstance(self.encoders, Mapping):
            for name, encoder in self.encoders.items():
                params[f"{_PREFIX}{name}"] = encoder
                if hasattr(encoder, "get_params"):
                    inner = encoder.get_params(deep=True)
                    params |= {f"{_PREFIX}{name}__{key}": v for key, v in inner.items()}
        return params

    def set_params(self, **params: Any) -> Any:
        """Set parameters, those of an encoder by ``encoders__NAME__PARAMETER``."""
        own = {k: v for k, v in params.items() if not k.startswith(_PREFIX)}
        super().set_params(**own)  # type: ignore[misc]  # BaseEstimator is next
        for key, value in params.items():
            if not key.startswith(_PREFIX):
                continue
            name, _, inner = key.removeprefix(_PREFIX).partition("__")
            if not isinstance(self.encoders, Mapping) or name not in self.encoders:
                known = ", ".join(self.encoders) if self.encoders else "none"
                raise ValueError(
                    f"Invalid parameter {key!r} for {type(self).__name__}: there is no encoder "
                    f"{name!r}; encoders: {known}."
                )
            if inner:
                self.encoders[name].set_params(**{inner: value})
            else:
                self.encoders = {**self.encoders, name: value}
        return self
