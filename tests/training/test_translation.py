from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from vanilla_transformer.modeling import Translation
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
    with pytest.raises(ValueError, match="max_source_length=21 is more than 20, the less of max_position_embeddings=64"):
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
