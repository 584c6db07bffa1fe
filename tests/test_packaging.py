"""Packaging: the two folders at the top are in every form of the package."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def test_the_package_list_is_what_is_on_disk(setup_cfg):
    mapping = dict(line.split(" = ") for line in _lines(setup_cfg["options"]["package_dir"]))
    assert mapping == {"mmfuse": "mmfuse", "mmfuse.encoders": "encoders", "mmfuse.heads": "heads"}
    on_disk = set()
    for package, folder in mapping.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            if inner and (ROOT / folder / inner[0]).is_symlink():
                continue
            on_disk.add(".".join([package, *inner]))
    assert sorted(on_disk) == sorted(_lines(setup_cfg["options"]["packages"]))


@pytest.mark.parametrize("folder", ["encoders", "heads"])
def test_links_are_committed_as_links(folder):
    link = ROOT / "mmfuse" / folder
    if not link.is_symlink():
        pytest.skip("this checkout has no links")
    assert os.readlink(link) == f"../{folder}"


def test_extras_are_complete(setup_cfg):
    extras = {name: _lines(text) for name, text in setup_cfg["options.extras_require"].items()}
    every = extras["all"][0].removeprefix("mmfuse[").removesuffix("]").split(",")
    narrow = {"opensmile"}  # its licence is not for all uses, so it has to be asked for
    assert set(every) == set(extras) - {"all", "demo", "test", "dev"} - narrow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build a wheel from a copy of the tree, without a network."""
    source = tmp_path_factory.mktemp("source")
    for name in ("mmfuse", "encoders", "heads"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(target), "."]
    subprocess.run(command, cwd=source, check=True, timeout=300)
    return next(target.glob("*.whl"))


@pytest.mark.slow
def test_wheel_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {"mmfuse/py.typed", "mmfuse/__main__.py", "mmfuse/datasets/data/av_digits.npz"}
    expected |= {"mmfuse/datasets/data/photoz.npz"}
    expected |= {f"mmfuse/datasets/data/LICENSE-{name}.txt" for name in ("MNIST", "FSDD", "PHOTOZ")}
    for folder in ("encoders", "heads"):
        expected |= {f"mmfuse/{folder}/{path.name}" for path in (ROOT / folder).glob("*.py")}
    expected |= {f"mmfuse/{path.name}" for path in (ROOT / "mmfuse").glob("*.py")}
    assert expected <= names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"mmfuse", f"{wheel.name.split('-')[0]}-{wheel.name.split('-')[1]}.dist-info"}
    assert sum(name.endswith("licenses/LICENSE") for name in names) == 1


@pytest.mark.slow
def test_wheel_works_where_it_is_installed(wheel, tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(wheel)], check=True, timeout=300)
    code = """
import mmfuse, mmfuse.encoders, mmfuse.heads
from mmfuse.datasets import load_av_digits
print(mmfuse.__file__, mmfuse.encoders.__file__, mmfuse.heads.__file__, sep="\\n")
assert len(load_av_digits().X) == 960
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(str(site)) for line in done.stdout.split())
