from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vanilla_transformer.modeling import Translation
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training import translation
from vanilla_transformer.training.corpus import CorpusError
from vanilla_transformer.training.translation import TranslationTask


def write(path, pairs) -> str:
    rows = ({"translation": {"en": source, "de": target}} for source, target in pairs)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_what_is_missing_is_named(training):
    with pytest.raises(CorpusError, match="give --source-lang and --target-lang"):
        training("a", TranslationTask, source_lang=None)
    with pytest.raises(CorpusError, match="give --train-file or --dataset-name"):
        training("b", TranslationTask, train_file=[])
    with pytest.raises(CorpusError, match="no `fr` in its `translation`; found: en, de"):
        training("c", TranslationTask, target_lang="fr")


def test_the_tag_of_the_target_language_stands_before_each_source(training):
    task = training("a", TranslationTask, target_tag=True).task
    tag = task.tokenizer.convert_tokens_to_ids(">>de<<")
    assert all(row["input_ids"][0] == tag for row in task.train.examples.encoded)
    assert all(row["input_ids"][0] == tag for row in task.validation.examples.encoded)
    assert tag not in training("b", TranslationTask).task.train.examples.encoded[0]["input_ids"]


def test_a_pair_must_fit_into_the_model_and_into_a_batch(training):
    task = training("a", TranslationTask, max_target_length=9, max_tokens=40).task
    assert task.limits == (20, 9)
    assert task.train.lengths[:, 0].max() <= 20 and task.train.lengths[:, 1].max() <= 9
    assert task.train.dropped.over_long > 0
    assert training("b", TranslationTask, max_tokens=4096).task.limits == (64, 64)  # max_position_embeddings
    with pytest.raises(
        ValueError, match="max_source_length=21 is more than 20, the less of max_position_embeddings=64"
    ):
        training("c", TranslationTask, max_source_length=21, max_tokens=40)


def test_a_data_set_brings_the_parts_it_has(training, tmp_path, toy):
    data = tmp_path / "data"
    data.mkdir()
    named = {"train_file": [], "validation_file": [], "dataset_name": str(data)}
    (data / "train.jsonl").write_text((toy / "train.jsonl").read_text())
    task = training("a", TranslationTask, **named).task
    assert len(task.train.lengths) == 40 and task.validation is None and task.test is None
    write(data / "test.jsonl", [("a cat", "eine Katze")] * 2)
    write(data / "validation.jsonl", [("a dog", "ein Hund")] * 3)
    task = training("b", TranslationTask, **named).task
    assert len(task.validation.lengths) == 3 and len(task.test.lengths) == 2
    own = [str(toy / "validation.jsonl")]
    task = training("c", TranslationTask, **named | {"validation_file": own}).task
    assert len(task.train.lengths) == 40 and len(task.validation.lengths) == 6
    with pytest.raises(ValueError, match="train_file and dataset_name=.* both say what to train on"):
        training("d", TranslationTask, **named | {"train_file": own})


class Echo:
    """Translates into capitals, and cuts what is longer than ten characters."""

    target_langs: list[str | None] = []

    def __init__(self, model, tokenizer):
        pass

    def translate(self, sources, *, target_lang, **options):
        self.target_langs.append(target_lang)
        assert options == {"num_beams": 3, "split_long": True}
        return [Translation(text[:10].upper(), 0.0, 0.0, [], len(text) > 10) for text in sources]


def test_every_row_is_scored_even_those_too_long_to_train_on(training, tmp_path, monkeypatch):
    pairs = [("cat", "CAT"), ("cat and dog and house", "cat and dog and house"), ("red dog", "RED DOG"), ("x", "y")]
    run = training(
        "run", TranslationTask, validation_file=[write(tmp_path / "valid.jsonl", pairs)], max_target_length=9
    )
    assert run.task.validation.dropped.over_long == 1
    monkeypatch.setattr(translation, "Translator", Echo)
    scores = run.task.score(run.accelerator, run.plain, run.task.validation, 3)
    assert scores["exact"] == 50.0 and scores["cut_outputs"] == 1 and scores["num_beams"] == 3
    assert "tok:13a" in scores["bleu_signature"] and "nc:6" in scores["chrf_signature"]
    assert scores["bleu"] < 100 and 0 < scores["chrf"] < 100


@pytest.mark.parametrize("tagged", [True, False])
def test_what_is_scored_has_the_tag_that_training_had(training, monkeypatch, tagged):
    run = training("run", TranslationTask, target_tag=tagged)
    monkeypatch.setattr(translation, "Translator", Echo)
    run.task.score(run.accelerator, run.plain, run.task.validation, 3)
    assert Echo.target_langs[-1] == ("de" if tagged else None)


def test_the_outputs_of_several_processes_come_back_in_the_order_of_the_corpus(training, tmp_path, monkeypatch):
    pairs = [(text, text.upper()) for text in "one two three four five".split()]
    run = training("run", TranslationTask, validation_file=[write(tmp_path / "valid.jsonl", pairs)])
    monkeypatch.setattr(translation, "Translator", Echo)
    shares: list[list] = []

    class Gathered(Exception):  # noqa: N818  not an error: what comes after needs the other process
        pass

    def gather(made):
        shares.append(made)
        raise Gathered

    monkeypatch.setattr(translation, "gather_object", gather)
    for index in range(2):
        process = SimpleNamespace(process_index=index, num_processes=2)
        with pytest.raises(Gathered):
            run.task.score(process, run.plain, run.task.validation, 3)
    monkeypatch.setattr(translation, "gather_object", lambda made: shares[1] + shares[0])
    scores = run.task.score(run.accelerator, run.plain, run.task.validation, 3)
    assert [len(share) for share in shares] == [3, 2]
    assert scores["exact"] == 100.0


# ----------------------------------------------------------------------------------------- several files, several languages


@pytest.fixture
def both_ways(toy: Path, tmp_path: Path) -> dict[str, Any]:
    """Flags of a run from English to German and back, with a validation file for each."""
    folder = tmp_path / "both"
    learn_vocabulary((toy / "text.txt").read_text().splitlines(), 300, languages=["de", "en"]).save_pretrained(folder)
    return {
        "tokenizer": str(folder),
        "source_lang": None,
        "target_lang": None,
        "train_file": [str(toy / "train.jsonl")] * 2,
        "train_languages": ["en-de", "de-en"],
        "validation_file": [str(toy / "validation.jsonl")] * 2,
    }


def test_each_file_is_read_in_its_own_languages_with_its_own_tag(training, both_ways, toy):
    task = training("a", TranslationTask, **both_ways).task
    texts = [task.tokenizer.decode(row["input_ids"][:-1]) for row in task.train.examples.encoded]
    targets = [task.tokenizer.decode(row["labels"][:-1]) for row in task.train.examples.encoded]
    assert len(texts) == 80 and texts[0] == ">>de<< the red cat" and targets[0] == "die rote Katze"
    assert all(text.startswith(">>de<< the ") for text in texts[:40])
    assert texts[40:] == [f">>en<< {target}" for target in targets[:40]]
    assert targets[40:] == [text.removeprefix(">>de<< ") for text in texts[:40]]
    assert task.train.row(79) == 80 and task.train.lengths.shape == (80, 2)
    with pytest.raises(CorpusError, match="validation_file: 1 files, where the training files are 2"):
        training("b", TranslationTask, **both_ways | {"validation_file": both_ways["validation_file"][:1]})
    with pytest.raises(ValueError, match="language 'en' has no tag in this tokenizer; known: de"):
        training("c", TranslationTask, **both_ways | {"tokenizer": str(toy / "tokenizer")})


def test_each_direction_is_scored_and_their_mean_decides(training, both_ways, tmp_path, monkeypatch):
    pairs = {
        "en-de": [("one two three four five six", "EIN ZWEI DREI VIER"), ("red dog", "ROTER HUND")],
        "de-en": [("ONE TWO", "one two"), ("THREE", "three"), ("x y", "X Y")],
    }
    files = [write(tmp_path / "a", pairs["en-de"]), write(tmp_path / "b", pairs["de-en"])]
    files = [Path(file).rename(f"{file}.jsonl") for file in files]
    both_ways["validation_file"] = [str(file) for file in files]
    run = training("a", TranslationTask, **both_ways)

    class Parrot(Echo):
        def translate(self, sources, *, target_lang, **options):
            asked.append((target_lang, list(sources)))
            return [Translation(text.upper(), 0.0, 0.0, [], False) for text in sources]

    asked: list[Any] = []
    monkeypatch.setattr(translation, "Translator", Parrot)
    scores = run.task.score(run.accelerator, run.plain, run.task.validation, 3)
    assert asked == [("de", [pair[0] for pair in pairs["en-de"]]), ("en", [pair[1] for pair in pairs["de-en"]])]
    assert scores["exact"] == pytest.approx(40.0)  # of "one two" and "three", which "de-en" has as sources
    for name in ("bleu", "chrf"):
        of_each = [scores[f"{name}_{direction}"] for direction in ("en-de", "de-en")]
        assert scores[name] == pytest.approx(np.mean(of_each), abs=1e-3)
    assert scores["chrf_en-de"] < scores["chrf_de-en"]
    assert {"bleu_en-de", "bleu_de-en"} <= set(run.task.told)
    assert not [name for name in training("b", TranslationTask).task.told if name.startswith("bleu_")]


def test_one_model_learns_two_directions_and_tells_how_well(training, both_ways):
    run = training("run", TranslationTask, **both_ways, max_steps=2)
    run.folder.tell = lambda model: None
    run.run()
    (row,) = run.folder.metrics()
    assert row["bleu"] == pytest.approx((row["bleu_en-de"] + row["bleu_de-en"]) / 2, abs=1e-3)
    assert row["chrf_en-de"] > 0 and row["chrf_de-en"] > 0 and row["best"]


def test_rows_of_a_file_with_more_weight_are_seen_more_often(training, toy, tmp_path):
    special = write(
        tmp_path / "special.jsonl", [("", "x"), ("special cat", "Sonderkatze"), ("special dog", "Sonderhund")]
    )
    files = {"train_file": [str(toy / "train.jsonl"), special]}
    train = training("a", TranslationTask, **files, train_weights=[1, 3]).task.train
    sources = [train.examples.encoded[i]["input_ids"] for i in range(len(train.lengths))]
    assert len(sources) == len(train.examples) == 46
    assert sources[40] == sources[41] == sources[42] != sources[43]
    assert [train.row(i) for i in (0, 39, 40, 42, 43, 45)] == [1, 40, 42, 42, 43, 43]
    assert f"an epoch holds 46 rows: {toy}/train.jsonl once (87.0 %), {special} 3 times (13.0 %)" in str(train.dropped)
    train = training("b", TranslationTask, **files, sampling_temperature=1e6).task.train
    assert len(train.lengths) == 40 + 2 * 20
    assert len(training("c", TranslationTask, **files).task.train.lengths) == 42
    for flag in ({"train_weights": [2.0]}, {"sampling_temperature": 2.0}):
        with pytest.raises(CorpusError, match="are for several training files: there are 1"):
            training("d", TranslationTask, **flag)
    with pytest.raises(CorpusError, match="special.jsonl: no row of the corpus is left: kept 0 of 1 rows"):
        write(Path(special), [("", "x")])
        training("e", TranslationTask, **files, train_weights=[1, 3])


# -------------------------------------------------------------------------------------------------------------- BPE-dropout


def test_training_texts_are_cut_anew_each_time_and_others_never(training):
    task = training("a", TranslationTask, bpe_dropout=0.5, target_tag=True).task
    decode = task.tokenizer.decode
    keys = [[(epoch, index) for index in range(40)] for epoch in (0, 1)]
    first, second = (task.train.examples.__getitems__(epoch) for epoch in keys)
    plain = [task.train.examples.encoded[index] for index in range(40)]
    for side in ("input_ids", "labels"):
        assert [row[side] for row in first] != [row[side] for row in second]
        for rows in (first, second):
            assert [decode(row[side]) for row in rows] == [decode(row[side]) for row in plain]
        assert sum(len(row[side]) for row in first) > 1.2 * sum(len(row[side]) for row in plain)
    again = training("b", TranslationTask, bpe_dropout=0.5, target_tag=True).task.train.examples
    assert again.__getitems__(keys[0][::-1]) == first[::-1]
    assert task.validation.examples.transform is None
    assert training("c", TranslationTask).task.train.examples.transform is None


def test_a_text_that_dropout_would_make_too_long_keeps_its_pieces(training):
    task = training("a", TranslationTask, bpe_dropout=0.9, max_position_embeddings=16).task
    rows = task.train.examples.__getitems__([(0, index) for index in range(len(task.train.lengths))])
    plain = [task.train.examples.encoded[index] for index in range(len(rows))]
    kept = [a["labels"] == b["labels"] for a, b in zip(rows, plain, strict=True)]
    assert any(kept) and not all(kept)
    assert max(len(row[side]) for row in rows for side in ("input_ids", "labels")) <= 16


def test_a_run_with_bpe_dropout_and_weights_resumes_bit_for_bit(training, toy, saved_state):
    flags: dict[str, Any] = {
        **{"bpe_dropout": 0.1, "train_file": [str(toy / "train.jsonl"), str(toy / "validation.jsonl")]},
        **{"train_weights": [1, 3], "max_steps": 8},
    }
    whole = training("whole", **flags)
    whole.run()
    training("parts", **flags | {"max_steps": 3}).run()
    resumed = training("parts", **flags, resume=True, override=True)
    resumed.run()
    state, expected = (saved_state(run.folder.newest_checkpoint()) for run in (resumed, whole))
    differing = [key for key in expected if state[key] != expected[key]]
    # One evaluation more: after update 3.
    assert not [key for key in differing if not key.startswith(("best_", "evaluat", "loss_"))], differing
    other = training("other", **flags | {"bpe_dropout": 0.0})
    other.run()
    assert saved_state(other.folder.newest_checkpoint())["tokens"] < expected["tokens"]
