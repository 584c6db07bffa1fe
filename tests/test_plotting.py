"""Displays: what is drawn is what was measured, and nothing overlaps."""

from __future__ import annotations

import re
import sys
import warnings
from itertools import combinations

import numpy as np
import pytest
from report_models import EvidenceClassifier, SumRegressor, class_evidence

from mmfuse import Blocks, modality_report
from mmfuse.exceptions import ModalityNeglectWarning
from mmfuse.metrics import expected_calibration_error, reliability_curve
from mmfuse.plotting import ModalityReportDisplay, ReliabilityDisplay

pytestmark = pytest.mark.filterwarnings("ignore::mmfuse.exceptions.ModalityNeglectWarning")

LONG = "a very long modality name number {} with $math_{{x}}$ and\na line break"


@pytest.fixture
def pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")
    yield pyplot
    pyplot.close("all")


def _report(n_modalities=3, name="m{}", n_rows=200):
    strengths = {name.format(i): 0.6 * i for i in range(n_modalities)}  # the first is noise
    blocks, y = class_evidence(n_rows, strengths, n_classes=3)
    model = EvidenceClassifier(tuple(strengths), classes=(0, 1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)
        return modality_report(model, blocks, y, n_bootstrap=50)


def _regression_report():
    rng = np.random.default_rng(0)
    blocks = Blocks({name: rng.normal(size=(80, 1)) for name in ("image", "audio")})
    y = blocks["image"][:, 0] + blocks["audio"][:, 0] + 0.1 * rng.normal(size=80)
    return modality_report(SumRegressor(), blocks, y, n_bootstrap=50)


def test_bars_are_the_scores_of_the_subsets_the_full_set_on_top(pyplot):
    report = _report()
    display = report.plot()
    assert isinstance(display, ModalityReportDisplay)
    assert display.figure_ is display.axes_[0].figure and len(display.axes_) == 6
    for ax, metric in zip(display.axes_[:2], ["log_loss", "accuracy"], strict=True):
        widths = [bar.get_width() for bar in ax.patches]
        assert sorted(widths) == pytest.approx(sorted(report.subsets[metric]))
        assert widths[0] == report.subsets[metric].iloc[-1]
        assert widths[-1] == report.subsets[metric].iloc[0]
    labels = [tick.get_text() for tick in display.axes_[0].get_yticklabels()]
    assert labels[0] == "m0 + m1 + m2" and labels[-1] == "nothing (prior)"


def test_intervals_are_drawn_and_labelled(pyplot):
    report = _report()
    ax = report.plot().axes_[2]
    row = report.modalities.iloc[1]
    ends = [row["log_loss_change_low"], row["log_loss_change_high"]]
    drawn = [line.get_xdata() for line in ax.lines]
    assert any(np.array_equal(x, ends) for x in drawn)
    texts = [text.get_text() for text in ax.texts]
    change = row["log_loss_change"]
    assert texts[1] == f"{change:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
    assert "hollow: contributes nothing" in ax.get_xlabel()


def test_shares_carry_their_percentage(pyplot):
    report = _report()
    ax = report.plot().axes_[4]
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx(list(report.modalities["shapley_log_loss"]))
    percent = report.modalities["shapley_log_loss_percent"].iloc[2]
    assert ax.texts[2].get_text().endswith(f"({percent:.0f}%)")


def test_a_regressor_has_shares_of_r2_in_place_of_the_diagram(pyplot):
    report = _regression_report()
    axes = report.plot().axes_
    assert axes[0].get_title(loc="left") == "RMSE by subset (lower is better)"
    assert axes[5].get_title(loc="left") == "Shapley share: more R\u00b2 than the prior"
    widths = [bar.get_width() for bar in axes[5].patches]
    assert widths == pytest.approx(list(report.modalities["shapley_r2"]))


@pytest.mark.parametrize("n_modalities", [1, 2, 3, 4, 6, 8])
@pytest.mark.parametrize("name", ["m{}", LONG])
def test_nothing_overlaps_and_nothing_leaves_the_page(pyplot, n_modalities, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit is a warning of matplotlib
        display = _report(n_modalities, name, n_rows=60).plot()
        display.figure_.canvas.draw()
    renderer = display.figure_.canvas.get_renderer()
    page = display.figure_.bbox
    boxes = []
    for ax in display.axes_:
        tight = ax.get_tightbbox(renderer)
        assert tight.x0 >= -1 and tight.y0 >= -1
        assert tight.x1 <= page.x1 + 1 and tight.y1 <= page.y1 + 1
        labels = [*ax.texts, *ax.get_yticklabels(), *ax.get_xticklabels()]
        boxes += [label.get_window_extent(renderer) for label in labels if label.get_text()]
    for one, two in combinations(boxes, 2):
        width = min(one.x1, two.x1) - max(one.x0, two.x0)
        height = min(one.y1, two.y1) - max(one.y0, two.y0)
        assert min(width, height) <= 1.0, "two labels cover each other"


@pytest.mark.parametrize("n_modalities, expected", [(4, 16), (5, 18), (6, 23), (8, 28)])
def test_more_than_31_subsets_are_thinned_by_size(pyplot, n_modalities, expected):
    report = _report(n_modalities, n_rows=60)
    ax = report.plot().axes_[0]
    widths = [bar.get_width() for bar in ax.patches]
    assert len(widths) == expected
    sizes = report.subsets["n_modalities"]
    for size in (0, 1, n_modalities - 1, n_modalities):
        kept = report.subsets["log_loss"][sizes == size]
        assert set(kept) <= set(widths)
    best = report.subsets["log_loss"][sizes == 2].min()
    assert best in widths


def test_rounding_errors_and_missing_scores_are_drawn_quietly(pyplot):
    blocks = Blocks({"image": np.full((6, 1), 1e-15), "audio": np.zeros((6, 1))})
    model = SumRegressor(prior=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModalityNeglectWarning)
        report = modality_report(model, blocks, np.full(6, 2.0), n_bootstrap=20)  # no R2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = report.plot()
        display.figure_.canvas.draw()
    assert display.axes_[2].get_xlim() == (-1e-3, 1e-3)
    assert [text.get_text() for text in display.axes_[1].texts] == ["n/a"] * 4


def test_axes_of_the_caller_are_used_and_counted(pyplot):
    report = _report()
    _, axes = pyplot.subplots(2, 3)
    display = report.plot(axes)
    assert list(display.axes_) == list(axes.ravel())
    with pytest.raises(ValueError, match="axes must hold six axes; got 4"):
        report.plot(pyplot.subplots(2, 2)[1])


def test_figures_for_the_page_stay_out_of_pyplot(pyplot):
    made = ModalityReportDisplay(_report()).figures()
    assert list(made) == ["subsets", "removal", "shares"]
    assert pyplot.get_fignums() == []


def test_reliability_display_shows_the_curve(pyplot):
    blocks, y = class_evidence(500, {"image": 1.0}, n_classes=3)
    model = EvidenceClassifier(("image",), classes=(0, 1, 2))
    proba = model.predict_proba(blocks)
    curve = reliability_curve(y, proba, n_bins=8, strategy="mass")
    options = {"n_bins": 8, "strategy": "mass"}
    ece = expected_calibration_error(y, proba, **options)
    bins = {name: getattr(curve, name) for name in ("confidence", "accuracy", "weight")}
    for display in (
        ReliabilityDisplay.from_estimator(model, blocks, y, **options),
        ReliabilityDisplay.from_predictions(y, proba, **options),
        ReliabilityDisplay(**bins).plot(),
    ):
        filled = curve.count > 0
        np.testing.assert_allclose(display.line_.get_xdata(), curve.confidence[filled])
        np.testing.assert_allclose(display.line_.get_ydata(), curve.accuracy[filled])
        assert display.ece == pytest.approx(ece)
        assert f"ECE {ece:.3f}" in display.ax_.get_title(loc="left")
        shares = [bar.get_height() for bar in display.ax_.patches]
        assert sum(shares) == pytest.approx(1.0)


def test_reliability_display_draws_where_it_is_told(pyplot):
    figure, ax = pyplot.subplots()
    display = ReliabilityDisplay.from_predictions([0, 1], [[0.9, 0.1], [0.4, 0.6]], ax=ax)
    assert display.ax_ is ax and display.figure_ is figure


def test_reliability_display_needs_probabilities():
    with pytest.raises(TypeError, match="needs a classifier with predict_proba; got SumRegressor"):
        ReliabilityDisplay.from_estimator(SumRegressor(), None, [0])


class _NoMatplotlib:
    """Finds modules as if matplotlib had never been installed."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def test_without_matplotlib_the_cure_is_named(monkeypatch, tmp_path):
    report = _report(2)
    for module in [m for m in sys.modules if m.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [_NoMatplotlib(), *sys.meta_path])
    cure = re.escape("needs the package 'matplotlib', which is not installed. Install it with: pip")
    with pytest.raises(ModuleNotFoundError, match=f"ModalityReportDisplay.plot {cure}"):
        report.plot()
    with pytest.raises(ModuleNotFoundError, match=f"ModalityReport.save {cure}"):
        report.save(tmp_path / "report.html")
    with pytest.raises(ModuleNotFoundError, match=f"ReliabilityDisplay.plot {cure}"):
        ReliabilityDisplay.from_predictions([0, 1], [[0.9, 0.1], [0.4, 0.6]])
    report.save(tmp_path / "report.json")
    assert report.to_text() and report._repr_html_()
