"""transformers' own pipelines, of a folder that holds a classifier, a tagger or an encoder; with our package and without.

The taggers here are made, not trained: their answer is decided by each token's own embedding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import pipeline

from vanilla_transformer.modeling import (
    VanillaTransformerEncoderModel,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.tokenization import learn_vocabulary

# The pipeline says so of every tokenizer but WordPiece's.
heuristic = pytest.mark.filterwarnings("ignore:Tokenizer does not support real words:UserWarning")

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
TEXTS = {
    "en": ("In 1984 Angela Merkel met  Erich in Berlin 7", {"Angela": 1, "Merkel": 2, "Erich": 1, "Berlin": 3, "7": 4}),
    "ko": ("서울에서 김철수가 1984 學校 갔다", {"서울에서": 3, "김철수가": 1, "學校": 3}),
}
FOUND = {
    "en": [("PER", "Angela Merkel"), ("PER", "Erich"), ("LOC", "Berlin 7")],
    "ko": [("LOC", "서울에서"), ("PER", "김철수가"), ("LOC", "學校")],
}


def words(text: str) -> list[tuple[int, int]]:
    ends, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        ends.append((start, start + len(word)))
        start += len(word)
    return ends


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Of 285 tokens: most words are several pieces, and 學 is three, with a space of its own in front."""
    return learn_vocabulary(["Angela Merkel in Berlin met Erich", "서울에서 김철수가 갔다"] * 3, vocab_size=285)


def tagger(make_model, tokenizer, text: str, tags: dict[str, int], folder: Path) -> Path:
    """A model that gives every piece of `text` its word's tag, by the place where it stands, and a folder of it."""
    model = make_model(
        kind=VanillaTransformerForTokenClassification,
        head_reads="encoder",
        vocab_size=len(tokenizer),
        d_model=64,
        max_position_embeddings=64,
        position_embedding="learned",
        norm_position="pre",
        id2label=dict(enumerate(TAGS)),
        label2id={tag: number for number, tag in enumerate(TAGS)},
    )
    encoded = tokenizer(text)
    spans = words(text)
    with torch.no_grad():
        for layer in model.model.encoder.layers:  # what a token says is decided by its position alone
            layer.self_attn.out_proj.weight.zero_()
            layer.feed_forward.fc2.weight.zero_()
            layer.feed_forward.fc2.bias.zero_()
        model.model.encoder.embed_tokens.weight.zero_()
        model.model.encoder.embed_positions.weight.copy_(torch.eye(64))
        model.model.encoder.norm.weight.fill_(1.0)
        model.model.encoder.norm.bias.zero_()
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        for position in range(len(encoded["input_ids"]) - 1):
            start, end = encoded.token_to_chars(position)
            is_space = not text[start:end].strip() and (start, end) != (0, 0)
            word = next(i for i, (_, stop) in enumerate(spans) if end <= stop)
            tag = tags.get(text.split()[word], 0)
            if is_space:
                tag = 3  # nonsense, as of a model that never learned what to say of a space
            model.classifier.weight[tag, position] = 5.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@heuristic
@pytest.mark.parametrize("strategy", ["simple", "first", "max", "average"])
@pytest.mark.parametrize("language", TEXTS)
def test_entities_are_cut_out_exactly(make_model, tokenizer, tmp_path, language, strategy):
    text, tags = TEXTS[language]
    if strategy == "simple":  # which takes each piece at its word: B- begins anew
        tags = {word: tag for word, tag in tags.items() if TAGS[tag].startswith("I-")} | {}
    folder = tagger(make_model, tokenizer, text, tags, tmp_path)
    found = pipeline("token-classification", model=str(folder), aggregation_strategy=strategy, device="cpu")(text)
    entities = [(one["entity_group"], text[one["start"] : one["end"]]) for one in found]
    if strategy == "simple":
        assert entities == ([("PER", "Merkel"), ("LOC", "7")] if language == "en" else [])
    else:
        assert entities == FOUND[language]


def test_pieces_without_aggregation(make_model, tokenizer, tmp_path):
    text, tags = TEXTS["ko"]
    folder = tagger(make_model, tokenizer, text, tags, tmp_path)
    found = pipeline("ner", model=str(folder), device="cpu")(text)
    assert all(text[one["start"] : one["end"]].strip() == text[one["start"] : one["end"]] != "" for one in found)
    assert {one["entity"] for one in found} == {"B-LOC", "B-PER"}


@pytest.mark.parametrize("reads", ["decoder", "encoder"])
def test_classes_of_texts(make_model, tokenizer, tmp_path, reads):
    names = ["sports", "politics", "economy"]
    model = make_model(
        kind=VanillaTransformerForSequenceClassification,
        head_reads=reads,
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        id2label=dict(enumerate(names)),
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classify = pipeline("text-classification", model=str(tmp_path), device="cpu")
    texts = ["Angela met Erich in Berlin", "김철수가 갔다", "met"]
    for text, row in zip(texts, classify(texts, top_k=None, batch_size=3), strict=True):
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
        expected = dict(zip(names, logits.softmax(0).tolist(), strict=True))
        assert {one["label"]: one["score"] for one in row} == pytest.approx(expected, abs=1e-5)
        assert row[0]["label"] == max(expected, key=lambda name: expected[name])


def test_features(make_model, tokenizer, tmp_path):
    make_model(vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    model = VanillaTransformerEncoderModel.from_pretrained(tmp_path, attn_implementation="eager")
    extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer, device="cpu")
    found = torch.tensor(extract("met Erich"))
    expected = model(**tokenizer("met Erich", return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


WITHOUT_OUR_PACKAGE = """
import json, sys
sys.modules["vanilla_transformer"] = None  # any import of it fails
from transformers import pipeline
texts = json.loads(sys.argv[2])
options = {"trust_remote_code": True, "device": "cpu"}
tag = pipeline("token-classification", model=f"{sys.argv[1]}/tagger", aggregation_strategy="first", **options)
classify = pipeline("text-classification", model=f"{sys.argv[1]}/classifier", **options)
features = pipeline("feature-extraction", model=f"{sys.argv[1]}/encoder", **options)
found = [(one["entity_group"], texts[0][one["start"] : one["end"]]) for one in tag(texts[0])]
print(json.dumps([found, classify(texts[1]), len(features(texts[1])[0])]))
"""


@heuristic
@pytest.mark.slow  # as `test_remote_code_in_an_interpreter_without_our_package` of test_heads.py, through pipelines
def test_without_our_package(make_model, tokenizer, tmp_path):
    text, tags = TEXTS["ko"]
    tagger(make_model, tokenizer, text, tags, tmp_path / "tagger")
    sizes = {"vocab_size": len(tokenizer), "id2label": {0: "good", 1: "bad"}, "max_position_embeddings": 64}
    for name, kind in (
        ("classifier", VanillaTransformerForSequenceClassification),
        ("encoder", VanillaTransformerEncoderModel),
    ):
        make_model(kind=kind, **sizes).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    here = pipeline("text-classification", model=str(tmp_path / "classifier"), device="cpu")("met Erich")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    script = [sys.executable, "-c", WITHOUT_OUR_PACKAGE, str(tmp_path), json.dumps([text, "met Erich"])]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    entities, classes, length = json.loads(done.stdout.splitlines()[-1])
    assert [tuple(entity) for entity in entities] == FOUND["ko"]
    assert classes == [{"label": here[0]["label"], "score": pytest.approx(here[0]["score"], abs=1e-5)}]
    assert length == len(tokenizer("met Erich")["input_ids"])
