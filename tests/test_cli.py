"""The command line: what it writes, and one line for every error that a user can mend."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from sharing import shared_cache  # noqa: F401
from typer.testing import CliRunner

from mmfuse import FusionClassifier, load
from mmfuse._version import __version__
from mmfuse.cache import EmbeddingCache
from mmfuse.cli.app import app
from mmfuse.cli.manifest import Source, parse_modality

NUMBERS = ["--modality", "first=a,b:numeric", "--modality", "second=c,d:numeric"]


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def fails(message, *words):
    """Run a command that must end with this one line on stderr, after notes, and status 2."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("mmfuse: ")
    assert message in lines[0]


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 4))
    frame = pd.DataFrame(values, columns=list("abcd"))
    frame["kind"] = np.where(values[:, 0] + values[:, 2] > 0, "warm", "cold")
    frame["value"] = 3 * values[:, 0] + values[:, 2]
    frame["count"] = (values[:, 0] > 0).astype(int)
    frame["person"] = [f"p{row // 3}" for row in range(90)]
    frame["visit"] = [f"{row:03d}" for row in range(90)]
    frame.loc[3, ["c", "d"]] = np.nan
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory, frame):
    """A manifest, one without the second modality, and a model fitted by the command."""
    folder = tmp_path_factory.mktemp("cli")
    frame.to_csv(folder / "all.csv", index=False)
    frame.drop(columns=["c", "d"]).to_csv(folder / "part.csv", index=False)
    words = ["--target", "kind", "--group", "person", "--id", "visit", "--out", folder / "model"]
    result = run("fit", folder / "all.csv", *NUMBERS, *words)
    assert result.exit_code == 0, result.output
    assert "90 rows, classification of 'kind' (2 classes)" in result.output
    assert "saved in" in result.output
    return folder


def test_fit_keeps_the_columns_of_every_modality(folder):
    model = load(folder / "model")
    assert model.input_columns_ == {
        "first": {"columns": ["a", "b"], "kind": "numeric"},
        "second": {"columns": ["c", "d"], "kind": "numeric"},
    }
    assert model.classes_.tolist() == ["cold", "warm"]


def test_predict_writes_ids_probabilities_and_what_was_used(folder, frame):
    out = folder / "predictions.csv"
    result = run("predict", folder / "model", folder / "all.csv", "--id", "visit", "--out", out)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(out, dtype={"visit": str})
    assert list(table) == ["visit", "prediction", "prob_cold", "prob_warm", "used"]
    assert table["visit"].tolist() == frame["visit"].tolist()
    assert table["used"][3] == "first"
    assert set(table["used"].drop(3)) == {"first+second"}
    np.testing.assert_allclose(table["prob_cold"] + table["prob_warm"], 1, atol=1e-5)
    assert (table["prediction"] == frame["kind"]).mean() > 0.9


def test_predict_takes_a_missing_column_for_a_missing_modality(folder):
    out = folder / "part-predictions.csv"
    result = run("predict", folder / "model", folder / "part.csv", "--out", out)
    assert result.exit_code == 0, result.output
    assert "note: part.csv has no column c, d; taken as missing" in result.stderr
    table = pd.read_csv(out)
    assert table["row"].tolist() == list(range(90))
    assert set(table["used"]) == {"first"}


@pytest.mark.parametrize("suffix", ["html", "json", "txt"])
def test_report(folder, suffix):
    out = folder / f"report.{suffix}"
    words = ["--target", "kind", "--group", "person", "--out", out]
    fails("the model was fitted on 30 groups ('p0'", "report", folder / "model",
          folder / "all.csv", *words)  # fmt: skip
    words += ["--overlap", "warn"]
    result = run("report", folder / "model", folder / "all.csv", *words)
    assert result.exit_code == 0, result.output
    assert "note: modality_report: 90 of 90 rows are identical" in result.stderr
    assert "first + second" in result.output
    assert out.stat().st_size > 500


def test_clinical_report(folder, frame, tmp_path):
    rng = np.random.default_rng(7)
    values = rng.normal(size=(80, 4))
    fresh = pd.DataFrame(values, columns=list("abcd"))
    fresh["kind"] = np.where(values[:, 0] + values[:, 2] > 0, "warm", "cold")
    fresh.loc[[4, 9], "kind"] = None
    fresh["sex"], fresh["age"] = np.where(rng.random(80) < 0.9, "f", "m"), rng.integers(20, 60, 80)
    fresh["person"] = [f"new{row // 2}" for row in range(80)]
    fresh.to_csv(tmp_path / "new.csv", index=False)
    words = ["report", folder / "model", tmp_path / "new.csv", "--target", "kind", "--clinical"]
    words += ["--by", "sex", "--by", "age", "--group", "person", "--out", tmp_path / "sheet.html"]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert re.search(r"left out: outcome missing +2 ", result.output)
    assert "sex: 'm' suppressed, with fewer than 20 groups." in result.output
    assert "written to" in result.output
    assert '<section id="card">' in (tmp_path / "sheet.html").read_text(encoding="utf-8")
    fails("--by: 'new.csv' has no column 'iq'", *words, "--by", "iq")
    fails("add --clinical", "report", folder / "model", "x.csv", "--target", "kind", "--by", "sex")
    fails("must end in .html, .pdf, .json or .txt", *words[:-1], tmp_path / "sheet.doc")
    wrong = fresh.assign(kind="hot")
    wrong.to_csv(tmp_path / "wrong.csv", index=False)
    message = "y holds 'hot' in row 0, a class that the model does not know"
    fails(message, "report", folder / "model", tmp_path / "wrong.csv", *words[3:6])
    assert "as missing" not in result.stderr


def test_regression_is_found_out_and_can_be_asked_for(folder):
    for words in (["--target", "value"], ["--target", "count", "--task", "regression"]):
        result = run("fit", folder / "all.csv", *NUMBERS, *words, "--out", folder / "values")
        assert result.exit_code == 0, result.output
        assert "regression of" in result.output
    out = folder / "values.csv"
    assert run("predict", folder / "values", folder / "all.csv", "--out", out).exit_code == 0
    assert list(pd.read_csv(out)) == ["row", "prediction", "used"]


def test_labels_that_look_like_numbers_meet_a_model_of_words(tmp_path, frame):
    frame.assign(kind=np.where(frame["kind"] == "warm", "1", "none")).to_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("a,b,c,d,kind\n1,1,1,1,1\n2,2,2,2,1\n")
    run("fit", tmp_path / "a.csv", *NUMBERS, "--target", "kind", "--out", tmp_path / "model")
    result = run("report", tmp_path / "model", tmp_path / "b.csv", "--target", "kind")
    assert result.exit_code == 0, result.output


def test_head_and_seed_are_passed_on(folder):
    words = ["--target", "kind", "--head", "early", "--random-state", "7", "--out", folder / "e"]
    assert run("fit", folder / "all.csv", *NUMBERS, *words).exit_code == 0
    model = load(folder / "e")
    assert type(model.head).__name__ == "EarlyFusion"
    assert model.random_state == 7


def test_modality_syntax():
    assert parse_modality("face=x, y:numeric") == Source("face", ("x", "y"), "numeric")
    assert parse_modality("a=C:\\x:audio") == Source("a", ("C:\\x",), "audio")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("photo_path", "is not of the form NAME=COLUMN:KIND, such as image=photo_path:image"),
        ("image=photo_path", "is not of the form NAME=COLUMN:KIND"),
        ("=photo_path:image", "is not of the form NAME=COLUMN:KIND"),
        ("image=:image", "is not of the form NAME=COLUMN:KIND"),
        ("image=a:picture", "the kind 'picture' is not known. Use one of image, audio, text,"),
        ("image=a,b:image", "only a numeric modality may have several columns"),
    ],
)
def test_bad_modality(folder, text, message):
    words = ["--target", "kind", "--out", folder / "never"]
    fails(message, "fit", folder / "all.csv", "--modality", text, *words)
    assert not (folder / "never").exists()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("There is no file 'none.csv'. Give the path of a manifest.", ["fit", "none.csv"]),
        ("--target: 'all.csv' has no column 'mood'. It has a, b,", ["--target", "mood"]),
        ("--group: 'all.csv' has no column 'site'. It has a, b,", ["--group", "site"]),
        ("--id: 'all.csv' has no column 'code'. It has a, b,", ["--id", "code"]),
        ("--modality third: 'all.csv' has no column 'z'.", ["--modality", "third=z:numeric"]),
        ("--modality names first more than once", ["--modality", "first=a:numeric"]),
        ("column 'c' of 'all.csv' is empty in 1 of 90 rows, first in row 3.", ["--target", "c"]),
        ("ids must be unique", ["--id", "person"]),
        ("column 'person' is not a number in row 0", ["--modality", "third=person:numeric"]),
    ],
)
def test_fit_errors(folder, message, words):
    if words[0] == "fit":
        fails(message, *words, *NUMBERS, "--target", "kind", "--out", folder / "never")
    else:
        command = ["fit", folder / "all.csv", *NUMBERS, "--target", "kind", *words]
        fails(message, *command, "--out", folder / "never")
    assert not (folder / "never").exists()


def test_a_file_that_cannot_be_read_stops_or_is_skipped(tmp_path, frame):
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    frame = frame.assign(wav="bad.wav")
    frame.to_csv(tmp_path / "all.csv", index=False)
    words = [*NUMBERS[:2], "--modality", "audio=wav:audio", "--target", "kind"]
    words += ["--out", tmp_path / "model"]
    fails("bad.wav", "fit", tmp_path / "all.csv", *words)
    fails("absent in all", "fit", tmp_path / "all.csv", *words, "--on-error", "skip")


def test_one_class_is_an_error_of_fit(folder):
    words = [*NUMBERS, "--target", "same", "--out", folder / "never"]
    pd.read_csv(folder / "all.csv").assign(same="x").to_csv(folder / "same.csv", index=False)
    fails("class", "fit", folder / "same.csv", *words)


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1,2,3\n1,2,3\n"])
def test_manifests_that_are_no_tables(tmp_path, text):
    (tmp_path / "bad.csv").write_text(text)
    words = ["--modality", "x=a:numeric", "--target", "b", "--out", tmp_path / "never"]
    fails("bad.csv", "fit", tmp_path / "bad.csv", *words)


def test_errors_about_saved_models(folder, tmp_path):
    words = [folder / "all.csv", "--out", tmp_path / "p.csv"]
    fails("There is no saved model at", "predict", tmp_path / "none", *words)
    fails("is not a saved model", "predict", tmp_path, *words)
    fails("is not a saved model", "doctor", tmp_path)
    third = ["--modality", "third=a:numeric"]
    fails("the model has no such modality. It has first, second", "predict", folder / "model",
          *words, *third)  # fmt: skip
    (tmp_path / "other.csv").write_text("e,f\n1,2\n")
    fails("None of the columns a, b, c, d is in the manifest, which has e, f", "predict",
          folder / "model", tmp_path / "other.csv", "--out", tmp_path / "p.csv")  # fmt: skip
    model = FusionClassifier(random_state=0).fit({"x": np.eye(12)}, np.arange(12) % 2)
    model.save(tmp_path / "plain")
    fails("does not say which columns it reads", "predict", tmp_path / "plain", *words)
    fails("exists and is not a saved model", "fit", folder / "all.csv", *NUMBERS, "--target",
          "kind", "--out", folder)  # fmt: skip


def test_tracebacks_are_shown_when_asked_for(monkeypatch):
    monkeypatch.setenv("MMFUSE_DEBUG", "1")
    result = run("fit", "none.csv", *NUMBERS, "--target", "kind", "--out", "never")
    assert isinstance(result.exception, FileNotFoundError)


def test_cache_commands(tmp_path):
    where = ["--folder", tmp_path]
    with EmbeddingCache(tmp_path, {"class": "Example"}) as cache:
        cache.put_many([b"a", b"b"], np.ones((2, 3), np.float32))
    listed = run("cache", "ls", *where)
    assert listed.exit_code == 0
    assert "2 embeddings" in listed.output and cache.path.name in listed.output
    checked = run("cache", "verify", *where)
    assert (checked.exit_code, checked.output) == (0, "1 file, 2 sound embeddings\n")
    fails("say what to remove with --days, --max-mb or --all", "cache", "gc", *where)
    assert "removed 0 files" in run("cache", "gc", "--days", 1, *where).output
    assert "removed 1 file," in run("cache", "gc", "--all", *where).output
    assert not list(tmp_path.iterdir())


def test_cache_verify_reports_damage(tmp_path):
    (tmp_path / "x.mmfuse-cache").write_bytes(b"this is no database, and never was one" * 50)
    result = run("cache", "verify", "--folder", tmp_path)
    assert result.exit_code == 1
    assert "x.mmfuse-cache: cannot be read" in result.output
    assert "unreadable" in run("cache", "ls", "--folder", tmp_path).output


@pytest.mark.parametrize(
    "words", [[], ["fit"], ["predict"], ["report"], ["demo"], ["doctor"], ["cache"]]
)
def test_help_is_short(words):
    result = run(*words, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) < 40
    assert "..." not in result.output.replace("[ARGS]...", "")  # no line is cut short


def test_the_installed_command():
    done = subprocess.run(
        [sys.executable, "-m", "mmfuse", "--version"],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, f"mmfuse {__version__}\n")


def test_demo_checks_its_number_of_rows(tmp_path):
    fails("The demo takes 120 to 960 rows, got 10.", "demo", "--rows", 10, "--out", tmp_path)


@pytest.mark.slow
def test_demo(tmp_path, shared_cache):  # noqa: F811
    result = run("demo", "--out", tmp_path / "demo", "--rows", 240)
    assert result.exit_code == 0, result.output
    assert "loaded again: accuracy 0." in result.output
    assert "image + audio" in result.output
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names == {"data", "model", "report.html", "report.png"}
    out = tmp_path / "p.csv"
    words = [tmp_path / "demo" / "model", tmp_path / "demo" / "data" / "manifest.csv"]
    assert run("predict", *words, "--id", "id", "--out", out).exit_code == 0
    assert set(pd.read_csv(out)["used"]) == {"image+audio"}
