from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from vanilla_transformer.scripts import finetune, pretrain, train_tokenizer


@pytest.fixture
def line(toy: Path, tiny_sizes: list[str], tmp_path: Path, fresh_accelerator: Callable[[], None]) -> Callable[..., list[str]]:
    def make(folder: str, *more: str) -> list[str]:
        fresh_accelerator()
        files = ["--train-file", str(toy / "text.txt"), "--tokenizer", str(toy / "tokenizer")]
        steps = ["--max-tokens", "200", "--max-steps", "2", "--save-steps", "0", "--learning-rate", "3e-3"]
        return [*tiny_sizes, *files, *steps, "--output-dir", str(tmp_path / folder), *more]

    return make


def test_it_pretrains_and_finetune_goes_on_from_there(line, toy, tmp_path, fresh_accelerator):
    assert pretrain.main(line("pretrained", "--validation-file", str(toy / "text.txt"))) == 0
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pretrained")
    (row,) = [json.loads(text) for text in (tmp_path / "pretrained" / "metrics.jsonl").read_text().splitlines()]
    assert row["loss"] > 0 and "bleu" not in row
    fresh_accelerator()
    pairs = ["--train-file", str(toy / "train.jsonl"), "--source-lang", "en", "--target-lang", "de"]
    steps = ["--max-steps", "1", "--output-dir", str(tmp_path / "tuned")]
    assert finetune.main(["--model", str(tmp_path / "pretrained"), *pairs, *steps]) == 0


def test_a_flag_of_finetune_with_its_default_value_says_nothing(line, toy):
    same = ["--no-target-tag", "--test-num-beams", "4", "--eval-num-beams", "1"]
    assert pretrain.main(line("run", *same)) == 0


def test_raw_text_is_also_that_of_pairs(line, toy, tmp_path, capsys):
    assert pretrain.main(line("run", "--train-file", str(toy / "train.jsonl"))) == 0
    assert "Data, train: kept all 80 rows" in capsys.readouterr().out


def test_the_noise_is_part_of_the_run(line, tmp_path, capsys):
    """Other holes give other weights; a resumed run with other holes would not be the same run."""
    assert pretrain.main(line("a")) == 0
    assert pretrain.main(line("b", "--mask-share", "0.6")) == 0
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert any((a[key] != b[key]).any() for key in a)
    capsys.readouterr()
    assert pretrain.main(line("a", "--mask-share", "0.6", "--resume")) == 2
    assert "(mask_share: 0.3 -> 0.6); give the same, or --override" in capsys.readouterr().err


def test_it_goes_on_from_a_pretrained_model_with_another_objective(line, toy, tmp_path, capsys, fresh_accelerator):
    assert pretrain.main(line("first", "--objective", "token-deletion", "--whole-word")) == 0
    fresh_accelerator()
    capsys.readouterr()
    flags = ["--model", str(tmp_path / "first"), "--train-file", str(toy / "text.txt"), "--max-tokens", "60", "--max-steps", "2"]
    more = ["--objective", "sentence-permutation", "document-rotation", "--mix", "2", "1", "--documents", "pack"]
    assert pretrain.main([*flags, *more, "--save-steps", "0", "--output-dir", str(tmp_path / "second")]) == 0
    assert re.search(r"Data, train: kept all 92 rows; joined into \d+ blocks of up to 30 tokens, ", capsys.readouterr().out)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    # Two updates with a rate that has hardly begun to rise: the weights are still nearly those it began with.
    assert all((first[key] - second[key]).abs().max() < 0.01 for key in first)
    assert any((first[key] != second[key]).any() for key in first)


def test_span_corruption_with_a_tokenizer_that_was_made_for_it(line, toy, tmp_path):
    flags = ["--train-file", str(toy / "text.txt"), "--vocab-size", "300", "--sentinels", "20", "--languages", "de"]
    assert train_tokenizer.main([*flags, "--output-dir", str(tmp_path / "vocabulary")]) == 0
    more = ["--tokenizer", str(tmp_path / "vocabulary"), "--objective", "span-corruption", "--train-languages", "de"]
    assert pretrain.main(line("run", *more)) == 0


def test_the_shipped_recipe_is_a_run(line, tmp_path):
    assert pretrain.main(line("run", "--config", "pretrain_bart", "--accumulation-steps", "1", "--eval-steps", "2")) == 0
    flags = yaml.safe_load((tmp_path / "run" / "training.yaml").read_text())["flags"]
    assert (flags["objective"], flags["documents"], flags["warmup_steps"]) == (["text-infilling"], "cut", 1000)


@pytest.mark.parametrize(
    "more, said",
    [
        (["--mask-share", "1.5"], "mask_share"),
        (["--poisson-lambda", "-1"], "poisson_lambda"),
        (["--train-file", "no.txt"], "no.txt"),
        (["--best-metric", "bleu"], "best_metric=bleu is nothing that this task measures; choose loss"),
        (["--tokenizer", "WITHOUT MASK"], "the tokenizer has no mask token"),
        (["--objective", "infill"], "objective 'infill' is unknown; choose of text-infilling"),
        (["--objective", "span-corruption"], "needs sentinels (<extra_id_0>, <extra_id_1> ...), and the tokenizer has none"),
        (["--objective", "span-corruption", "token-deletion"], "cannot be applied together with token-deletion"),
        (["--mix", "1", "2"], "mix has 2 numbers for 1 objectives"),
        (["--documents", "split"], "invalid choice: 'split'"),
        (["--train-languages", "fr"], "language 'fr' has no tag"),
        (["--objective", "token-deletion", "--mask-share", "0.5"], "mask_share is for text-infilling, and the objective is"),
        (["--source-lang", "en"], "source_lang is for finetune, and this is pretrain; leave it out"),
        (["--target-tag"], "target_tag is for finetune"),
        (["--validation-languages", "en"], "validation_languages is for finetune"),
        (["--test-num-beams", "5"], "test_num_beams is for finetune"),
    ],
)
def test_bad_input_is_answered_by_one_line(line, tmp_path, capsys, more, said):
    if "WITHOUT MASK" in more:
        backend = Tokenizer(models.WordLevel({"<pad>": 0, "the": 1}, unk_token="<pad>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>").save_pretrained(tmp_path / "bare")
        more = ["--tokenizer", str(tmp_path / "bare")]
    assert pretrain.main(line("run", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("vanilla-transformer pretrain: error: ") and error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "run").exists()  # or the corrected line would find a run there
