"""The arguments that name a CLIP model of open_clip, and what of them cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmfuse._require import require
from mmfuse.exceptions import WeightsNotFoundError

__all__ = ["CONFIG", "FOLDER", "SUFFIXES", "ClipSource", "cure", "open_clip"]

CONFIG = "open_clip_config.json"
FOLDER, _HUB = "local-dir:", "hf-hub:"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
_DEFAULT_TAGS = {"ViT-B-32": "laion2b_s34b_b79k"}


@dataclass(frozen=True)
class ClipSource:
    """The arguments that name a CLIP model.

    Attributes
    ----------
    caller : str
        Name of the encoder; it opens messages.
    model : str or Path
    weights : str, Path or None
    random_state : int
    """

    caller: str
    model: str | Path
    weights: str | Path | None
    random_state: int

    @property
    def folder(self) -> Path | None:
        """The folder that holds the model, or None."""
        name = str(self.model)
        if name.startswith(FOLDER):
            return Path(name.removeprefix(FOLDER))
        return Path(name) if isinstance(self.model, Path) or Path(name).is_dir() else None

    @property
    def repository(self) -> str | None:
        """The hub's repository that holds the model, or None."""
        name = str(self.model)
        return name.removeprefix(_HUB) if name.startswith(_HUB) else None

    @property
    def name(self) -> str:
        """The model's name among open_clip's own."""
        return str(self.model).replace("/", "-")

    @property
    def file(self) -> Path | None:
        """The weight file that `weights` names, or None."""
        if self.weights is None or self.weights == "auto":
            return None
        named = Path(self.weights)
        return named if isinstance(self.weights, Path) or named.suffix in SUFFIXES else None

    @property
    def tag(self) -> str | None:
        """The tag of pretrained weights, for one of open_clip's own models."""
        if self.folder or self.repository or self.file or self.weights is None:
            return None
        return _DEFAULT_TAGS.get(self.name) if self.weights == "auto" else str(self.weights)

    def check(self) -> None:
        """Raise for a model, a tag or a file that cannot be."""
        if not isinstance(self.model, (str, Path)) or not str(self.model):
            raise TypeError(f"{self.caller}: model must be a name or a folder, got {self.model!r}.")
        if not isinstance(self.weights, (str, Path, type(None))) or self.weights == "":
            raise TypeError(
                f"{self.caller}: weights must be 'auto', a tag, a file ({', '.join(SUFFIXES)}) "
                f"or None, got {self.weights!r}."
            )
        if self.file is not None and not self.file.is_file():
            raise WeightsNotFoundError(f"{self.caller}: there is no weight file {self.file}.")
        if self.folder is not None:
            _check_folder(self, self.folder)
        elif self.repository is None:
            _check_name(self)
        if (self.folder or self.repository) and self.file is None and self.weights is not None:
            if self.weights != "auto":
                raise ValueError(
                    f"{self.caller}: weights must be 'auto', a file or None where model is a "
                    f"folder or a repository, got {self.weights!r}."
                )


def open_clip(caller: str, module: str = "open_clip") -> Any:
    """Import open_clip or one of its modules."""
    return require(module, extra="clip", caller=caller)


def _check_folder(source: ClipSource, folder: Path) -> None:
    if not (folder / CONFIG).is_file():
        raise WeightsNotFoundError(
            f"{source.caller}: the folder {folder} has no {CONFIG}; a folder of a CLIP model "
            f"holds that file and the weights, as open_clip.push_to_hf_hub.save_for_hf writes "
            f"them. Fetch one with: hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K "
            f"--local-dir {folder}"
        )


def _check_name(source: ClipSource) -> None:
    library = open_clip(source.caller)
    names = library.list_models()
    if source.name not in names:
        near = get_close_matches(source.name, names, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see open_clip.list_models()."
        raise ValueError(
            f"{source.caller}: model must be a name that open_clip knows, a folder with "
            f"{CONFIG}, or 'hf-hub:owner/name'; got {str(source.model)!r}{hint}"
        )
    if source.file is not None or source.weights is None:
        return
    tags = library.list_pretrained_tags_by_model(source.name)
    if source.tag is None or not library.is_pretrained_cfg(source.name, source.tag):
        raise ValueError(
            f"{source.caller}: weights of {source.name} must be a file ({', '.join(SUFFIXES)}), "
            f"None, or a tag of open_clip ({', '.join(tags) or 'it has none'}); "
            f"got {str(source.weights)!r}."
        )


def cure(source: ClipSource) -> str:
    """Say how to get a model that is not on this machine."""
    asked = f"'{source.model}'" + (f", '{source.tag}'" if source.tag else "")
    return (
        f'Fetch them where there is a network with: python -c "import open_clip; '
        f'open_clip.create_model({asked})", or name a folder that holds {CONFIG} and the weights '
        "as the model."
    )
