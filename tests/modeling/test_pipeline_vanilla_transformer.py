"""Translator: order, batches, scores that are true, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoTokenizer

from vanilla_transformer.modeling import (
    Translation,
    Translator,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
)
from vanilla_transformer.modeling.forced_decoding import batches
from vanilla_transformer.tokenization import learn_vocabulary

LINES = ["A man sleeps on a bench.", "Two dogs run over the grass.", "Ein Mann schläft.", "Zwei Hunde rennen."] * 2
TEXTS = ["A man", "Two dogs run", "sleeps", "A man sleeps on a bench.", "run", "over the grass", "Zwei Hunde"]
LIMIT = 24


@pytest.fixture(scope="module")
def tokenizer():
    return learn_vocabulary(LINES, 300, languages=["de", "ko"])


@pytest.fixture
def translator(tokenizer) -> Translator:
    """A random model. Its `</s>` is loud, so that some outputs end by themselves and some are cut."""
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        d_ff=32,
        dropout=0.5,
        label_smoothing=0.0,
        max_position_embeddings=LIMIT,
        share_embeddings="none",
        tie_word_embeddings=False,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    model = VanillaTransformerForConditionalGeneration(config).eval()
    # Drawn here, so that what the tests need of the weights does not hang on how a model begins.
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                weight.normal_(std=0.5, generator=generator)
        model.lm_head.weight[2] *= 3
    return Translator(model, tokenizer)


def rescored(translator: Translator, text: str, ids: list[int]) -> float:
    """Each token in a forward pass of its own, without a cache, a batch or padding."""
    source = translator.tokenizer(text, return_tensors="pt").input_ids
    total = 0.0
    for place, token in enumerate(ids):
        so_far = torch.tensor([[1, *ids[:place]]])
        with torch.no_grad():
            logits = translator.model(input_ids=source, decoder_input_ids=so_far).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
    return total


@pytest.mark.parametrize(
    "options", [{"num_beams": 1}, {"n_best": 3}, {"do_sample": True, "n_best": 2, "temperature": 0.7}]
)
def test_scores_are_the_sums_they_claim_to_be(translator, options):
    torch.manual_seed(0)
    seen_cut = set()
    for text, best in zip(TEXTS, translator.translate(TEXTS, **options), strict=True):
        assert len(best.n_best) == options.get("n_best", 1) and best.n_best[0] is best
        assert sorted((t.normalized_score for t in best.n_best), reverse=True) == pytest.approx(
            [t.normalized_score for t in best.n_best], abs=1e-5
        )
        for translation in best.n_best:
            n = len(translation.token_ids)
            assert translation.score == pytest.approx(rescored(translator, text, translation.token_ids), abs=1e-4)
            assert translation.normalized_score == pytest.approx(translation.score / ((5 + n) / 6) ** 0.6)
            assert translation.cut == (translation.token_ids[-1] != 2)
            assert 2 not in translation.token_ids[:-1]
            seen_cut.add(translation.cut)
    assert seen_cut == {True, False}


def test_scores_are_those_by_which_the_beam_was_ranked(translator):
    inputs = translator.tokenizer("Two dogs run", return_tensors="pt")
    length = inputs.input_ids.shape[1]
    options = {"num_beams": 4, "length_penalty": 0.6, "length_penalty_kind": "paper", "suppress_tokens": [0, 1]}
    found = translator.model.generate(
        **inputs,
        **options,
        num_return_sequences=4,
        max_new_tokens=min(length + 50, LIMIT - 1),
        output_scores=True,
        return_dict_in_generate=True,
    )
    n_best = translator.translate(["Two dogs run"], n_best=4)[0].n_best
    assert [t.normalized_score for t in n_best] == pytest.approx(found.sequences_scores.tolist(), abs=1e-5)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"max_tokens": 16}, {"chunk_size": 2}, {}])
def test_the_order_is_kept_and_the_batch_does_not_matter(translator, options):
    alone = [translator(text) for text in TEXTS]
    assert len(set(alone)) > 3
    assert translator(TEXTS, **options) == alone
    assert translator(tuple(TEXTS[::-1]), **options) == alone[::-1]


def test_batches_by_hand():
    assert list(batches([3, 9, 4, 3, 20], max_tokens=12)) == [[4], [1], [2, 0, 3]]
    assert list(batches([3, 9, 4, 3, 20], max_tokens=12, max_rows=2)) == [[4], [1], [2, 0], [3]]
    assert list(batches([], max_tokens=12)) == []


def test_beam_one_is_greedy(translator):
    source = translator.tokenizer("A man", return_tensors="pt").input_ids
    ids: list[int] = []
    while len(ids) < LIMIT - 1 and 2 not in ids:
        with torch.no_grad():
            logits = translator.model(input_ids=source, decoder_input_ids=torch.tensor([[1, *ids]])).logits[0, -1]
        logits[:2] = -torch.inf
        ids.append(int(logits.argmax()))
    assert translator.translate("A man", num_beams=1)[0].token_ids == ids


def test_an_empty_text_gives_an_empty_text_without_the_model(translator, monkeypatch):
    empty = Translation("", 0.0, 0.0, [], cut=False, pieces=0)
    texts = ["", "A man", "  \t\u3000 "]
    first, middle, last = translator.translate(texts, n_best=2)
    assert first == last == empty and first.n_best == [empty, empty]
    assert middle.token_ids == translator.translate("A man")[0].token_ids
    monkeypatch.setattr(translator.model, "generate", lambda **_: pytest.fail("the model was asked"))
    assert translator(["", " ", "\n"]) == ["", "", ""]
    assert translator("") == "" and translator([]) == []


def test_outputs_are_bounded_by_their_own_source(translator):
    texts = ["run", "Two dogs run"]
    lengths = [len(ids) for ids in translator.tokenizer(texts)["input_ids"]]
    made = translator.translate(texts, max_new_tokens_beyond_source=1, suppress_tokens=[2])
    assert [(len(t.token_ids), t.cut) for t in made] == [(length + 1, True) for length in lengths]


def test_texts_are_read_as_they_are_needed(translator):
    read = []
    texts = (read.append(i) or TEXTS[i % 7] for i in range(1_000_000))
    stream = translator.stream(texts, chunk_size=3)
    for _ in range(4):
        next(stream)
    assert len(read) == 6


def test_a_long_text_is_refused_with_its_place_or_translated_in_pieces(translator):
    long = "A man sleeps on a bench. " * 3 + "Two dogs run over the grass."
    tokens = len(translator.tokenizer(long)["input_ids"])
    assert tokens > LIMIT
    with pytest.raises(ValueError, match=rf"text 2: {tokens} tokens are more than .* max_position_embeddings={LIMIT}"):
        translator(["A man", long, "run"])
    before, whole, after = translator.translate(["A man", long, "run"], split_long=True)
    assert (before.pieces, after.pieces) == (1, 1) and whole.pieces > 1
    assert [before.text, after.text] == translator(["A man", "run"])
    halves = [long[: long.rindex(" ", 0, 52)], long[long.rindex(" ", 0, 52) + 1 :]]
    expected = translator.translate(halves, split_long=True)
    assert whole.text == " ".join(t.text for t in expected)
    assert whole.score == pytest.approx(sum(t.score for t in expected))
    assert whole.token_ids == [i for t in expected for i in t.token_ids]
    # No white space to split at, and white space in odd places.
    assert translator.translate("x" * 500, split_long=True)[0].pieces >= 500 / LIMIT
    assert translator.translate(" " * 500 + "y" * 30 + " " * 9 + "z", split_long=True)[0].pieces > 1


def test_the_tag_of_the_language_goes_first(translator):
    by_hand, by_name, without = (
        translator.translate(text, target_lang=language, suppress_tokens=[2])[0].token_ids
        for text, language in [(">>de<< A man", None), ("A man", "de"), ("A man", None)]
    )
    assert by_hand == by_name != without
    with pytest.raises(ValueError, match="'fr' has no tag in this tokenizer; known: de, ko"):
        translator("A man", target_lang="fr")


def test_training_goes_on_as_before(translator):
    expected = translator(TEXTS)
    translator.model.train()
    assert translator(TEXTS) == expected  # a dropout of 0.5 would show
    assert translator.model.training
    with pytest.raises(ValueError):
        translator("A man", nonsense=1)
    assert translator.model.training


def test_sampling_draws_from_the_whole_vocabulary_and_repeats_with_the_seed(translator):
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append([t.token_ids for t in translator.translate("A man", do_sample=True, temperature=3.0, n_best=60)[0].n_best])
    assert draws[0] == draws[1] != draws[2]
    assert len({ids[0] for ids in draws[0] + draws[2]}) > 50  # transformers' own default is the likeliest 50


def test_forced_scores_are_the_loss_without_smoothing(translator):
    sources, targets = ["A man", "", "Two dogs run"], ["Ein Mann", "Zwei", ""]
    rows = list(translator.score(sources, targets, max_tokens=8, chunk_size=2))
    for source, target, row in zip(sources, targets, rows, strict=True):
        batch = translator.tokenizer(source, text_target=target, return_tensors="pt")
        with torch.no_grad():
            loss = translator.model(**batch).loss.item()
        assert len(row) == batch["labels"].shape[1] and all(value <= 0 for value in row)
        assert math.fsum(row) / len(row) == pytest.approx(-loss, abs=1e-5)
    with pytest.raises(ValueError, match="pair 2: .* tokens are more than .* max_position_embeddings=24"):
        list(translator.score(["A", "B"], ["x", "y" * 99]))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_best": 5}, "n_best=5 is more than num_beams=4"),
        ({"num_beams": 0}, "num_beams=0 must be at least 1"),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
        ({"length_penalty_kind": "x"}, "length_penalty_kind='x' must be 'hf' or 'paper'"),
    ],
)
def test_wrong_options_are_refused(translator, options, message):
    with pytest.raises(ValueError, match=message):
        translator("A man", **options)


@pytest.mark.parametrize(
    "bad, what", [("a\ud800", "character 2 is half a surrogate"), (None, "expected a str, found NoneType")]
)
def test_what_is_no_text_is_refused_with_its_place(translator, bad, what):
    with pytest.raises(ValueError, match=f"text 3: {what}"):
        translator(["a", "b", bad], chunk_size=2)


def test_another_tokenizer_is_refused(translator):
    other = learn_vocabulary(LINES, 290)
    with pytest.raises(ValueError, match=f"{translator.tokenizer.fingerprint}.*{other.fingerprint}"):
        Translator(translator.model, other)


def test_loading(translator, tmp_path):
    folder = tmp_path / "model"
    translator.model.save_pretrained(folder)
    with pytest.raises(ValueError, match="no tokenizer could be loaded"):
        Translator.from_pretrained(folder)
    translator.tokenizer.save_pretrained(folder)
    again = Translator.from_pretrained(folder, device="cpu")
    assert not again.model.training and again(TEXTS) == translator(TEXTS)
    assert type(again.tokenizer) is type(AutoTokenizer.from_pretrained(folder))

    with pytest.raises(ValueError, match="no such folder"):
        Translator.from_pretrained(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no model in this folder"):
        Translator.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="device=nonsense"):
        Translator.from_pretrained(folder, device="nonsense")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="no model could be loaded") as error:
        Translator.from_pretrained(folder)
    assert "\n" not in str(error.value)
