"""Translator: order, batches, scores that are true, and what it refuses; and the pipeline made of it."""

# `pipeline` is typed for the tasks that come with transformers, and for no others.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertConfig, BertForMaskedLM, pipeline

from vanilla_transformer.modeling import (
    Translation,
    Translator,
    VanillaTransformerModel,
    VanillaTranslationPipeline,
)
from vanilla_transformer.modeling.beam_search import Searcher
from vanilla_transformer.modeling.forced_decoding import batches
from vanilla_transformer.tokenization import learn_vocabulary

LINES = ["A man sleeps on a bench.", "Two dogs run over the grass.", "Ein Mann schläft.", "Zwei Hunde rennen."] * 2
TASK = "seq2seq-translation"
TEXTS = ["A man", "Two dogs run", "sleeps", "A man sleeps on a bench.", "run", "over the grass", "Zwei Hunde"]
LIMIT = 24
LONG = "\n A man sleeps on a bench.  Two dogs run. They run.\n\nTwo dogs run over the grass, and a man sleeps.  "


@pytest.fixture
def translator(make_translator) -> Translator:
    return make_translator(languages=["de", "ko"], seed=4, dropout=0.5, label_smoothing=0.0)


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


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"max_tokens": 16}, {"batch_size": 2}, {"chunk_size": 2}, {}])
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
    tokens = len(translator.tokenizer(LONG)["input_ids"])
    assert tokens > LIMIT
    with pytest.raises(ValueError, match=rf"text 2: {tokens} tokens are more than .* max_position_embeddings={LIMIT}"):
        translator(["A man", LONG, "run"])
    before, whole, after = translator.translate(["A man", LONG, "run"], split_long=True)
    assert (before.pieces, after.pieces, whole.pieces) == (1, 1, 5)
    assert [before.text, after.text] == translator(["A man", "run"])
    # A sentence is a piece, and the last is too long to be one.
    pieces = [
        "A man sleeps on a bench.",
        "Two dogs run.",
        "They run.",
        "Two dogs run over the",
        "grass, and a man sleeps.",
    ]
    a, b, c, d, e = expected = translator.translate(pieces)
    assert whole.text == f"\n {a.text}  {b.text} {c.text}\n\n{d.text} {e.text}  "
    assert whole.score == pytest.approx(sum(t.score for t in expected))
    assert whole.token_ids == [i for t in expected for i in t.token_ids]
    # No white space to split at, and white space in odd places.
    assert translator.translate("x" * 500, split_long=True)[0].pieces >= 500 / LIMIT
    assert translator.translate(" " * 500 + "y" * 30 + " " * 9 + "z", split_long=True)[0].pieces > 1
    translator.model.config.max_position_embeddings = 3
    with pytest.raises(
        ValueError, match="text 2: the character '😀' alone is too long for .* max_position_embeddings=3"
    ):
        translator(["a", "😀😀"], split_long=True)


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
        draws.append(
            [t.token_ids for t in translator.translate("A man", do_sample=True, temperature=3.0, n_best=60)[0].n_best]
        )
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
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"num_beams": "x"}, "num_beams='x' must be at least 1"),
        ({"num_return_sequences": 2}, "num_return_sequences is not for here: ask for n_best"),
        ({"return_dict_in_generate": True}, "return_dict_in_generate is not for here"),
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


@pytest.fixture
def folder(translator, tmp_path) -> Path:
    translator.model.save_pretrained(tmp_path / "en-de")
    translator.tokenizer.save_pretrained(tmp_path / "en-de")
    return tmp_path / "en-de"


@pytest.fixture
def translate(translator) -> VanillaTranslationPipeline:
    return pipeline(TASK, model=translator.model, tokenizer=translator.tokenizer, device="cpu")


def test_the_pipeline_returns_what_that_of_transformers_4_returned(translator, translate):
    expected = [{"translation_text": text} for text in translator(TEXTS)]
    assert translate(TEXTS[0]) == expected[:1]
    assert translate(TEXTS) == translate(tuple(TEXTS)) == expected
    assert translate([]) == []
    n_best = [
        [{"translation_text": t.text, "score": t.score, "normalized_score": t.normalized_score} for t in best.n_best]
        for best in translator.translate(TEXTS, n_best=3)
    ]
    assert translate(TEXTS, n_best=3) == n_best
    for alone, with_others in zip(translate(TEXTS[0], num_return_sequences=3), n_best[0], strict=True):
        assert alone["translation_text"] == with_others["translation_text"]
        assert alone["score"] == pytest.approx(with_others["score"], abs=1e-4)  # other products, other roundings


def test_the_pipeline_reads_a_stream_as_it_is_needed(translator, translate):
    read = []
    results = translate((read.append(i) or TEXTS[i % 7] for i in range(1_000_000)), chunk_size=3)
    first_four = [next(results) for _ in range(4)]
    assert first_four == [[{"translation_text": text}] for text in translator(TEXTS[:4])]
    assert len(read) == 6


def test_options_of_the_pipeline_and_of_a_call(translator):
    made = {"model": translator.model, "tokenizer": translator.tokenizer, "device": "cpu"}
    translate = pipeline(TASK, **made, target_lang="ko", suppress_tokens=[2])
    korean, german = (translator(TEXTS, target_lang=code, suppress_tokens=[2]) for code in ("ko", "de"))
    assert [one["translation_text"] for one in translate(TEXTS)] == korean != german
    for name in ("target_lang", "tgt_lang"):
        assert [one["translation_text"] for one in translate(TEXTS, **{name: "de"})] == german
    greedy = pipeline(TASK, **made, num_beams=1)
    assert [one["translation_text"] for one in greedy(TEXTS)] == translator(TEXTS, num_beams=1) != translator(TEXTS)


def test_the_pipeline_cuts_batches(translator, monkeypatch):
    sizes, search = [], Searcher.search
    monkeypatch.setattr(
        Searcher, "search", lambda self, sources, *others: sizes.append(len(sources)) or search(self, sources, *others)
    )
    translate = pipeline(TASK, model=translator.model, tokenizer=translator.tokenizer, device="cpu", batch_size=3)
    results = [translate(TEXTS), translate(TEXTS, batch_size=2), translate(TEXTS, batch_size=None)]
    assert sizes == [3, 3, 1] + [2, 2, 2, 1] + [7]
    assert results[0] == results[1] == results[2]


def test_the_pipeline_splits_what_is_too_long(translator, translate):
    [whole] = translator.translate(LONG, split_long=True)
    assert whole.pieces > 1 and translate(LONG) == [{"translation_text": whole.text}]
    with pytest.raises(ValueError, match="text 2: .* max_position_embeddings"):
        translate(["A man", LONG], split_long=False)


def test_the_pipeline_from_a_folder_runs_the_code_that_is_installed(translator, folder):
    expected = [{"translation_text": text} for text in translator(TEXTS)]
    for trust in ({}, {"trust_remote_code": True}):
        translate = pipeline(TASK, model=str(folder), device="cpu", **trust)
        assert type(translate) is VanillaTranslationPipeline and translate(TEXTS) == expected
    translate.save_pretrained(folder / "again")
    assert pipeline(TASK, model=str(folder / "again"), device="cpu")(TEXTS) == expected


def test_the_folder_names_its_pipeline(translator, folder):
    config = json.loads((folder / "config.json").read_text())
    entry = config["custom_pipelines"][TASK]
    file, name = entry["impl"].split(".")
    assert f"class {name}(" in (folder / f"{file}.py").read_text()
    assert entry["pt"] == ["AutoModelForSeq2SeqLM"]
    assert {f"{name}.py" for name in (file, "translator", "sentences", "forced_decoding")} <= set(os.listdir(folder))
    # What others may have added stays; a model that writes no text has no entry.
    config["custom_pipelines"]["other"] = {"impl": "other.Other"}
    (folder / "config.json").write_text(json.dumps(config))
    assert AutoConfig.from_pretrained(folder).custom_pipelines == {"other": {"impl": "other.Other"}}
    VanillaTransformerModel(translator.model.config).save_pretrained(folder / "bare")
    assert json.loads((folder / "bare" / "config.json").read_text())["custom_pipelines"] == {}


WITHOUT_OUR_PACKAGE = """
import json, sys
sys.modules["vanilla_transformer"] = None  # any import of it fails
from transformers import pipeline
task, folder, again, texts, result = sys.argv[1:]
made = []
for place in (folder, again):
    translate = pipeline(task, model=place, trust_remote_code=True, device="cpu")
    for part in (translate, translate.model, translate.tokenizer, translate.translator):
        assert type(part).__module__.startswith("transformers_modules."), type(part)
    for text in json.loads(texts):
        made.append(translate(text, target_lang="de", n_best=2, batch_size=2))
    if place == folder:
        translate.save_pretrained(again)
assert pipeline(model=again, trust_remote_code=True, device="cpu").task == task
json.dump(made, open(result, "w"))
"""


def flat(found) -> list[dict]:
    return [found] if isinstance(found, dict) else [entry for part in found for entry in flat(part)]


def test_the_pipeline_in_an_interpreter_without_our_package(translate, folder, tmp_path):
    again, result = tmp_path / "again", tmp_path / "result.json"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    texts = json.dumps([TEXTS, LONG])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGE, TASK, str(folder), str(again), texts, str(result)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = [translate(texts, target_lang="de", n_best=2, batch_size=2) for texts in (TEXTS, LONG)]
    for found, wanted in zip(flat(json.loads(result.read_text())), flat(expected * 2), strict=True):
        assert found["translation_text"] == wanted["translation_text"]
        for score in ("score", "normalized_score"):  # products of another process may be rounded otherwise
            assert found[score] == pytest.approx(wanted[score], abs=1e-4)
    assert sorted(os.listdir(again)) == sorted(os.listdir(folder))
    assert json.loads((again / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize(
    "inputs, options, message",
    [
        (None, {}, "seq2seq-translation: expected a text or several, found NoneType"),
        ({"text": "A man"}, {}, "seq2seq-translation: expected a text or several, found dict"),
        (["A man", None], {}, "text 2: expected a str, found NoneType"),
        ("A man", {"target_lang": "fr"}, "'fr' has no tag in this tokenizer; known: de, ko"),
        ("A man", {"num_beams": 2, "n_best": 3}, "n_best=3 is more than num_beams=2"),
        ("A man", {"nonsense": 1}, "nonsense"),
    ],
)
def test_the_pipeline_refuses(translate, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        translate(inputs, **options)


def test_the_pipeline_refuses_other_models_and_tokenizers(translator):
    bert = BertForMaskedLM(BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    for other in (bert, VanillaTransformerModel(translator.model.config)):
        with pytest.raises(
            ValueError, match=f"VanillaTransformerForConditionalGeneration, found a {type(other).__name__}"
        ):
            VanillaTranslationPipeline(other, translator.tokenizer)
    with pytest.raises(ValueError, match="no tokenizer"):
        VanillaTranslationPipeline(translator.model)
    with pytest.raises(ValueError, match=translator.tokenizer.fingerprint):
        VanillaTranslationPipeline(translator.model, learn_vocabulary(LINES, 290))
