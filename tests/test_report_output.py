"""The modality report as text, JSON and a page."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from report_models import (
    THREE,
    EvidenceClassifier,
    report_case,
)

import mmfuse
from mmfuse import Blocks, modality_report
from mmfuse.exceptions import ModalityNeglectWarning

pytestmark = pytest.mark.filterwarnings("ignore::mmfuse.exceptions.ModalityNeglectWarning")


def _call(model, blocks, y, **options):
    return modality_report(model, blocks, y, n_bootstrap=options.pop("n_bootstrap", 5), **options)


@pytest.fixture(scope="module")
def report():
    model, blocks, y = report_case(THREE, absent={"audio": 0.4})
    model.scale = {"noise": 0.0}
    with pytest.warns(ModalityNeglectWarning):
        return modality_report(model, blocks, y, n_bootstrap=100, groups=np.arange(400) // 4)


def test_the_text_says_what_matters(report):
    text = repr(report)
    assert text == report.to_text()
    assert "Classification, 400 rows in 100 groups, 3 modalities; 95% intervals" in text
    assert "- modality 'noise' contributes nothing" in text
    assert re.search(r"image \+ audio \+ noise +400 +0\.\d{3} +0\.\d{3} +0\.\d{3}", text)
    assert re.search(r"audio +2\d\d +1\d\d +0 +0\n", text)
    assert re.search(r"noise +0\.000 \[0\.000, 0\.000\]", text)
    assert max(map(len, text.splitlines())) <= 100


def test_many_modalities_do_not_flood_the_text():
    names = [f"modality {i}, of which the name is {i}" for i in range(5)] + ["tone of\nvoice"]
    model, blocks, y = report_case(dict.fromkeys(names, 0.8), n_rows=60)
    report = _call(model, blocks, y)
    text = report.to_text()
    assert "... and 41 more in .subsets" in text
    assert "all but modality 0, \u2026e name is 0" in text
    assert "all but tone of voice" in text
    assert len(report.subsets) == 64
    assert "... and 41" not in modality_report(*report_case(n_rows=60), n_bootstrap=5).to_text()


def test_shortened_names_stay_apart():
    names = [f"the same start {i} and the same end" for i in range(2)]
    model, blocks, y = report_case(dict.fromkeys([*names, "audio"], 0.8), n_rows=60)
    text = _call(model, blocks, y).to_text()
    assert "the same start \u2026 (no. 1) + audio" in text
    assert "the same start \u2026 (no. 2) + audio" in text


def test_rounding_is_no_contribution():
    class Rounded(EvidenceClassifier):
        def predict_proba(self, X):
            proba = super().predict_proba(X)
            if np.isnan(self.encode(X)["audio"]).all():
                proba[:, 0] -= 1e-9  # towards the wrong class: all rows are of the first
            return proba

    blocks = Blocks({"image": np.zeros((50, 2)), "audio": np.zeros((50, 2))})
    report = modality_report(Rounded(), blocks, ["a"] * 50, n_bootstrap=20)
    assert report.modalities["log_loss_change_low"]["audio"] > 0
    assert not report.modalities["contributes"].any()


def test_json_holds_all_numbers(report, tmp_path):
    report.save(tmp_path / "report.json")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert content == report.to_dict()
    assert content["warnings"] == report.warnings
    assert content["subsets"][3]["modalities"] == ["noise"]
    assert content["subsets"][-1]["log_loss"] == report.subsets["log_loss"].iloc[-1]
    assert content["modalities"][2]["modality"] == "noise"
    assert content["modalities"][2]["contributes"] is False
    assert content["reliability"][0]["accuracy"] is None  # no row is that unsure of two classes
    assert sum(row["count"] for row in content["reliability"]) == 400


def test_text_file_and_unknown_file(report, tmp_path):
    report.save(str(tmp_path / "report.txt"))
    assert (tmp_path / "report.txt").read_text(encoding="utf-8") == report.to_text() + "\n"
    with pytest.raises(ValueError, match=r"path must end in \.html, \.json or \.txt; got 'a\.pdf'"):
        report.save("a.pdf")


def test_the_page_needs_nothing_else_and_is_the_same_each_time(report, tmp_path):
    for name in ("one.html", "two.html"):
        report.save(tmp_path / name)
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "two.html").read_text(encoding="utf-8")
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    assert "&#x27;noise&#x27; contributes nothing" in page
    assert page.index("contributes nothing") < page.index("<table>")
    assert f"{report.subsets['log_loss'].iloc[-1]:.3f}" in page
    assert "All subsets" not in page


def test_names_and_titles_are_escaped(tmp_path):
    name = "<b>image</b> & $x_1$"
    model, blocks, y = report_case({name: 0.0, "audio": 1.0}, n_rows=60)
    report = _call(model, blocks, y)
    report.save(tmp_path / "report.html", title="<script>alert(1)</script>")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for text in (page, report._repr_html_()):
        assert "<b>image" not in text and "<script" not in text
        assert "&lt;b&gt;image&lt;/b&gt; &amp; $x_1$" in text


def test_all_subsets_are_in_the_page_even_where_the_plot_has_few(tmp_path):
    model, blocks, y = report_case(dict.fromkeys("abcdef", 0.8), n_rows=60)
    report = _call(model, blocks, y)
    report.save(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    appendix = page[page.index("All subsets") :]
    assert appendix.count("<tr") == 66  # 64 subsets, the heading and the majority class


def test_the_report_holds_numbers_only(report):
    again = pickle.loads(pickle.dumps(report))
    pd.testing.assert_frame_equal(again.modalities, report.modalities)
    assert again.to_text() == report.to_text()
    html = report._repr_html_()
    assert "contributes nothing" in html and "<img" not in html


def test_the_report_loads_no_encoder_no_head_and_no_matplotlib():
    code = (
        "import sys, mmfuse.report.modality_report, mmfuse.plotting, mmfuse.metrics;"
        "bad = [m for m in sys.modules if m.startswith(('mmfuse.encoders', 'mmfuse.heads', "
        "'matplotlib', 'mmfuse.estimators'))];"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mmfuse.ModalityReport is type(modality_report(*report_case(n_rows=20), n_bootstrap=5))


def test_six_modalities_and_a_thousand_rows_are_quick():
    model, blocks, y = report_case(dict.fromkeys("abcdef", 0.8), n_rows=1000, classes=(0, 1, 2))
    start = time.perf_counter()
    modality_report(model, blocks, y)
    assert time.perf_counter() - start < 5.0
