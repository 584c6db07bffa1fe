"""NumericEncoder on clinical tables: units, order, codes for missing, unseen categories."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmfuse
from mmfuse import FusionClassifier, ModalityTable, Presence
from mmfuse.encoders import NumericEncoder
from mmfuse.exceptions import EncodingError
from mmfuse.heads import EarlyFusion

NAN = np.nan


def column(name: str, *cells) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(cells, dtype=object)})


def in_unit(unit: str, *cells, **params) -> list[float]:
    """The cells as numbers in one unit."""
    table = column("x", *cells)
    return NumericEncoder(units={"x": unit}, **params).fit_transform(table)[:, 0].tolist()


# -- units ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "cells", "expected"),
    [
        ("cm", ["172 cm", "1.72 m", "172", 172, "5 ft 8 in", "68 inches", "172CM"],
         [172] * 4 + [172.72] * 2 + [172]),
        ("kg", ["70 kg", "70000 g", "154.3236 lb", "154.3236 lbs", " 7e1kg "], [70] * 5),
        ("degC", ["37", "98.6 °F", "98.6 F", "37 C", "310.15 K"], [37] * 5),
        ("kPa", ["120 mmHg", "120 mm Hg", "120 mmhg"], [15.9987] * 3),
        ("1/min", ["72 bpm", "72 beats/min", "1.2 Hz"], [72] * 3),
        ("months", ["2 y 3 mo", "27 months", "2.25 years"], [27] * 3),
        ("10^9/L", ["7.1 10^9/L", "7.1 x10^9/L", "7100 /uL", "7100 cells/uL"], [7.1] * 4),
        ("kg/m2", ["22 kg/m^2", "22 kg/m²"], [22, 22]),
        ("mL/min/1.73m2", ["90 mL/min/1.73 m²", "1.5 mL/s/1.73m2"], [90, 90]),
        ("ug/mL", ["3 mcg/mL", "3 µg/mL", "3 mg/L"], [3, 3, 3]),
        ("IU/L", ["4 mIU/mL"], [4]),
        ("%", ["41 %", "41%", "41"], [41] * 3),
    ],
)  # fmt: skip
def test_cells_are_converted(unit, cells, expected):
    pytest.importorskip("pint")
    np.testing.assert_allclose(in_unit(unit, *cells), expected, rtol=1e-5)


def test_mass_and_amount_need_a_molar_mass():
    pytest.importorskip("pint")
    glucose = {"molar_masses": {"x": 180.156}}
    np.testing.assert_allclose(in_unit("mmol/L", "90 mg/dL", "5", **glucose), [4.99567, 5], 1e-5)
    with pytest.raises(
        EncodingError,
        match="'mg/dL' .*cannot be converted to 'mmol/L'; give the "
        "substance's g/mol in molar_masses",
    ):
        in_unit("mmol/L", "90 mg/dL")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("12 kg", r"'kg' \(kilogram\) cannot be converted to 'cm'"),
        ("172 zz", "the unit 'zz' is unknown"),
        ("<5 cm", "is not a number, alone or with a unit such as cm"),
        ("1,72 m", "the unit ',' is unknown|the unit ',72 m' is unknown"),
        ("170/172 cm", "the unit '/172 cm' is unknown|the unit '/' is unknown"),
        ("170-172 cm", "the unit '-172 cm' is unknown|the unit '-' is unknown"),
        ("1 2 cm", "the unit '2 cm' is unknown"),
        ("172 cm 3", "the unit 'cm 3' is unknown"),
        ("tall", "is not a number"),
    ],
)
def test_a_cell_that_is_no_quantity_names_row_and_column(cell, says):
    pytest.importorskip("pint")
    table = column("height", "170", cell)
    encoder = NumericEncoder(units={"height": "cm"}).fit(table)
    where = rf"vitals, row 1: column 'height', cell '{cell}': "
    with pytest.raises(EncodingError, match=f"{where}.*(?:{says}).*; correct the value, or use"):
        encoder.encode(table, name="vitals")
    encoder.set_params(on_error="mark")
    with pytest.warns(UserWarning, match="1 of 2 cells"):
        assert encoder.encode(table).presence.tolist() == [1, Presence.FAILED]


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 1e4), st.sampled_from(["m", "cm", "mm", "km", "inch", "ft"]))
def test_a_conversion_keeps_the_quantity(value, unit):
    pint = pytest.importorskip("pint")
    expected = pint.Quantity(value, unit).to("cm").magnitude
    assert in_unit("cm", f"{value!r} {unit}")[0] == pytest.approx(expected, rel=1e-6)


def test_units_are_in_names_and_state():
    pytest.importorskip("pint")
    table = pd.DataFrame({"height": ["1.7 m", None], "age": [3, 4]})
    encoder = NumericEncoder(units={"height": "cm"}, missing_indicators=True).fit(table)
    names = ["numeric_height_cm", "numeric_height_missing", "numeric_age", "numeric_age_missing"]
    assert list(encoder.get_feature_names_out()) == names
    other = NumericEncoder(**encoder.get_params()).set_state(
        json.loads(json.dumps(encoder.get_state()))
    )
    np.testing.assert_array_equal(other.transform(table), encoder.transform(table))
    np.testing.assert_allclose(encoder.transform(table), [[170, 0, 3, 0], [NAN, 1, 4, 0]])


def test_without_pint_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pint", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mmfuse\[units\]'"):
        NumericEncoder(units={"x": "cm"}).fit(column("x", "1 cm"))
    NumericEncoder().fit(column("x", 1))


# -- categories ----------------------------------------------------------------------------------


def stages(*cells, **params) -> tuple[list[str], np.ndarray]:
    encoder = NumericEncoder(categories={"stage": ["I", "II", "III"]}, ordered=["stage"], **params)
    encoder.fit(column("stage", "I"))
    return list(encoder.get_feature_names_out()), encoder.transform(column("stage", *cells))


def test_ordered_categories_are_steps():
    names, values = stages("I", "II", "III", None, "IV")
    assert names == ["numeric_stage>=II", "numeric_stage>=III", "numeric_stage_unknown"]
    expected = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [NAN] * 3, [NAN, NAN, 1]]
    np.testing.assert_array_equal(values, np.array(expected, np.float32))


def test_an_ordered_type_is_enough():
    kind = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    table = pd.DataFrame({"risk": pd.Series(["high", "low"], dtype=kind)})
    encoder = NumericEncoder().fit(table)
    assert encoder.transform(table).tolist() == [[1, 1, 0], [0, 0, 0]]
    assert NumericEncoder(ordered=()).fit(table).n_features_out_ == 4
    again = NumericEncoder().set_state(encoder.get_state())
    assert again.transform(table).tolist() == [[1, 1, 0], [0, 0, 0]]


def test_unseen_categories_as_missing_or_as_an_error():
    names, values = stages("II", "IV", unseen="missing")
    assert names == ["numeric_stage>=II", "numeric_stage>=III"]
    np.testing.assert_array_equal(values, np.array([[1, 0], [NAN, NAN]], np.float32))
    table = column("sex", "f", "m")
    missing = NumericEncoder(unseen="missing").fit(table)
    assert np.isnan(missing.transform(column("sex", "x"))).all()
    strict = NumericEncoder(unseen="error").fit(table)
    assert strict.transform(table).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(
        EncodingError,
        match=r"row 1: column 'sex': the category 'x' was not there "
        r"in fit, which saw \['f', 'm'\]; correct the value, or use on_error",
    ):
        strict.transform(column("sex", "f", "x"))
    strict.set_params(on_error="mark")
    with pytest.warns(UserWarning, match="1 of 2 cells"):
        assert strict.encode(column("sex", "f", "x")).presence.tolist() == [1, 2]


# -- missing -------------------------------------------------------------------------------------


def test_codes_that_stand_for_missing():
    table = pd.DataFrame(
        {
            "age": [31, -9, 999, 40],
            "dose": ["1.5", "-9", "NK", 2],
            "flag": [True, False, True, None],
            "sex": pd.Categorical(["f", "NK", "m", " NK "]),
        }
    )
    encoder = NumericEncoder(missing_codes=[-9, 999, "NK"], missing_indicators=True)
    encoder.fit(table.assign(dose=[1.5, 2, 3, 4.0]))
    frame = pd.DataFrame(encoder.transform(table), columns=encoder.get_feature_names_out())
    np.testing.assert_array_equal(frame["numeric_age"], [31, NAN, NAN, 40])
    np.testing.assert_array_equal(frame["numeric_age_missing"], [0, 1, 1, 0])
    np.testing.assert_array_equal(frame["numeric_dose"], [1.5, NAN, NAN, 2])
    np.testing.assert_array_equal(frame["numeric_sex_f"], [1, NAN, 0, NAN])
    np.testing.assert_array_equal(frame["numeric_flag"], [1, 0, 1, NAN])


def test_codes_make_a_column_of_numbers_and_a_row_absent():
    table = pd.DataFrame({"a": ["NK", 2, 3], "b": [-9, 1.0, -9]})
    encoder = NumericEncoder(missing_codes={"a": ["NK"], "b": [-9]}, missing_indicators=True)
    encoded = encoder.fit(table).encode(table)
    assert list(encoder.get_feature_names_out())[0::2] == ["numeric_a", "numeric_b"]
    assert encoded.presence.tolist() == [0, 1, 1]
    expected = np.array([[NAN] * 4, [2, 0, 1, 0], [3, 0, NAN, 1]], np.float32)
    np.testing.assert_array_equal(encoded.values, expected)


def test_a_code_of_one_is_not_true():
    table = pd.DataFrame({"x": pd.Series([True, 1, 2], dtype=object), "y": [True, False, True]})
    values = NumericEncoder(missing_codes=[1]).fit_transform(table)
    np.testing.assert_array_equal(values, np.array([[1, 1], [NAN, 0], [2, 1]], np.float32))


def test_integers_of_pandas_keep_their_gaps():
    table = pd.DataFrame({"x": pd.array([1, None, -9], dtype="Int64")})
    encoded = NumericEncoder(missing_codes=[-9]).fit(table).encode(table)
    assert encoded.presence.tolist() == [1, 0, 0]


def test_cells_that_are_series_or_frames():
    table = pd.DataFrame({"age": [31, 42], "sex": ["f", "m"]})
    encoder = NumericEncoder().fit(table)
    cells = [table.iloc[0], table.iloc[[1]], table.iloc[:0]]
    encoded = encoder.encode(cells)
    assert encoded.presence.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(encoded.values[:2], encoder.transform(table))
    with pytest.raises(ValueError, match="a DataFrame must have one row, got 2"):
        encoder.encode([table])


# -- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "error", "says"),
    [
        ({"ordered": "x"}, ValueError, "ordered must be 'auto' or a sequence of column names"),
        ({"ordered": ["z"]}, ValueError, r"ordered names \['z'\], but the columns are \['x', 's'"),
        ({"ordered": ["s"]}, ValueError, "'s', whose order is not known; list its categories"),
        ({"ordered": ["x"]}, ValueError, "'x', whose order is not known|'x', which holds numbers"),
        ({"units": ["cm"]}, TypeError, "units must be None or a dict"),
        ({"molar_masses": {"x": -1}}, ValueError, "positive numbers in g/mol"),
        ({"molar_masses": {"x": 1}}, ValueError, r"molar_masses names \['x'\], which have no unit"),
        ({"missing_codes": "NK"}, ValueError, "missing_codes must be a sequence of finite numbers"),
        ({"missing_codes": {"x": 9}}, ValueError, "missing_codes of 'x' must be a sequence"),
        ({"missing_codes": [NAN]}, ValueError, "must be a sequence of finite numbers"),
        ({"missing_codes": [1], "categories": {"x": [1, 2]}}, ValueError, "stand in missing_codes"),
        ({"missing_codes": {"z": [1]}}, ValueError, r"missing_codes names \['z'\]"),
        ({"unseen": "drop"}, ValueError, "unseen must be one of 'indicator', 'missing', 'error'"),
        ({"missing_indicators": 1}, TypeError, "missing_indicators must be True or False"),
    ],
)  # fmt: skip
def test_bad_arguments(params, error, says):
    with pytest.raises(error, match=says):
        NumericEncoder(**params).fit(pd.DataFrame({"x": [1, 2], "s": ["a", "b"]}))


def test_bad_units():
    pytest.importorskip("pint")
    table = pd.DataFrame({"x": [1, 2]})
    for unit in ("foo/L", "", "3 cm"):
        with pytest.raises(ValueError, match=f"units gives column 'x' the unit '{unit}', which"):
            NumericEncoder(units={"x": unit}).fit(table)
    with pytest.raises(ValueError, match="stand in units and in categories"):
        NumericEncoder(units={"x": "cm"}, categories={"x": [1, 2]}).fit(table)


def test_in_a_saved_model(tmp_path):
    pytest.importorskip("pint")
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    table = pd.DataFrame(
        {
            "height": [f"{1.6 + 0.2 * label + 0.02 * rng.normal():.3f} m" for label in y],
            "stage": pd.Categorical(rng.choice(["I", "II"], 60), ["I", "II"], ordered=True),
            "age": rng.choice([30, 40, -9], 60),
        }
    )
    X = ModalityTable({"clinic": table, "noise": rng.normal(size=(60, 2))})
    encoder = NumericEncoder(units={"height": "cm"}, missing_codes=[-9], missing_indicators=True)
    model = FusionClassifier(EarlyFusion(C=1.0), encoders={"clinic": encoder}, random_state=0)
    model.fit(X, y).save(tmp_path / "model")
    assert model.score(X, y) > 0.9
    again = mmfuse.load(tmp_path / "model")
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
