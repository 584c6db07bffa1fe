"""Importing: light, without optional packages, with honest lists of public names."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmfuse
import mmfuse.encoders
import mmfuse.heads

OPTIONAL = [
    "PIL",
    "ai_edge_litert",
    "astropy",
    "captum",
    "cv2",
    "matplotlib",
    "open_clip",
    "pint",
    "pyarrow",
    "sentence_transformers",
    "soundfile",
    "tifffile",
    "timm",
    "torchaudio",
    "torchvision",
    "transformers",
    "typer",
]
COMMAND_LINE = ["mmfuse.cli.cache", "mmfuse.cli.app"]


def _walk() -> list[str]:
    names = ["mmfuse"]
    names += [one.name for one in pkgutil.walk_packages(mmfuse.__path__, "mmfuse.")]
    for package in (mmfuse.encoders, mmfuse.heads):  # found even where the links are lost
        found = pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        names += [one.name for one in found]
    return sorted(set(names) - {"mmfuse.__main__", "mmfuse._version"})


MODULES = _walk()


def _python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_the_walk_finds_every_file():
    root = Path(mmfuse.__file__).parent
    on_disk = {
        f"mmfuse.{path.relative_to(root).with_suffix('').as_posix().replace('/', '.')}"
        for path in [*root.glob("*.py"), *root.glob("*/*.py")]
    }
    on_disk = {name.removesuffix(".__init__") for name in on_disk}
    assert on_disk - set(MODULES) == {"mmfuse.__main__", "mmfuse._version"}
    assert len(MODULES) > 20


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_doctests_pass(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__) if hasattr(module, "__all__") else True
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ lists {public!r}, which it does not have"
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0


def test_every_module_states_its_public_names():
    assert not [name for name in MODULES if not hasattr(importlib.import_module(name), "__all__")]


def test_every_module_imports_without_optional_packages():
    ordinary = [name for name in MODULES if name not in COMMAND_LINE]
    done = _python(
        f"""
import sys
for name in {OPTIONAL!r}:
    sys.modules[name] = None
from importlib import import_module
for name in {ordinary!r}:
    import_module(name)
for name in {COMMAND_LINE!r}:
    try:
        import_module(name)
    except ModuleNotFoundError as exc:
        assert "pip install 'mmfuse[cli]'" in str(exc), exc
    else:
        raise AssertionError(name)
"""
    )
    assert done.returncode == 0, done.stderr


def test_the_command_without_typer_says_what_to_install():
    done = _python(
        "import sys; sys.modules['typer'] = None; from mmfuse.__main__ import main; main()"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.strip() == (
        "mmfuse: The mmfuse command needs the package 'typer', which is not installed. "
        "Install it with: pip install 'mmfuse[cli]'"
    )


def test_import_is_light():
    code = """
import sys, time
import sklearn
before = set(sys.modules)
start = time.perf_counter()
import mmfuse
print(time.perf_counter() - start)
heavy = {"torch", "pandas", "scipy", "matplotlib", "timm", "typer", "PIL"}
print(" ".join((set(sys.modules) - before) & heavy))
"""
    runs = [_python(code).stdout.splitlines() for _ in range(5)]
    assert {run[1] for run in runs} == {""}
    assert min(float(run[0]) for run in runs) < 0.3


def test_public_names_resolve_and_unknown_ones_do_not():
    for name in mmfuse.__all__:
        assert getattr(mmfuse, name) is not None
    assert set(mmfuse.__all__) <= set(dir(mmfuse))
    with pytest.raises(AttributeError, match="has no attribute 'FusionClasifier'"):
        _ = mmfuse.FusionClasifier


@pytest.mark.parametrize("folder", ["encoders", "heads"])
def test_bare_import_is_refused(folder):
    root = Path(__file__).resolve().parents[1]
    done = _python(f"import {folder}", PYTHONPATH=str(root))
    assert done.returncode == 1
    assert f"import it as mmfuse.{folder}, not as a top-level package" in done.stderr


def test_no_module_was_imported_twice_under_two_names():
    for name in MODULES:
        importlib.import_module(name)
    assert not [name for name in sys.modules if name.split(".")[0] in ("encoders", "heads")]
