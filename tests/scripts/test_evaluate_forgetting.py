from __future__ import annotations

import json

import pytest

from vanilla_transformer.scripts import evaluate_forgetting, finetune, pretrain

SIZES = "--d-model 16 --encoder-layers 1 --decoder-layers 1 --num-attention-heads 2 --d-ff 32".split()
SHORT = "--max-tokens 256 --learning-rate 1e-2 --warmup-steps 2 --eval-steps 99 --save-steps 0".split()


@pytest.fixture(scope="module")
def folders(toy, labelled_toy, tmp_path_factory) -> dict[str, str]:
    """A denoiser, and the classifier that became of it."""
    folder = tmp_path_factory.mktemp("forgetting")
    made = {name: str(folder / name) for name in ("before", "after")}
    line = ["--train-file", f"{toy}/text.txt", "--tokenizer", f"{toy}/tokenizer", "--output-dir", made["before"]]
    assert pretrain.main([*SIZES, *SHORT, "--max-steps", "20", *line]) == 0
    line = [
        "--train-file",
        f"{labelled_toy}/classification.jsonl",
        "--model",
        made["before"],
        "--output-dir",
        made["after"],
    ]
    line += ["--task", "sequence-classification", "--head-reads", "decoder", "--max-steps", "10"]
    assert finetune.main([*SHORT, *line]) == 0
    return made


def test_a_table_and_json(folders, toy, capsys):
    argv = [f"--{name}={folder}" for name, folder in folders.items()] + ["--test-file", f"{toy}/text.txt"]
    capsys.readouterr()
    assert evaluate_forgetting.main([*argv, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kept"] == [] and found["difference"]["loss"] > 0
    assert found["after"]["loss"] - found["before"]["loss"] == pytest.approx(found["difference"]["loss"], abs=1e-4)
    assert evaluate_forgetting.main(argv) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["before", "after", "difference"] and row.split()[0] == "loss"
    assert row.split()[1:3] == [str(found["before"]["loss"]), str(found["after"]["loss"])] and row.split()[3][0] == "+"


def test_a_model_and_itself(folders, toy, capsys):
    argv = ["--before", folders["before"], "--after", folders["before"], "--test-file", f"{toy}/text.txt", "--json"]
    capsys.readouterr()
    assert evaluate_forgetting.main(argv) == 0
    assert json.loads(capsys.readouterr().out)["difference"] == {"loss": 0.0}


def test_a_head_that_stayed_is_told(folders, labelled_toy, capsys):
    file = f"{labelled_toy}/classification.jsonl"
    capsys.readouterr()
    argv = ["--before", folders["after"], "--after", folders["before"], "--test-file", file]
    assert evaluate_forgetting.main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("that may be of another task: head)")


def test_what_cannot_be_compared_is_answered_by_one_line(folders, tiny_model_dir, toy, capsys):
    capsys.readouterr()
    argv = ["--before", folders["before"], "--test-file", f"{toy}/text.txt", "--after"]
    assert evaluate_forgetting.main([*argv, str(tiny_model_dir)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "is not made from the other model: " in error
    assert evaluate_forgetting.main([*argv, "./nowhere"]) == 2
    assert "./nowhere: no such folder" in capsys.readouterr().err
