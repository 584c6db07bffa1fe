"""The clinical sheet: its numbers, what it hides, and the pages it makes."""

from __future__ import annotations

import json
import re
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from report_models import SumRegressor, report_case
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    roc_auc_score,
)

import mmfuse as mf
from mmfuse.blocks import Blocks
from mmfuse.clinical import CARD_ITEMS, clinical_report, find_browser, print_pdf
from mmfuse.clinical.card import OPEN
from mmfuse.clinical.draws import draw_counts
from mmfuse.clinical.figures import sheet_figures
from mmfuse.clinical.pdf import browser_arguments
from mmfuse.clinical.reliability import calibration_curve
from mmfuse.clinical.scores import Scored, score_draws, score_interval, score_names, score_values
from mmfuse.clinical.tables import subgroup_cells
from mmfuse.clinical.words import WORDS
from mmfuse.conformal.coverage import coverage_by_pattern
from mmfuse.exceptions import LeakageError, LeakageWarning
from mmfuse.heads import EarlyFusion
from mmfuse.metrics import brier_score, log_loss, quadratic_kappa, ranked_probability_score

DRAWS = 60


def study(n=360, classes=3, seed=0):
    """Voice and face of which the face is often absent, graded outcomes, persons of two rows."""
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    face = y[:, None] + 1.5 * rng.normal(size=(n, 2))
    face[rng.random(n) < 0.4] = np.nan
    X = {"voice": y[:, None] + 1.2 * rng.normal(size=(n, 3)), "face": face}
    frame = pd.DataFrame({"sex": rng.choice(["female", "male"], size=n)})
    frame["site"] = np.where(rng.random(n) < 0.03, "island", "city")
    frame["age"] = rng.integers(18, 90, size=n)
    return X, y, frame, np.array([f"p{row // 2}" for row in range(n)])


def part(X, rows):
    return {name: values[rows] for name, values in X.items()}


TRAIN, TEST = slice(0, 160), slice(160, None)


@pytest.fixture(scope="module")
def ordinal():
    """A sheet of an ordinal model, with gaps in the outcome, exclusions and subgroups."""
    X, y, frame, persons = study()
    model = mf.FusionClassifier(EarlyFusion(C=1.0), target="ordinal", random_state=0)
    model.fit(part(X, TRAIN), y[TRAIN], groups=persons[TRAIN])
    truth = y[TEST].astype(float)
    truth[[3, 8]] = np.nan
    reasons = np.full(200, None, dtype=object)
    reasons[[8, 20, 21]] = ["withdrew", "withdrew", "wrong language"]
    kept = np.setdiff1d(np.arange(200), [3, 8, 20, 21])
    sheet = clinical_report(
        model,
        part(X, TEST),
        truth,
        by=frame[TEST],
        groups=persons[TEST],
        excluded=reasons,
        card={"3b": "Screening by telephone."},
        n_bootstrap=DRAWS,
    )
    return sheet, model, part(part(X, TEST), kept), y[TEST][kept], frame[TEST].iloc[kept]


@pytest.fixture(scope="module")
def page(ordinal, tmp_path_factory):
    path = tmp_path_factory.mktemp("sheet") / "sheet.html"
    ordinal[0].save(path, title="Sheet <of a test>")
    return path


def test_every_row_is_counted_once(ordinal):
    rows = ordinal[0].flow.set_index("step")["rows"]
    assert rows["rows given"] == 200
    assert rows["left out: withdrew"] == 2  # one of them lacks the outcome too
    assert rows["left out: wrong language"] == 1
    assert rows["left out: outcome missing"] == 1
    assert rows["analysed"] == 196 == ordinal[0].n_rows
    assert sum(rows[f"outcome {k}"] for k in range(3)) == 196
    people = ordinal[0].flow.set_index("step")["groups"]
    assert people["rows given"] == 100
    assert people["analysed"] == ordinal[0].n_groups == 99  # rows 20 and 21 were one person


def test_scores_equal_the_metrics(ordinal):
    sheet, model, X, y, _ = ordinal
    value = sheet.scores["value"]
    proba, said = model.predict_proba(X), model.predict(X)
    options = {"classes": model.classes_}
    assert value["AUC of >= 1"] == pytest.approx(roc_auc_score(y >= 1, proba[:, 1:].sum(axis=1)))
    assert value["AUC of >= 2"] == pytest.approx(roc_auc_score(y >= 2, proba[:, 2]))
    assert value["accuracy"] == pytest.approx(accuracy_score(y, said))
    assert value["balanced accuracy"] == pytest.approx(balanced_accuracy_score(y, said))
    assert value["quadratic kappa"] == pytest.approx(quadratic_kappa(y, said, **options))
    assert value["quadratic kappa"] == pytest.approx(
        cohen_kappa_score(y, said, weights="quadratic")
    )
    found = ranked_probability_score(y, proba, **options)
    assert value["ranked probability score"] == pytest.approx(found)
    assert value["log loss"] == pytest.approx(log_loss(y, proba, **options))
    assert value["Brier score"] == pytest.approx(brier_score(y, proba, **options))
    np.testing.assert_array_equal(sheet.confusion, confusion_matrix(y, said))


def test_the_majority_class_is_beside_every_score(ordinal):
    sheet, _, _, y, _ = ordinal
    frame = sheet.scores
    shares = np.bincount(y) / len(y)
    assert frame.loc["accuracy", "majority"] == pytest.approx(shares.max())
    assert frame.loc["log loss", "majority"] == pytest.approx(-(shares * np.log(shares)).sum())
    assert frame.loc["mean AUC", "majority"] == 0.5
    assert frame.loc["quadratic kappa", "majority"] == 0.0
    assert frame["majority"].notna().all()
    assert (frame["gain_low"] <= frame["gain"]).all()
    assert frame.loc["log loss", "gain"] > 0  # a lower loss is a gain


def scored(groups=None, n=120, seed=1):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(3), size=n).round(2) + 1e-3  # with ties
    proba /= proba.sum(axis=1, keepdims=True)
    codes = np.array([rng.choice(3, p=row) for row in proba])
    events = {"low": np.array([True, False, False]), ">= 1": np.array([False, True, True])}
    return Scored(codes, proba.argmax(axis=1), proba, groups, events, True)


def test_resamples_by_counts_are_resamples_by_rows():
    one = scored()
    counts = next(draw_counts(None, len(one), 5, 0))
    found = score_draws(one, counts)
    for row, times in zip(found, counts, strict=True):
        members = np.repeat(np.arange(len(one)), times.astype(int))
        np.testing.assert_allclose(row, score_values(one.take(members)))
    assert len(score_names(one)) == found.shape[1]


def test_groups_are_drawn_whole_and_widen_the_interval():
    persons = np.repeat(np.arange(40), 3)
    counts = np.concatenate(list(draw_counts(persons, 120, 50, 0)))
    assert (counts[:, ::3] == counts[:, 1::3]).all()
    assert (counts.sum(axis=1) == 120).all()
    rng = np.random.default_rng(0)
    codes = np.repeat(rng.integers(2, size=40), 3)
    right = np.repeat(rng.random(40) < 0.6, 3)  # a person is understood or not
    said = np.where(right, codes, 1 - codes)
    proba = np.eye(2)[said] * 0.8 + 0.1
    events = {"1": np.array([False, True])}
    options = {"n_bootstrap": 400, "confidence": 0.95, "seed": 0}
    width = {}
    for name, groups in (("rows", None), ("persons", persons)):
        one = Scored(codes, said, proba, groups, events, False)
        line = score_interval(one, ["accuracy"], **options).loc["accuracy"]
        width[name] = line["high"] - line["low"]
    assert 1.4 < width["persons"] / width["rows"] < 2.1  # the square root of three


def test_small_subgroups_are_not_shown(ordinal, page):
    sheet, model, X, y, frame = ordinal
    island = frame["site"] == "island"
    assert 0 < island.sum() < 20
    shown = sheet.subgroups.set_index(["column", "subgroup"])
    assert "island" not in shown.loc["site"].index
    assert np.isnan(shown.loc[("site", "city"), "rows"])  # or the other follows by subtraction
    text = json.dumps(sheet.to_dict()["subgroups"]) + json.dumps(sheet.to_dict()["suppressed"])
    assert str(int((~island).sum())) not in re.findall(r"\d+", text)
    assert "site: 'island' suppressed, with fewer than 20 groups." in sheet.suppressed
    html = page.read_text(encoding="utf-8")
    assert "suppressed, with fewer than 20 groups" in html
    assert "withheld" in html
    women = (frame["sex"] == "female").to_numpy()
    line = shown.loc[("sex", "female")]
    assert line["rows"] == women.sum()
    assert line["observed >= 1"] == pytest.approx((y[women] >= 1).mean())
    assert line["accuracy"] == pytest.approx((model.predict(X) == y)[women].mean())
    thirds = shown.loc["age"].index.tolist()
    assert len(thirds) == 3
    assert thirds[0].startswith("18 to ")


def test_calibration_equals_a_regression_and_the_bins_count_all(ordinal):
    sheet, model, X, y, _ = ordinal
    risk = np.clip(model.predict_proba(X)[:, 2], 1e-6, 1 - 1e-6)
    curve = sheet.calibration[">= 2"]
    logits = np.log(risk / (1 - risk))[:, None]
    slope = LogisticRegression(C=1e8, tol=1e-9, max_iter=1000).fit(logits, y >= 2).coef_[0, 0]
    summary = curve.summary["value"]
    assert summary["slope"] == pytest.approx(slope, rel=1e-3)
    assert summary["observed / expected"] == pytest.approx((y >= 2).sum() / risk.sum())
    shifted = 1 / (1 + np.exp(-(logits[:, 0] + summary["intercept"])))
    assert shifted.mean() == pytest.approx((y >= 2).mean(), abs=1e-6)
    bins = curve.bins
    assert bins["rows"].sum() == len(y)
    assert np.average(bins["observed"], weights=bins["rows"]) == pytest.approx((y >= 2).mean())
    assert (bins["low"] <= bins["observed"]).all()
    assert (bins["observed"] <= bins["high"]).all()


def test_the_smooth_curve_finds_a_known_distortion():
    rng = np.random.default_rng(0)
    risk = rng.uniform(0.02, 0.98, size=4000)
    options = {"name": "ill", "n_bootstrap": 200, "confidence": 0.95, "seed": 0}
    honest = calibration_curve(risk, rng.random(4000) < risk, None, **options)
    truth = 1 / (1 + np.exp(-(0.5 * np.log(risk / (1 - risk)) - 0.5)))
    bent = calibration_curve(risk, rng.random(4000) < truth, None, **options)
    assert honest.summary.loc["slope", "low"] < 1 < honest.summary.loc["slope", "high"]
    assert bent.summary.loc["slope", "value"] == pytest.approx(0.5, abs=0.06)
    assert bent.summary.loc["slope", "high"] < 1
    line = np.interp(bent.smooth["predicted"], np.sort(risk), np.sort(truth))
    assert np.abs(bent.smooth["observed"] - line).max() < 0.06
    inside = (bent.smooth["low"] <= line) & (line <= bent.smooth["high"])
    assert inside.mean() > 0.7
    near = np.abs(honest.smooth["observed"] - honest.smooth["predicted"])
    assert near.max() < 0.06


def test_the_rest_is_what_other_functions_give(ordinal):
    sheet, model, X, y, _ = ordinal
    assert sheet.coverage.equals(coverage_by_pattern(model, X, y, 0.9))
    curve = mf.decision_curve(
        y, model.predict_proba(X), classes=[0, 1, 2], events="at_least", n_bootstrap=0
    )
    np.testing.assert_allclose(sheet.decision.net_benefit, curve.net_benefit)
    assert sheet.contributions.modalities.index.tolist() == ["voice", "face"]
    found = mf.explain(model, X, output="log_odds").summary(by="modality", n_bootstrap=1)
    pd.testing.assert_series_equal(
        sheet.explanation["mean_abs"].sort_index(), found["mean_abs"].sort_index()
    )
    patterns = sheet.patterns.set_index("pattern")
    both = ~np.isnan(X["face"][:, 0])
    assert patterns.loc["voice + face", "rows"] == both.sum()
    right = model.predict(X) == y
    assert patterns.loc["voice", "accuracy"] == pytest.approx(right[~both].mean())
    sure = model.predict_proba(X).max(axis=1)
    assert patterns.loc["voice", "confidence"] == pytest.approx(sure[~both].mean())


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.sections = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loaded += [given[name] for name in ("src", "href", "srcset", "data") if name in given]
        if tag == "section":
            self.sections.append(given["id"])
        assert tag not in ("script", "link", "iframe", "object")


def test_the_page_has_every_section_and_loads_nothing(page):
    html = page.read_text(encoding="utf-8")
    found = Links()
    found.feed(html)
    assert found.sections == list(WORDS)
    assert len(found.loaded) == 5
    assert all(source.startswith("data:image/svg+xml;base64,") for source in found.loaded)
    assert "url(" not in html.split("</style>")[0]
    assert "<title>Sheet &lt;of a test&gt;</title>" in html


def test_the_card_says_what_is_open(ordinal, page):
    card = ordinal[0].card
    assert card.index.tolist() == list(CARD_ITEMS)
    assert card.loc["3b", "text"] == "Screening by telephone."
    assert card.loc["3b", "filled"] == "authors"
    assert card.loc["17", "open"].startswith(OPEN)
    assert card.loc["23a", "open"] == ""
    assert "196 rows in 99 groups" in card.loc["10", "text"]
    assert "Fitted on 160 different rows, 80 groups." in card.loc["12a", "text"]
    html = page.read_text(encoding="utf-8")
    assert html.count('<div class="open">') == (card["open"] != "").sum() > 30


def test_limits_follow_from_the_numbers(ordinal):
    limits = " ".join(ordinal[0].limits)
    assert "196 rows in 99 groups" in limits
    assert "Rows without an outcome were left out (1)" in limits
    assert "out-of-fold" in limits
    assert "Fewer than 100 rows with or without the event" in limits
    assert "No groups were given" not in limits


def test_text_and_json_hold_the_numbers(ordinal, tmp_path):
    sheet = ordinal[0]
    assert repr(sheet) == sheet.to_text()
    value = sheet.scores.loc["accuracy", "value"]
    assert f"{value:.3f} [" in sheet.to_text()
    sheet.save(tmp_path / "sheet.json")
    kept = json.loads((tmp_path / "sheet.json").read_text(encoding="utf-8"))
    by_name = {line["score"]: line for line in kept["scores"]}
    assert by_name["accuracy"]["value"] == value
    assert len(kept["card"]) == len(CARD_ITEMS)
    sheet.save(tmp_path / "sheet.txt")
    assert "Subgroups" in (tmp_path / "sheet.txt").read_text(encoding="utf-8")
    assert "<table>" in sheet._repr_html_()
    with pytest.raises(
        ValueError, match=r"must end in \.html, \.pdf, \.json or \.txt; got 's\.doc'"
    ):
        sheet.save("s.doc")


def test_same_seed_same_sheet():
    model, blocks, y = report_case(n_rows=80)
    options = {"n_bootstrap": 20, "guards": False}
    one, two = (clinical_report(model, blocks, y, **options).to_dict() for _ in range(2))
    assert one == two
    other = clinical_report(model, blocks, y, random_state=1, **options).to_dict()
    assert one != other


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c"), (0, 1), (False, True)])
def test_any_classifier_of_modalities(classes):
    model, blocks, y = report_case(n_rows=90, classes=classes, absent={"audio": 0.3})
    sheet = clinical_report(model, blocks, y, n_bootstrap=20, guards=False)
    proba = model.predict_proba(blocks)
    if len(classes) == 2:
        assert sheet.task == "binary"
        area = roc_auc_score(y == classes[1], proba[:, 1])
        assert sheet.scores.loc["AUC", "value"] == pytest.approx(area)
    else:
        assert sheet.task == "nominal"
        areas = [roc_auc_score(y == label, proba[:, k]) for k, label in enumerate(classes)]
        assert sheet.scores.loc["mean AUC", "value"] == pytest.approx(np.mean(areas))
    assert "quadratic kappa" not in sheet.scores.index
    assert sheet.coverage is None  # it has no sets
    assert sheet.explanation is None
    assert "The guards were not run." in sheet._repr_html_()


def test_one_output_of_several():
    X, y, _, _ = study(200)
    both = np.column_stack([y, y > 0])
    model = mf.FusionClassifier(EarlyFusion(C=1.0), target=["ordinal", "nominal"], random_state=0)
    model.fit(part(X, slice(0, 120)), both[:120])
    rest = part(X, slice(120, None))
    with pytest.raises(ValueError, match=r"has the outputs .*pass model\.output\(0\)"):
        clinical_report(model, rest, both[120:])
    sheet = clinical_report(model.output(0), rest, both[120:, 0], n_bootstrap=10, guards=False)
    assert sheet.task == "ordinal"
    sheet = clinical_report(model.output(1), rest, both[120:, 1], n_bootstrap=10, guards=False)
    assert sheet.task == "binary"


def test_names_of_columns_are_looked_up_in_the_table():
    model, blocks, y = report_case(n_rows=60, classes=("a", "b"))
    model.encode = lambda X: X if isinstance(X, Blocks) else blocks
    people = pd.DataFrame({"sex": ["f", "m"] * 30, "weight": np.arange(60.0)})
    table = mf.ModalityTable({"notes": people})
    sheet = clinical_report(model, table, y, by=["sex"], n_bootstrap=10, guards=False)
    assert sheet.by == {"sex": ["f", "m"]}
    assert clinical_report(model, people, y, by="sex", n_bootstrap=10, guards=False).by == sheet.by
    with pytest.raises(
        ValueError, match=r"no frame of X has it; pass the values, as in by=\{'age'"
    ):
        clinical_report(model, table, y, by=["age"])


def test_what_was_not_recorded_is_a_subgroup():
    model, blocks, y = report_case(n_rows=90)
    sex = np.array(["f", "m", None] * 30, dtype=object)
    sheet = clinical_report(model, blocks, y, by={"sex": sex}, n_bootstrap=10, guards=False)
    assert sheet.subgroups["subgroup"].tolist() == ["f", "m", "not recorded"]
    assert (sheet.subgroups["rows"] == 30).all()


def test_a_subgroup_of_one_class_has_no_area_and_is_drawn_all_the_same():
    model, blocks, y = report_case(n_rows=120)
    kind = np.where((y == "a") & (np.arange(120) % 2 == 0), "only a", "mixed")
    sheet = clinical_report(model, blocks, y, by={"kind": kind}, n_bootstrap=10, guards=False)
    line = sheet.subgroups.set_index("subgroup").loc["only a"]
    assert np.isnan(line["AUC"])
    assert line["accuracy"] == (model.predict(blocks) == y)[kind == "only a"].mean()
    assert subgroup_cells(sheet).loc["kind: only a", "AUC"] == "n/a"
    assert set(sheet_figures(sheet)) == {"calibration", "decision", "subgroups", "contributions"}


def test_patterns_of_few_rows_have_no_scores():
    model, blocks, y = report_case(n_rows=80, absent={"audio": 0.1})
    sheet = clinical_report(model, blocks, y, n_bootstrap=10, guards=False)
    few = sheet.patterns.set_index("pattern").loc["image"]
    assert 0 < few["rows"] < 20
    assert few[["accuracy", "low", "high", "confidence", "gap"]].isna().all()
    assert f"Patterns with fewer than 20 rows have no scores: image ({few['rows']:.0f})." in (
        sheet.limits
    )


def test_a_model_that_is_no_better_than_the_majority_says_so():
    model, blocks, y = report_case({"image": 0.0}, n_rows=80)
    sheet = clinical_report(model, blocks, y, n_bootstrap=50, guards=False)
    assert "not measurably above that of always answering" in " ".join(sheet.limits)
    told, blocks, y = report_case({"image": 3.0}, n_rows=80)
    sheet = clinical_report(told, blocks, y, n_bootstrap=50, guards=False)
    assert "not measurably above" not in " ".join(sheet.limits)


def test_training_rows_are_noticed(ordinal):
    X, y, _, persons = study()
    _, model, *_ = ordinal
    with pytest.warns(LeakageWarning, match="identical to rows that the model was fitted on"):
        sheet = clinical_report(model, part(X, TRAIN), y[TRAIN], n_bootstrap=10, guards=False)
    assert "identical to rows" in sheet.findings[0]
    assert "identical to rows" in sheet._repr_html_()
    with pytest.raises(LeakageError, match="clinical_report: the model was fitted on"):
        clinical_report(model, part(X, TRAIN), y[TRAIN], groups=persons[TRAIN])


def test_copies_and_leaking_modalities_are_found():
    model, blocks, y = report_case(n_rows=80)
    twice = Blocks({name: np.tile(blocks[name][:40], (2, 1)) for name in blocks.names})
    sheet = clinical_report(model, twice, np.tile(y[:40], 2), n_bootstrap=10)
    assert any("80 of 80 rows are exact copies" in note for note in sheet.findings)
    noise = np.random.default_rng(0).normal(size=(80, 2))
    told = np.column_stack([np.where(y == "b", 5.0, -5.0), noise[:, 0]])
    sheet = clinical_report(model, Blocks({"image": told, "audio": noise}), y, n_bootstrap=10)
    assert any("'image' is implausibly good" in note for note in sheet.findings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": ["a"] * 59}, r"y must have one class per row of X, the shape \(60,\)"),
        ({"y": ["z"] * 60}, "y holds 'z' in row 0, a class that the model does not know"),
        ({"y": ["a"] * 60}, r"60 rows of 1 class\(es\) are left"),
        ({"y": [None] * 60}, r"0 rows of 0 class\(es\) are left"),
        ({"by": {"sex": ["f"] * 5}}, r"by\['sex'\] has 5 values and X has 60 rows"),
        ({"by": {"name": [f"n{i}" for i in range(60)]}}, "has 60 different values, and at most 20"),
        ({"by": [1]}, "by must be a DataFrame, a mapping"),
        ({"excluded": ["x"]}, r"excluded must have the shape \(60,\)"),
        ({"excluded": [3] * 60}, "excluded must hold reasons as text"),
        ({"card": {"99": "x"}}, "card has the item '99', which is none of TRIPOD"),
        ({"card": {"1": " "}}, r"card\['1'\] must be text"),
        ({"min_rows": 0}, "min_rows must be an integer of at least 1"),
        ({"n_bootstrap": 0}, "n_bootstrap must be an integer of at least 1"),
        ({"confidence": 1.0}, "confidence must lie between 0 and 1"),
        ({"groups": ["g"] * 60}, "groups must hold at least two groups"),
        ({"overlap": "no"}, "overlap must be one of"),
        ({"events": ["z"]}, "there is no event 'z'"),
    ],
)
def test_errors_say_what_is_wrong(change, message):
    model, blocks, y = report_case(n_rows=60)
    options = {"y": y, "n_bootstrap": 5} | change
    with pytest.raises(ValueError, match=message):
        clinical_report(model, blocks, options.pop("y"), **options)


def test_groups_may_run_out():
    model, blocks, y = report_case(n_rows=60)
    groups = np.repeat(["p", "q"], 30)
    with pytest.raises(ValueError, match="left to analyse are all in one of the groups"):
        clinical_report(model, blocks, y, groups=groups, excluded=groups == "q")


def test_regressors_are_sent_elsewhere():
    with pytest.raises(TypeError, match=r"got SumRegressor\. For values, see modality_report"):
        SumRegressor.classes_ = None  # so that it counts as fitted
        try:
            clinical_report(SumRegressor(), Blocks({"image": np.ones((3, 1))}), [1, 2, 3])
        finally:
            del SumRegressor.classes_


def test_many_modalities_are_not_taken_apart():
    names = {f"m{k}": 0.5 for k in range(4)}
    model, blocks, y = report_case(names, n_rows=60)
    sheet = clinical_report(model, blocks, y, max_modalities=3, n_bootstrap=5, guards=False)
    assert sheet.contributions is None
    html = sheet.to_html()
    assert "too many modalities" in html
    assert "no prediction sets" in html
    assert "No subgroups were given." in html


def test_without_a_browser_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("MMFUSE_CHROMIUM", raising=False)
    monkeypatch.setattr("mmfuse.clinical.pdf._PLACES", ())
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        print_pdf("<p>x</p>", tmp_path / "x.pdf")
    monkeypatch.setenv("MMFUSE_CHROMIUM", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="MMFUSE_CHROMIUM names .*, which is no program"):
        print_pdf("<p>x</p>", tmp_path / "x.pdf")


def _program(folder, line):
    path = folder / "browser"
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


def test_a_browser_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("MMFUSE_CHROMIUM", _program(tmp_path, "echo no display >&2; exit 3"))
    with pytest.raises(RuntimeError, match=r"exit status 3\); it said: no display"):
        print_pdf("<p>x</p>", tmp_path / "x.pdf")
    monkeypatch.setenv("MMFUSE_CHROMIUM", _program(tmp_path, "exec sleep 5"))
    with pytest.raises(RuntimeError, match=r"has not printed 'x\.pdf' within 0\.2 s"):
        print_pdf("<p>x</p>", tmp_path / "x.pdf", timeout=0.2)
    assert not (tmp_path / "x.pdf").exists()


def test_a_real_browser_draws_and_prints_it(ordinal, page, tmp_path):
    browser = find_browser()
    if browser is None:
        pytest.skip("no Chromium is installed")
    image = pytest.importorskip("PIL.Image")
    shot = tmp_path / "shot.png"
    words = browser_arguments(browser, tmp_path / "profile")
    words += ["--window-size=900,1400", f"--screenshot={shot}", page.as_uri()]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    with image.open(shot) as drawn:
        grey = np.asarray(drawn.convert("L"))
    assert grey.shape == (1400, 900)
    assert 0.01 < (grey < 128).mean() < 0.5  # ink on paper
    ordinal[0].save(tmp_path / "sheet.pdf")
    content = (tmp_path / "sheet.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) >= 3
    assert not re.search(rb"/URI\s*\(http", content)
