"""The README does what it says: its code and commands run, its numbers are measured."""

from __future__ import annotations

import configparser
import importlib
import re
import shlex
from pathlib import Path

import pytest
from sharing import shared_cache  # noqa: F401

from mmfuse import FusionClassifier

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(README)


def _commands(text: str) -> list[list[str]]:
    text = text.replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


def _run(words: list[str]) -> None:
    from typer.testing import CliRunner

    from mmfuse.cli.app import app

    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(f"^{target}:", makefile, re.MULTILINE) for target in words[1:])
        return
    assert words[0] == "mmfuse", f"the README may only name make and mmfuse, not {words[0]!r}"
    result = CliRunner().invoke(app, words[1:])
    assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}\n{result.exception!r}"


@pytest.mark.slow
def test_every_block_runs_in_order(tmp_path, monkeypatch, shared_cache):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "readme"}
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, "README.md", "exec"), namespace)
        elif kind in ("console", "bash", "sh"):
            for words in _commands(text):
                _run(words)
        else:
            assert kind in ("text", "csv"), f"a block of kind {kind!r} would not be tested"
    assert any(kind == "python" for kind, _ in BLOCKS)


def test_set_up_is_two_commands():
    named = [
        words for kind, text in BLOCKS if kind in ("console", "bash") for words in _commands(text)
    ]
    assert [words for words in named if words[0] == "make"] == [["make", "demo"], ["make", "test"]]


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
    for picture in (ROOT / "docs" / "images").glob("*.png"):
        assert picture.stat().st_size < 200_000


def test_table_of_results_is_the_measured_one():
    measured = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in README.splitlines() if re.search(r"\| 0\.\d{3} \|", line)]
    assert rows
    assert set(rows) <= set(measured)


@pytest.mark.slow
def test_measured_numbers_still_hold(shared_cache, monkeypatch):  # noqa: F811
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    benchmark = importlib.import_module("av_digits")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    blocks, y, speakers = benchmark.encode()
    test = speakers == "george"
    model = FusionClassifier(random_state=0)
    model.fit(blocks[~test], y[~test], groups=speakers[~test])
    for case, rows in (
        ("image + audio", blocks[test]),
        ("image + audio, audio missing in every test row", blocks[test].hide("audio")),
    ):
        by_speaker = [line for line in page.splitlines() if line.startswith(f"| {case} |")][1]
        measured = float(by_speaker.split("|")[2])
        assert model.score(rows, y[test]) == pytest.approx(measured, abs=0.02)


def test_extras_table_lists_what_the_code_asks_for():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    sources = [*ROOT.glob("mmfuse/**/*.py"), *ROOT.glob("encoders/*.py"), *ROOT.glob("heads/*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    asked_for = {*re.findall(r'extra="(\w+)"', text), *re.findall(r"install mmfuse\[(\w+)\]", text)}
    table = README.split("## Extras")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert listed - {"all"} == asked_for - {"all"}
    assert listed <= set(parser["options.extras_require"])
