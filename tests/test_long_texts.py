"""SentenceEncoder: windows, statistics, transcripts, prompts and decoders, and calls by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from data import data_folder

import mmfuse
from mmfuse import FusionClassifier, Presence, weights
from mmfuse.encoders import SentenceEncoder
from mmfuse.encoders._transcripts import read_units
from mmfuse.encoders._windows import cut_text, sentence_spans, split_text
from mmfuse.exceptions import EncodingError, SampleError, WeightsNotFoundError

TALK = [
    ("Interviewer", "How have you been?"),
    ("Participant", "I have not slept for three nights."),
    ("Interviewer", "Why is that?"),
    ("Participant", "The stock market fell. I worry."),
]
KEPT = [TALK[1][1], TALK[3][1]]


def encoder(**params) -> SentenceEncoder:
    return SentenceEncoder(**{"device": "cpu", "cache": False, **params}).fit([])


@pytest.fixture(scope="module")
def by_hand():
    import sentence_transformers as library

    folder = weights.find("all-MiniLM-L6-v2").parent
    return library.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def reviews():
    return pd.read_csv(data_folder("clothing_reviews") / "reviews.csv.gz")["Review Text"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# Windows.


def words(texts) -> list[int]:
    return [len(text.split()) for text in texts]


def test_windows_are_whole_sentences_few_and_even():
    text = "One two three. Four five! Six?  Seven eight nine ten.\nEleven twelve"
    assert [text[a:b] for a, b in sentence_spans(text)] == [
        "One two three.",
        "Four five!",
        "Six?",
        "Seven eight nine ten.",
        "Eleven twelve",
    ]
    assert split_text(text, 12, words) == [text]
    assert split_text(text, 11, words) == [text[:30], text[32:]]  # 6 and 6, not 10 and 2
    assert words(split_text(text, 4, words)) == [3, 3, 4, 2]
    assert split_text(text, 3, words)[2:4] == ["Seven eight", "nine ten."]
    assert split_text("他来了。我走了！好", 3, lambda t: [len(x) for x in t]) == [
        "他来",
        "了。",
        "我走",
        "了！",
        "好",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_windows_hold_all_of_a_text(seed):
    """Whatever the text and the tokens, also those that cross a cut."""
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("abc  .!\n"), size=300))

    def count(texts):  # pairs of characters: more when joined at white space than by themselves
        return [-(-len(t) // 2) + t.count("a ") for t in texts]

    for most in (1, 2, 3, 7, 40):
        windows = split_text(text, max(most, 2), count)
        assert max(count(windows)) <= max(most, 2)
        assert "".join("".join(windows).split()) == "".join(text.split())
        assert all(w.strip() for w in windows)


def test_a_character_that_does_not_fit():
    with pytest.raises(ValueError, match="one character has 5 tokens, more than the 2"):
        split_text("x", 2, lambda texts: [5 * len(t) for t in texts])


def test_cut_text():
    assert cut_text("one two three four", 2, words) == "one two"
    assert cut_text("one two", 2, words) == "one two"


def test_a_long_text_is_not_cut(by_hand, reviews):
    """The mean over windows that the model reads whole, by hand."""
    long = " ".join(reviews[:9])
    one = encoder(batch_size=2)
    windows = one.preprocess(long)
    sizes = [len(ids) for ids in by_hand.tokenizer(windows)["input_ids"]]
    whole = len(by_hand.tokenizer(long, verbose=False)["input_ids"])
    assert len(windows) == -(-(whole - 2) // 254) and max(sizes) <= 256
    assert sum(sizes) - 2 * len(windows) == whole - 2  # no token is lost
    assert max(sizes) - min(sizes) < 100
    expected = unit(by_hand.encode(windows).mean(axis=0))
    np.testing.assert_allclose(one.transform([long])[0], expected, atol=1e-5)
    cut = encoder(long_texts="cut").transform([long])[0]
    np.testing.assert_allclose(cut, by_hand.encode(long), atol=1e-5)
    assert cut @ expected < 0.99
    ends = long[: len(windows[0])], long[: len(windows[0])] + " Oh no, it is torn. Terrible!" * 30
    first, changed = encoder().transform(ends)
    assert np.abs(first - changed).max() > 1e-3  # what stands behind the limit counts


def test_short_texts_are_what_they_were(by_hand, reviews):
    texts = list(reviews[:8])
    assert encoder().count_windows(texts).tolist() == [1] * 8
    np.testing.assert_allclose(encoder().transform(texts), by_hand.encode(texts), atol=1e-5)


def test_counts_and_errors(tmp_path):
    long = "word " * 400
    cells = ["short", long, ["a", long], None, Presence.EMPTY, "", [("A", "b")]]
    assert encoder().count_windows(cells).tolist() == [1, 2, 3, 0, 0, 0, 1]
    assert encoder(long_texts="cut").count_windows(cells[:2], [0, 1]).tolist() == [0, 2]
    with pytest.raises(EncodingError, match="text, row 1: a text of 400 tokens is longer than the"):
        encoder(long_texts="error").transform(cells)
    with pytest.raises(SampleError, match="text, row 1: expected a str"):
        encoder().count_windows(["a", 3])


def test_statistics(by_hand):
    sentences = ["The cat sat.", "Markets fell.", "I cannot sleep.", "Blue."]
    parts = by_hand.encode(sentences)
    stats = encoder(pooling="stats")
    values = stats.transform([sentences, sentences[:1]])
    assert stats.n_features_out_ == 4 * 384
    expected = [unit(parts.mean(0)), parts.std(0), parts.min(0), parts.max(0)]
    np.testing.assert_allclose(values[0].reshape(4, 384), expected, atol=1e-5)
    alone = [parts[0], 0 * parts[0], parts[0], parts[0]]
    np.testing.assert_allclose(values[1].reshape(4, 384), alone, atol=1e-5)
    some = encoder(pooling=("max", "sd"), normalize=False).transform([sentences])[0]
    np.testing.assert_allclose(some, np.r_[parts.max(0), parts.std(0)], atol=1e-5)
    names = stats.get_feature_names_out()
    assert [names[i] for i in (0, 384, 768, 1535)] == [
        "text_mean_000",
        "text_sd_000",
        "text_min_000",
        "text_max_383",
    ]
    assert encoder().get_feature_names_out()[7] == "text_007"
    assert encoder(pooling="max").get_feature_names_out()[7] == "text_max_007"


def test_batches_do_not_matter_for_long_texts(reviews):
    column = [" ".join(reviews[i : i + i % 3 + 1]) for i in range(4)]
    expected = encoder(pooling="stats", max_length=40).transform(column)
    for size in (1, 3):
        values = encoder(pooling="stats", max_length=40, batch_size=size).transform(column[::-1])
        np.testing.assert_allclose(values[::-1], expected, atol=1e-5)


# Transcripts.


def test_ways_to_give_a_transcript(by_hand, tmp_path):
    lines = "\n".join(f"{speaker}: {text}" for speaker, text in TALK)
    path = tmp_path / "talk.txt"
    path.write_text(lines, encoding="utf-8")
    cells = [
        TALK,
        [{"speaker": speaker, "text": text, "start": 1.5} for speaker, text in TALK],
        lines,
        path,
        lines.split("\n"),
        "\n\n".join(f"[{s.upper()}] :  {t}" for s, t in TALK),
        lines.replace("fell. I", "fell.\n  I").replace("\n", "\r\n"),
    ]
    for cell in cells[:6]:
        assert read_units(cell, keep=["participant"]) == KEPT
        assert read_units(cell, drop=["INTERVIEWER"]) == KEPT
    assert read_units(cells[6], keep=["participant"])[1] == "The stock market fell.\nI worry."
    expected = unit(by_hand.encode(KEPT).mean(axis=0))
    values = encoder(speakers="Participant").transform(cells)
    np.testing.assert_allclose(values, np.tile(expected, (7, 1)), atol=1e-5)
    dropped = encoder(drop_speakers=["Interviewer"]).transform(cells[:1])
    np.testing.assert_allclose(dropped[0], expected, atol=1e-5)
    everyone = encoder().transform(cells[:2])
    turns = unit(by_hand.encode([text for _, text in TALK]).mean(axis=0))
    np.testing.assert_allclose(everyone, [turns, turns], atol=1e-5)


def test_joined_turns_are_one_text(by_hand):
    values = encoder(speakers=("Participant",), join=True).transform([TALK])
    np.testing.assert_allclose(values[0], by_hand.encode("\n".join(KEPT)), atol=1e-5)


def test_who_did_not_speak_is_empty():
    encoded = encoder(speakers="Therapist").encode([TALK, "Therapist: Hm.", None])
    assert encoded.presence.tolist() == [Presence.EMPTY, 1, Presence.ABSENT]


def test_what_looks_like_a_name():
    text = "Dr. Ann Lee: At 12:30 we met.\nSo I say this: go.\nhttp://a.b\nSpeaker 2: Why: no."
    assert read_units(text, keep=["dr. ann lee"]) == [
        "At 12:30 we met.\nSo I say this: go.\nhttp://a.b"
    ]
    assert read_units(text, keep=["speaker 2"]) == ["Why: no."]
    assert read_units(text) == [text]  # without a choice of speakers it is a text


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("Hello.\nP: Hi.", "the transcript begins without a speaker \\('Hello.'\\)"),
        ([("P", "a"), (None, "b")], "turn 1 has no speaker \\('b'\\), but speakers are chosen"),
        ([("P", "a"), "b"], "got str without a speaker"),
        ([("P", 3)], "speaker and text of a turn must be str, got str and int"),
        ([("P", "a", 2.0)], r"\(speaker, text\) pairs or dicts"),
        ([{"speaker": "P"}], "dicts with 'speaker' and 'text', got dict"),
    ],
)
def test_what_is_no_transcript(cell, says):
    with pytest.raises(SampleError, match=says):
        read_units(cell, keep=["P"])


# Prompts.


def test_a_block_of_columns_per_prompt(by_hand):
    prompts = {"Extraversion": "How outgoing? ", "Honesty": "Is '{text}' sincere?"}
    texts = ["I love parties.", "I keep to myself."]
    one = encoder(prompts=prompts)
    values = one.transform([*texts, texts])
    outgoing = by_hand.encode([prompts["Extraversion"] + text for text in texts])
    sincere = by_hand.encode([f"Is '{text}' sincere?" for text in texts])
    np.testing.assert_allclose(values[:2], np.hstack([outgoing, sincere]), atol=1e-5)
    means = np.r_[unit(outgoing.mean(0)), unit(sincere.mean(0))]
    np.testing.assert_allclose(values[2], means, atol=1e-5)
    names = one.get_feature_names_out()
    assert (names[0], names[-1]) == ("text_Extraversion_000", "text_Honesty_383")
    alone = encoder(prompt=prompts["Honesty"]).transform(texts)
    np.testing.assert_allclose(alone, sincere, atol=1e-5)


def test_the_order_of_prompts_is_part_of_the_cache_key(tmp_path):
    a, b = {"x": "One: ", "y": "Two: "}, {"y": "Two: ", "x": "One: "}
    first, other = (encoder(prompts=p, cache=tmp_path).transform(["Hm."])[0] for p in (a, b))
    np.testing.assert_allclose(first, np.r_[other[384:], other[:384]], atol=1e-6)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("prompt", ["Summarise this: ", "What is '{text}' about, in a word?"])
def test_windows_leave_room_for_prompts(by_hand, prompt):
    long = "one two three four five six seven eight nine ten. " * 9
    for how in ("window", "cut"):
        one = encoder(prompt=prompt, max_length=30, long_texts=how)
        texts = one.preprocess(long)
        filled = [prompt.replace("{text}", t) if "{" in prompt else prompt + t for t in texts]
        sizes = [len(ids) for ids in by_hand.tokenizer(filled, verbose=False)["input_ids"]]
        assert len(texts) > 3 if how == "window" else len(texts) == 1
        if how == "window" or "{" in prompt:
            assert max(sizes) <= 30
            expected = unit(by_hand.encode(filled).mean(axis=0))
            np.testing.assert_allclose(one.transform([long])[0], expected, atol=1e-5)
    with pytest.raises(
        ValueError, match="prompts must leave room for the text in the 5 tokens of a"
    ):
        encoder(prompt=prompt, max_length=5).transform([long])


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"long_texts": "drop"}, "long_texts must be one of 'window', 'cut', 'error'"),
        ({"pooling": "median"}, "pooling must be 'stats', or one or several different of 'mean'"),
        ({"pooling": ("max", "max")}, "pooling must be .* got \\('max', 'max'\\)"),
        ({"pooling": ()}, "pooling must be"),
        ({"pooling": None}, "pooling must be"),
        ({"prompts": {}}, "prompts must be a dict of names to str, with at least one"),
        ({"prompts": {"a": 3}}, "prompts must be a dict of names to str"),
        ({"prompts": "a"}, "prompts must be a dict"),
        ({"prompts": {"a": "b"}, "prompt": "c"}, "prompt must be None where prompts are given"),
        ({"speakers": []}, "speakers must be a name, a list of names or None"),
        ({"drop_speakers": 3}, "drop_speakers must be a name, a list"),
        ({"speakers": "a", "drop_speakers": "b"}, "drop_speakers must be None where"),
        ({"join": 1}, "join must be True or False"),
        ({"token_pooling": "first"}, "token_pooling must be one of 'auto', 'mean', 'last'"),
        ({"dtype": "int8"}, "dtype must be one of 'float32'"),
    ],
)
def test_bad_parameters(params, says):
    with pytest.raises((ValueError, TypeError), match=f"SentenceEncoder: {says}"):
        SentenceEncoder(**params).fit([])


# Decoders.


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A tiny causal model with random weights and a tokenizer of bytes without padding."""
    import tokenizers
    import transformers

    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator(["the cat sat on the mat"] * 3, vocab_size=270, special_tokens=["<e>"])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, eos_token="<e>", model_max_length=10**30
    )
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        eos_token_id=tokenizer.eos_token_id,
    )
    folder = tmp_path_factory.mktemp("decoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("token_pooling", ["last", "mean"])
def test_a_decoder(decoder, token_pooling):
    """The hidden states of transformers' own classes, one text at a time and without padding."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(decoder)
    model = transformers.AutoModel.from_pretrained(decoder).float().eval()
    prompt = "'{text}' in one word: "
    texts = ["the cat", "a dog sat on the mat", "né"]
    expected = []
    for text in texts:
        ids = tokenizer(prompt.replace("{text}", text), return_tensors="pt")
        with torch.inference_mode():
            states = model(**ids).last_hidden_state[0].numpy()
        expected.append(states[-1] if token_pooling == "last" else states.mean(axis=0))
    params = {"model": decoder, "token_pooling": token_pooling, "prompt": prompt}
    one = encoder(**params, normalize=False)
    assert one.n_features_out_ == 16 and len(one.weights_hash()) == 64
    np.testing.assert_allclose(one.transform(texts), expected, atol=1e-5)
    scaled = encoder(**params, batch_size=1).transform(texts)
    np.testing.assert_allclose(scaled, unit(np.array(expected)), atol=1e-5)
    half = encoder(**params, dtype="bfloat16", normalize=False).transform(texts)
    assert half.dtype == np.float32
    assert 1e-5 < np.abs(half - expected).max() < 0.2


def test_windows_of_a_decoder(decoder):
    """Its tokenizer knows no limit; the positions of the model are one."""
    one = encoder(model=decoder, token_pooling="last")
    assert one.module().limit.most == 64
    long = "the cat sat on the mat. " * 20
    windows = one.preprocess(long)
    assert max(one.module().limit.count(windows)) <= 64 and len(windows) == 3
    parts = one.transform(windows)
    np.testing.assert_allclose(one.transform([long])[0], unit(parts.mean(axis=0)), atol=1e-5)
    with pytest.raises(ValueError, match="max_length must be at most the 64 positions .* got 65"):
        encoder(model=decoder, token_pooling="last", max_length=65).transform(["a"])


def test_a_body_that_is_not_here():
    with pytest.raises(WeightsNotFoundError, match="'no/such' was sought"):
        encoder(model="no/such", token_pooling="last")


# In a model.


def test_saving(tmp_path):
    texts = [[("P", f"I feel {mood}. "), ("Q", "Why?")] for mood in ("good", "bad") * 8]
    X = {"talk": texts, "age": np.arange(16.0)[:, None]}
    y = np.arange(16) % 2
    talk = SentenceEncoder(
        speakers=["P"],
        prompts={"mood": "Mood: ", "sleep": "Sleep of {text}: "},
        pooling=("mean", "max"),
        device="cpu",
        cache=False,
    )
    model = FusionClassifier(encoders={"talk": talk}, cv=2, random_state=0).fit(X, y)
    model.save(tmp_path / "model")
    again = mmfuse.load(tmp_path / "model")
    assert again.encoders_["talk"].get_params() == model.encoders_["talk"].get_params()
    assert again.encoders_["talk"].get_feature_names_out()[-1] == "text_sleep_max_383"
    np.testing.assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-6)
