from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from vanilla_transformer.scripts import finetune, pretrain


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


@pytest.mark.parametrize(
    "more, said",
    [
        (["--mask-share", "1.5"], "mask_share"),
        (["--poisson-lambda", "-1"], "poisson_lambda"),
        (["--train-file", "no.txt"], "no.txt"),
        (["--best-metric", "bleu"], "best_metric=bleu needs generated output, which this task has not; choose loss"),
        (["--tokenizer", "WITHOUT MASK"], "the tokenizer has no mask token"),
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
