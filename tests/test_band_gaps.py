"""add_instrument_gaps: copies of rows without an instrument, and what they are good for."""

from __future__ import annotations

import numpy as np
import pytest

from mmfuse import FusionClassifier, ModalityTable
from mmfuse.encoders import MultiBandEncoder, add_instrument_gaps
from mmfuse.exceptions import SampleError
from mmfuse.heads import EarlyFusion

SPEC = {
    "a": {"bands": ["g", "r"], "pixel_scale": 1.0, "noise": 1.0},
    "b": {"bands": ["z"], "pixel_scale": 2.0, "noise": 1.0},
}
ENCODER = MultiBandEncoder(SPEC, fusion="early", cache=False, device="cpu")


def cell(brightness: float = 5.0, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    blob = np.exp(-(np.add.outer(np.linspace(-2, 2, 12) ** 2, np.linspace(-2, 2, 12) ** 2)))
    coarse = blob.reshape(6, 2, 6, 2).sum(axis=(1, 3))
    return {
        "a": brightness * blob + rng.normal(size=(2, 12, 12)),
        "b": brightness * coarse + rng.normal(size=(1, 6, 6)),
    }


def gappy() -> ModalityTable:
    cells = [cell(seed=0), {"a": cell()["a"]}, cell(seed=2), None, {**cell(), "a": None}]
    return ModalityTable(
        {"cutout": cells, "note": ["one", "two", None, "four", "five"]}, ids=list("vwxyz")
    )


def test_each_instrument_is_taken_from_the_rows_that_have_another():
    X = gappy()
    found = add_instrument_gaps(X, "cutout", ENCODER)
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 0, 2, 0, 2]
    assert found.groups.tolist() == found.rows.tolist()
    assert found.removed.tolist() == [None] * 5 + ["a", "a", "b", "b"]
    assert [sorted(one) for one in found.X["cutout"][5:]] == [["b"], ["b"], ["a"], ["a"]]
    assert found.X["cutout"][7]["a"] is X["cutout"][0]["a"]
    assert found.X.ids.tolist() == [*"vwxyz", "v without a", "x without a"] + [
        "v without b",
        "x without b",
    ]
    np.testing.assert_array_equal(found.X.presence, X.presence[found.rows])
    assert found.X["note"][[1, 5]].tolist() == ["two", "one"]
    assert X["cutout"][0].keys() == {"a", "b"}  # the original is not changed


def test_groups_of_rows_take_their_copies():
    found = add_instrument_gaps(gappy(), "cutout", ENCODER, groups=["p", "p", "q", "q", "r"])
    assert "".join(found.groups) == "ppqqrpqpq"


def test_a_share_of_the_rows_is_chosen_by_seed():
    X = ModalityTable({"cutout": [cell(seed=i) for i in range(20)]})

    def copied(**options) -> list[int]:
        return add_instrument_gaps(X, "cutout", ENCODER, **options).rows[20:].tolist()

    some = copied(share=0.25)
    assert len(some) == 10 and some == copied(share=0.25)
    assert some != copied(share=0.25, random_state=1)
    assert len(copied(share=1e-6)) == 2  # one of each instrument


def test_a_file_that_several_share_is_opened_to_see_what_it_holds(tmp_path):
    both, half = cell(seed=1), cell(seed=2)
    np.savez(tmp_path / "both.npz", **both)
    np.savez(tmp_path / "half.npz", a=half["a"])
    X = ModalityTable({"cutout": [tmp_path / "both.npz", tmp_path / "half.npz"]})
    found = add_instrument_gaps(X, "cutout", ENCODER)
    assert found.rows.tolist() == [0, 1, 0, 0]
    encoder = MultiBandEncoder(SPEC, fusion="early", cache=False, device="cpu").fit([both])
    values = encoder.transform(list(found.X["cutout"]))
    expected = encoder.transform([both, {"a": half["a"]}, {"b": both["b"]}, {"a": both["a"]}])
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_a_model_of_one_block_learns_to_do_without_an_instrument():
    y = np.arange(120) % 2
    rng = np.random.default_rng(0)
    level = np.where(y == 1, 6.0, 3.0) + rng.normal(size=120)
    cells = [cell(level[i], seed=i) for i in range(120)]
    train, test = np.arange(80), np.arange(80, 120)
    X = ModalityTable({"cutout": [cells[i] for i in train]})
    held = ModalityTable({"cutout": [{"b": cells[i]["b"]} for i in test]})
    plain = FusionClassifier(EarlyFusion(), encoders={"cutout": ENCODER}, cv=3, random_state=0)
    copies = add_instrument_gaps(X, "cutout", ENCODER)
    complete = plain.fit(X, y[train]).score(held, y[test])
    gaps = plain.fit(copies.X, y[train][copies.rows], groups=copies.groups).score(held, y[test])
    assert gaps >= 0.8 and gaps >= complete


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"X": [cell()]}, TypeError, r"X must be a ModalityTable, got list; make one"),
        ({"modality": "image"}, ValueError, r"modality must be one of cutout, note, got 'image'"),
        (
            {"encoder": MultiBandEncoder({"bands": ["g"]})},
            ValueError,
            r"encoder must have several instruments, got one; a row without",
        ),
        ({"share": 0}, ValueError, r"share must be a number above 0 and at most 1, got 0"),
        ({"share": True}, ValueError, r"share must be a number above 0 .* got True"),
        ({"groups": [1, 2]}, ValueError, r"groups must have one entry per row, got shape \(2,\)"),
        (
            {"X": ModalityTable({"cutout": [{"c": cell()["a"]}]})},
            SampleError,
            r"cutout, row 0: there is no instrument 'c'; instruments: 'a', 'b'",
        ),
    ],
)
def test_what_is_refused(change, error, message):
    given = {"X": gappy(), "modality": "cutout", "encoder": ENCODER, **change}
    with pytest.raises(error, match=message):
        add_instrument_gaps(given.pop("X"), given.pop("modality"), given.pop("encoder"), **given)
