"""Text-centric fusion: the paper's structure, part by part, and absence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from mmfuse import Blocks, FusionClassifier, FusionRegressor
from mmfuse.heads import EarlyFusion, TextCentricFusion
from mmfuse.heads.text_centric import ChunkProjector, CrossModalConnector
from mmfuse.metrics import log_loss
from mmfuse.objectives import Squared
from tests.data import data_folder
from tests.samples import two_views

DIMS = {"audio": 5, "text": 7, "video": 3}
TINY = {"projection": 8, "hidden": 8, "n_members": 4}


def built(dims=DIMS, n_outputs: int = 2, anchor: str | None = "text", **params):
    torch.manual_seed(0)
    head = TextCentricFusion(anchor, **{**TINY, **params})
    head.check_parameters(dims, Squared(1))
    return head.build(dims, n_outputs, "regression").eval()


def rows(dims=DIMS, n: int = 6):
    generator = torch.Generator().manual_seed(1)
    blocks = {name: torch.randn(n, d, generator=generator) for name, d in dims.items()}
    return blocks, torch.ones(n, len(dims), dtype=torch.bool)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_papers_sizes_give_the_papers_parameters() -> None:
    module = built(dict.fromkeys(DIMS, 4096), 1, projection=512, hidden=256, n_members=32)
    assert [count(p) for p in module.projectors] == [1_187_457, 1_187_457]
    assert count(module.anchor_source) == 1_187_457
    assert count(module.anchor_stream) == 560_961
    assert [count(c) for c in module.connectors] == [460_288, 460_288]
    assert count(module.enhancer) == 395_523
    assert count(module.members) == 1_185_824
    assert count(module) == 6_625_255


@torch.no_grad()
def test_gates_and_head_weights_are_shares() -> None:
    blocks, presence = rows()
    presence[0, 0] = presence[1, 2] = presence[2, 0] = presence[2, 2] = False
    extras = built()(blocks, presence).extras
    assert list(extras["gates"]) == ["audio", "video", "text"]
    gates = torch.stack(list(extras["gates"].values()), dim=1)
    torch.testing.assert_close(gates.sum(dim=1), torch.ones(6))
    assert (gates >= 0).all()
    torch.testing.assert_close(gates[2], torch.tensor([0.0, 0.0, 1.0]))
    assert gates[0, 0] == 0 and gates[1, 1] == 0
    for weight in extras["head_weights"].values():
        torch.testing.assert_close(weight.sum(dim=1), torch.ones(6))


@torch.no_grad()
def test_mean_of_the_ensemble_errs_no_more_than_its_members() -> None:
    blocks, presence = rows(n=40)
    output = built()(blocks, presence)
    target = torch.randn(40, 2)
    members = output.extras["members"]
    assert members.shape == (40, 4, 2)
    torch.testing.assert_close(output.scores, members.mean(dim=1))
    mean_error = (members - target[:, None]).square().mean()
    assert (output.scores - target).square().mean() < mean_error


@torch.no_grad()
@pytest.mark.parametrize(("width", "n_chunks"), [(12, 4), (13, 4), (3, 8), (50, 5)])
def test_a_chunk_changes_its_own_slice_only(width: int, n_chunks: int) -> None:
    projector = ChunkProjector(width, 16, n_chunks=n_chunks, dropout=0.0)
    assert sum(projector.widths) == width and 16 % projector.n_chunks == 0
    assert max(projector.widths) - min(projector.widths) <= 1
    x, present = torch.randn(5, width), torch.ones(5, dtype=torch.bool)
    changed = x.clone()
    changed[:, : projector.widths[0]] += 1.0
    moved = (projector(x, present) != projector(changed, present)).any(dim=0)
    size = 16 // projector.n_chunks
    assert moved[:size].all() and not moved[size:].any()


def test_wide_blocks_have_more_chunks_and_no_divisibility_trap() -> None:
    found = {
        width: ChunkProjector(width, 512, n_chunks="auto", dropout=0.0).n_chunks
        for width in (1000, 1024, 2049, 4096, 8192)
    }
    assert found == {1000: 1, 1024: 2, 2049: 4, 4096: 8, 8192: 16}
    wide = ChunkProjector(20_481, 512, n_chunks="auto", dropout=0.0)
    assert wide.n_chunks == 32  # the published 40 do not divide 512


@torch.no_grad()
def test_a_closed_gate_leaves_the_prompts() -> None:
    projector = ChunkProjector(6, 8, n_chunks=2, dropout=0.0)
    x = torch.randn(4, 6)
    absent = projector(x, torch.zeros(4, dtype=torch.bool))
    projector.gate.weight.zero_()
    projector.gate.bias.fill_(-200.0)
    closed = projector(x, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(closed, absent)
    expected = projector.prompt.reshape(1, -1).expand(4, -1) + projector.offset
    torch.testing.assert_close(absent, expected)


@torch.no_grad()
def test_connector_is_softmax_over_heads() -> None:
    """The same number, written as a loop over rows and heads."""
    connector = CrossModalConnector(6, 8, 4, 0.0).eval()
    other, anchor = torch.randn(3, 6), torch.randn(3, 6)
    answer, weight = connector(other, anchor)
    for i in range(3):
        q, k, v = connector.query(other[i]), connector.key(anchor[i]), connector.value(anchor[i])
        scores = [float(q[2 * h : 2 * h + 2] @ k[2 * h : 2 * h + 2]) / 2**0.5 for h in range(4)]
        share = torch.softmax(torch.tensor(scores), dim=0)
        torch.testing.assert_close(weight[i], share)
        context = torch.cat([share[h] * v[2 * h : 2 * h + 2] for h in range(4)])
        torch.testing.assert_close(answer[i], connector.norm(connector.out(context)))


@torch.no_grad()
def test_anchor_alone_needs_no_other_branch() -> None:
    module = built()
    blocks, presence = rows()
    presence[:, [0, 2]] = False
    before = module(blocks, presence).scores
    for part in (*module.projectors, *module.connectors, module.anchor_source):
        for parameter in part.parameters():
            parameter.add_(torch.randn_like(parameter))
    for turn in module.enhancer.turn[:-1]:
        turn.weight.add_(1.0)
    blocks["audio"] = blocks["audio"] + 1e3
    torch.testing.assert_close(module(blocks, presence).scores, before, rtol=0, atol=0)


@torch.no_grad()
def test_an_absent_anchor_still_lets_the_others_speak() -> None:
    module = built()
    blocks, presence = rows()
    presence[:, 1] = False
    before = module(blocks, presence).scores
    blocks["text"] = blocks["text"] + 5.0
    torch.testing.assert_close(module(blocks, presence).scores, before)
    blocks["audio"] = blocks["audio"] + 5.0
    assert (module(blocks, presence).scores != before).all()


def test_rows_without_the_anchor_have_a_network_of_their_own() -> None:
    X, y = two_views(60, absent=0.2)
    head = TextCentricFusion("a", **TINY, max_epochs=3)
    model = FusionClassifier(head, random_state=0).fit(X, y)
    before = model.predict_proba(X.hide("a")), model.predict_proba(X)
    with torch.no_grad():
        for parameter in model.head_.main.parameters():
            parameter.add_(1.0)
    np.testing.assert_array_equal(model.predict_proba(X.hide("a")), before[0])
    here = X.presence[:, 0] == 1
    after = model.predict_proba(X)
    assert (after[here] != before[1][here]).any(axis=1).all()
    np.testing.assert_array_equal(after[~here], before[1][~here])
    assert {"epochs", "without_anchor"} <= set(model.history_)


def test_rows_without_text_are_answered_as_well_as_by_a_network_over_the_rest() -> None:
    """Film reviews on video, 220 of 300 without text: log loss 0.84 in five folds; it was 0.92."""
    folder = data_folder("sequences_av_text")
    full, bare = (np.load(folder / f"mmmo_{part}.npz") for part in ("atv", "train_av"))
    views = {
        name: np.concatenate([full[name].mean(axis=1), bare[name].mean(axis=1)])
        for name in ("audio", "video")
    }
    gap = np.full((len(bare["label"]), full["text"].shape[2]), np.nan)
    views["text"] = np.concatenate([full["text"].mean(axis=1), gap])
    score = np.concatenate([full["label"], bare["label"]])
    y = (score > 2).astype(int) + (score >= 4)
    test = np.arange(len(y)) % 3 == 0
    train, rest = Blocks(views)[~test], Blocks(views)[test].hide("text")
    model = FusionClassifier(TextCentricFusion("text", max_epochs=30), random_state=0)
    network = FusionClassifier(EarlyFusion("mlp"), random_state=0)
    model.fit(train, y[~test])
    network.fit(train.select(["audio", "video"]), y[~test])
    rivals = model.predict_proba(rest), network.predict_proba(rest.select(["audio", "video"]))
    ours, theirs = (log_loss(y[test], p, classes=np.arange(3)) for p in rivals)
    assert ours < theirs + 0.02
    assert ours < log_loss(y[test], np.tile(model.prior_, (100, 1)), classes=np.arange(3)) - 0.05


def test_any_anchor_and_any_number_of_others() -> None:
    X, y = two_views(60)
    tables = [{"b": X["b"]}, {"a": X["a"], "b": X["b"]}]
    tables.append({**tables[1], "c": X["a"][:, :1], "d": X["b"][:, :2]})
    for table in tables:
        for anchor in (None, "b"):
            head = TextCentricFusion(anchor, **TINY, max_epochs=2)
            model = FusionClassifier(head, random_state=0).fit(table, y)
            assert model.head_.anchor == (anchor or next(iter(table)))
            assert model.fusion_head_.anchor == anchor
            assert np.isfinite(model.predict_proba({"b": X["b"]})).all()


def test_fits_few_rows_exactly_without_dropout() -> None:
    rng = np.random.default_rng(0)
    X = {"text": rng.normal(size=(64, 6)), "audio": rng.normal(size=(64, 4))}
    y = rng.normal(size=64)
    off = dict.fromkeys(("projector_dropout", "connector_dropout", "enhancer_dropout"), 0.0)
    head = TextCentricFusion("text", **off, modality_dropout=0.0, weight_decay=0.0, max_epochs=150)
    head.set_params(learning_rate=3e-3)
    one_group = np.zeros(64)  # no fold exists, so that every epoch is used
    with pytest.warns(UserWarning, match="one group"):
        model = FusionRegressor(head, random_state=0).fit(X, y, groups=one_group)
    assert model.score(X, y) > 0.98


def test_constant_others_do_little_harm() -> None:
    """The text-centric property: others that say nothing leave the anchor's answer."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(300, 6))
    y = text[:, 0] - text[:, 1] + 0.3 * rng.normal(size=300)
    zeros = np.zeros((300, 3))
    scores = []
    for table in ({"text": text}, {"text": text, "audio": zeros, "video": zeros}):
        head = TextCentricFusion("text", **TINY, learning_rate=0.01, max_epochs=40)
        train = {name: block[:200] for name, block in table.items()}
        model = FusionRegressor(head, random_state=0).fit(train, y[:200])
        scores.append(model.score({name: block[200:] for name, block in table.items()}, y[200:]))
    assert scores[1] > scores[0] - 0.1 > 0.5


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"anchor": "words"}, "anchor must be one of the modalities a, b, or None.*got 'words'"),
        ({"hidden": 10, "n_heads": 4}, "n_heads must divide hidden; got 4 and 10"),
        ({"projection": 0}, "projection must be an integer from 1 on; got 0"),
        ({"n_members": 1.5}, "n_members must be an integer"),
        ({"connector_dropout": 1.0}, r"connector_dropout must be in \[0, 1\)"),
        ({"n_chunks": "many"}, "n_chunks must be 'auto' or an integer"),
    ],
)
def test_bad_parameters_are_named(params: dict, message: str) -> None:
    X, y = two_views(30)
    with pytest.raises(ValueError, match=message):
        FusionClassifier(TextCentricFusion(**params)).fit(X, y)
