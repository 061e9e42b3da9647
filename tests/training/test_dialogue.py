from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.modeling import Translator
from vanilla_transformer.training.corpus_files import CorpusError
from vanilla_transformer.training.dialogue import SPEAKERS, add_speakers, distinct, history


@pytest.fixture
def tokenizer(toy):
    made = AutoTokenizer.from_pretrained(toy / "tokenizer")
    model = SimpleNamespace(resize_token_embeddings=lambda *_, **__: None, config=SimpleNamespace())
    add_speakers(made, model)
    return made


def test_the_last_turn_is_always_the_first_speakers(tokenizer):
    assert history(["Hi."], tokenizer, 64) == ("<speaker1> Hi.", 0, False)
    told = history(["Hi.", "", "Hello.", "So?"], tokenizer, 64)
    assert told == ("<speaker2> Hi. <speaker2> Hello. <speaker1> So?", 0, False)
    assert history(["", " "], tokenizer, 64) == ("", 0, False) == history([], tokenizer, 64)


def test_the_oldest_turns_go_first_and_whole(tokenizer):
    turns = ["the red cat", "the old dog", "the tall tree"]
    whole = history(turns, tokenizer, 64)
    full = len(tokenizer(whole.text)["input_ids"])
    assert history(turns, tokenizer, full) == whole
    assert history(turns, tokenizer, full - 1) == ("<speaker2> the old dog <speaker1> the tall tree", 1, False)
    last = len(tokenizer("<speaker1> the tall tree")["input_ids"])
    assert history(turns, tokenizer, last) == ("<speaker1> the tall tree", 2, False)
    cut = history(turns, tokenizer, last - 1)
    assert cut.cut and cut.left_out == 2 and cut.text.startswith("<speaker1> ") and cut.text.endswith(" tree")


@pytest.mark.parametrize("joined", [True, False])
def test_a_history_always_fits(toy, tokenizer, joined):
    if not joined:  # a tokenizer that has the marks from its training: blanks before them are pieces
        tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
        tokenizer.add_tokens(list(SPEAKERS))
    draw = random.Random(1)
    words = ["the", "red", "cat", "zebra", "überraschend", "😀", "in 2017,", "a" * 30]
    for limit in (6, 9, 20, 50):
        for _ in range(60):
            turns = [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(draw.randint(1, 6))]
            told = history(turns, tokenizer, limit)
            assert len(tokenizer(told.text)["input_ids"]) <= limit
            assert turns[-1].endswith(told.text.split(">")[-1].strip()), "the end of the last turn is always there"
            kept = len(turns) - told.left_out
            if not told.cut and told.left_out:
                more = " ".join(f"{SPEAKERS[n % 2]} {turn}" for n, turn in enumerate(turns[::-1][: kept + 1]))
                assert len(tokenizer(more)["input_ids"]) > limit - (0 if joined else 6), (
                    "one turn more would have fitted"
                )


def test_marks_that_the_tokenizer_lacks_are_added_to_it_and_to_the_model(finetuning):
    run = finetuning("dialogue")
    tokenizer, model = run.tokenizer, run.plain
    assert len(tokenizer) == 302 == model.config.vocab_size == model.get_input_embeddings().weight.shape[0]
    assert model.config.tokenizer_fingerprint == tokenizer.fingerprint
    tokenizer.check_fits(model.config)
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("<speaker2> the cat <speaker1> the cat")["input_ids"])
    assert pieces == ["<speaker2>", "Ġthe", "Ġcat", "<speaker1>", "Ġthe", "Ġcat", "</s>"], "no piece for a mark's blank"
    add_speakers(tokenizer, model)
    assert len(tokenizer) == 302 == model.config.vocab_size


def test_every_turn_but_the_first_is_a_reply_and_what_is_lost_is_counted(finetuning, write_rows):
    long = " ".join(["the red cat"] * 15)
    file = write_rows(
        {"dialog": ["the cat", "the dog", "the tree"]}, {"dialog": ["alone"]}, {"dialog": ["", "the bird"]},
        {"dialog": [long, "the dog", "the cat"]}, {"question": "the house", "answer": "the dog"},
    )  # fmt: skip
    run = finetuning("dialogue", train_file=[file], validation_file=[file])
    train = run.task.train
    assert str(train.dropped) == (
        "kept 5 of 6 rows; dropped 1 empty (row 3); these rows are replies, numbered as the 5 dialogues they are from; "
        "1 histories lost their oldest turns, 1 in all; "
        "1 last turns lost their beginning"
    )
    assert [train.row(n) for n in range(5)] == [1, 1, 4, 4, 5]
    sources = list(train.texts["source"])
    assert sources[:3] == ["<speaker1> the cat", "<speaker2> the cat <speaker1> the dog", ""]
    assert sources[4:] == ["<speaker1> the dog", "<speaker1> the house"] and sources[3].startswith("<speaker1> ")
    assert list(train.texts["target"]) == ["the dog", "the tree", "the bird", "the dog", "the cat", "the dog"]
    assert train.lengths[:, 0].max() <= 32
    with pytest.raises(CorpusError, match="no dialogue has a second turn, so there is no reply to learn"):
        finetuning("dialogue", train_file=[write_rows({"dialog": ["alone"]})])


def test_messages_name_rows_as_they_are_in_the_users_file(finetuning, write_rows):
    long = " ".join(["the red cat"] * 15)
    file = write_rows(
        {"dialog": ["a", "b", "c"]}, {"dialog": ["a", long]}, {"dialog": ["a", "b", ""]}, {"dialog": ["a", "b"]}
    )
    train = finetuning("dialogue", train_file=[file], validation_file=[]).task.train
    assert train.dropped.empty_rows == (3,) and train.dropped.over_long_rows == (2,)
    assert [train.row(n) for n in range(4)] == [1, 1, 3, 4]
    with pytest.raises(
        CorpusError, match="rows.jsonl: no row of the corpus is left: .*; these rows are replies, counted through"
    ):
        finetuning("dialogue", "none", train_file=[write_rows({"dialog": ["a", ""]})])


@pytest.mark.parametrize("flags, said", [
    ({"source_lang": "en"}, "source_lang is for translation; a dialogue is in one language"),
    ({"streaming": True}, "streaming cannot be had with dialogue"),
])  # fmt: skip
def test_flags_of_translation_are_refused(finetuning, flags, said):
    with pytest.raises(CorpusError, match=said):
        finetuning("dialogue", **flags)


@pytest.mark.parametrize("flags, said", [
    ({"lora_rank": 2}, "lora_rank=2 freezes the embeddings, and those of <speaker1> and <speaker2>, which this model did not"),
    ({"freeze": ["embeddings"]}, "freeze=embeddings freezes .* begin with a model that was trained with them$"),
    ({"freeze": ["encoder", "embeddings"], "share_embeddings": "none"}, "freeze=encoder embeddings freezes"),
])  # fmt: skip
def test_new_marks_must_learn(finetuning, flags, said):
    if "lora_rank" in flags:
        pytest.importorskip("peft")
    with pytest.raises(ValueError, match=f"^{said}"):
        finetuning("dialogue", **flags)


def test_marks_that_a_model_was_trained_with_may_rest(finetuning):
    first = finetuning("dialogue", "first", max_steps=1, freeze=["encoder"])
    first.run()
    rested = finetuning("dialogue", "second", model=str(first.folder.path), freeze=["embeddings"])
    assert not rested.plain.get_input_embeddings().weight.requires_grad


def test_bpe_dropout_cuts_the_training_texts_anew(finetuning):
    run = finetuning("dialogue", bpe_dropout=0.5)
    examples, plain = run.task.train.examples, run.task.train.examples.encoded[0]["input_ids"]
    seen = [examples[(epoch, 0)]["input_ids"] for epoch in range(8)]
    assert len({tuple(ids) for ids in seen}) > 1 and {ids[0] for ids in seen} == {plain[0]}
    assert run.task.validation.examples[(0, 0)]["input_ids"] == plain


def test_replies_are_learned_by_heart_and_the_saved_model_gives_them(finetuning):
    run = finetuning("dialogue", max_steps=120, learning_rate=5e-3, label_smoothing=0.0)
    run.run()
    (row,) = run.folder.metrics()
    assert row["exact"] == 100.0 and row["loss"] < 0.1 and row["distinct_1"] > 10
    told = run._told(row)
    assert "distinct_1" in told and "distinct_2" in told and "bleu" in told
    model, tokenizer = (kind.from_pretrained(run.folder.path) for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    tokenizer.check_fits(model.config)
    # The reply to the third turn hangs on the turns before it.
    source = history(["cat", "red", "the cat"], tokenizer, 32).text
    (reply,) = Translator(model, tokenizer).translate([source], num_beams=1)
    assert reply.text == "the red"


def test_distinct_n_grams():
    texts = ["I know.", "I know.", "No!"]  # I know . I know . No !
    assert distinct(texts, 1) == 5 / 8
    assert distinct(texts, 2) == 3 / 5
    assert distinct([""], 1) == 0 == distinct(["one"], 2)
