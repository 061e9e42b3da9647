"""`finetune` through its real entry points: bad input, a whole run, signals, two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from vanilla_transformer.scripts import average_checkpoints, finetune
from vanilla_transformer.tokenization import learn_vocabulary
from vanilla_transformer.training.loop import Training

SHORT = ["--max-steps", "2", "--max-tokens", "128", "--eval-steps", "9", "--save-steps", "0", "--best-metric", "loss"]
Flags = Callable[..., list[str]]


@pytest.fixture
def flags(toy: Path, tiny_sizes: list[str], tmp_path: Path, fresh_accelerator: Callable[[], None]) -> Flags:
    """A whole command line; `flags(seed=2, preset=None)` changes, adds and leaves out."""

    def line(**changes: object) -> list[str]:
        fresh_accelerator()
        given: dict[str, object] = {
            "task": "translation",
            "tokenizer": toy / "tokenizer",
            "train_file": toy / "train.jsonl",
            "source_lang": "en",
            "target_lang": "de",
            "output_dir": tmp_path / "run",
            "sizes": tiny_sizes,
            "short": SHORT,
            **changes,
        }
        words: list[str] = []
        for name, value in given.items():
            if isinstance(value, list):
                words += value
            elif value is True:
                words.append(f"--{name.replace('_', '-')}")
            elif value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return words

    return line


@pytest.fixture(scope="module")
def trained(toy: Path, tiny_sizes: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    data = ["--train-file", f"{toy}/train.jsonl", "--source-lang", "en", "--target-lang", "de"]
    folders = ["--tokenizer", f"{toy}/tokenizer", "--output-dir", str(folder)]
    assert finetune.main([*tiny_sizes, *SHORT, *data, *folders]) == 0
    return folder


def refused(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """The one line on stderr."""
    assert finetune.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n"), captured.err
    assert captured.err.startswith("vanilla-transformer finetune: error: ")
    return captured.err


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"train_file": "no.jsonl"}, "no.jsonl: "),
        ({"train_file": None}, "give --train-file or --dataset-name"),
        ({"validation_file": "no.jsonl"}, "no.jsonl: "),
        ({"target_lang": "fr"}, "train.jsonl:1: no `fr` in its `translation`; found: en, de"),
        ({"source_lang": None}, "give --source-lang and --target-lang"),
        ({"sizes": ["--preset", "huge"]}, "preset 'huge' is unknown; choose one of tiny, small, base,"),
        ({"sizes": None}, "give --model DIR to continue a model, or --preset"),
        ({"tokenizer": "./missing"}, "./missing: no such folder, so no tokenizer can be loaded from it"),
        ({"tokenizer": None}, "give --tokenizer DIR"),
        ({"learning_rate": "1e-3", "noam_factor": "2"}, "learning_rate and noam_factor are two ways"),
        ({"learning_rate": "-0.001"}, "learning_rate=-0.001 must be greater than 0"),
        ({"max_tokens": "-5"}, "max_tokens=-5 must be at least 1"),
        ({"max_steps": "0"}, "max_steps=0 must be at least 1"),
        ({"max_source_length": "-1"}, "max_source_length=-1 must be at least 1"),
        ({"max_steps": "many"}, "argument --max-steps: invalid int value: 'many'"),
        ({"precision": "fp8"}, "argument --precision: invalid choice: 'fp8'"),
        ({"precision": "fp16"}, "precision=fp16 needs a GPU; on a processor take fp32 or bf16"),
        (
            {"max_tokens": "8"},
            "no row of the corpus is left: kept 0 of 40 rows; dropped 40 longer than 4 source tokens, 4 ",
        ),
        ({"dropout": "1.5"}, "dropout=1.5 is a probability: at least 0 and less than 1"),
        ({"d_k": "0"}, "d_k=0 must be at least 1"),
        ({"attention": "sdp"}, "attention='sdp' cannot be used: "),
        ({"track_with": "clay-tablet"}, "track_with=clay-tablet: no such tracker is installed"),
        (
            {"target_tag": True, "target_lang": "en", "source_lang": "de"},
            "language 'en' has no tag in this tokenizer; known: de",
        ),
        ({"resume": True}, "holds no checkpoint to resume from; leave out --resume to begin"),
        ({"lerning_rate": "1"}, "no flag is called --lerning-rate; did you mean --learning-rate?"),
    ],
)
def test_bad_input_is_answered_by_one_line(flags: Flags, capsys, monkeypatch, tmp_path, changes, line):
    monkeypatch.chdir(tmp_path)
    assert line in refused(capsys, flags(**changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "changes, line",
    [
        ({"preset": "tiny"}, "--model continues a model and --preset begins one from scratch: give one of them"),
        ({"d_ff": "64"}, "d_ff is part of the weights of "),
        ({"tokenizer": "OTHER"}, "tokenizer_fingerprint: the model was made with tokenizer "),
    ],
)
def test_what_does_not_fit_a_model_is_answered_by_one_line(flags: Flags, trained, capsys, tmp_path, changes, line):
    if "tokenizer" in changes:
        learn_vocabulary(["something else entirely"] * 2, 265).save_pretrained(tmp_path / "other")
        changes = {"tokenizer": tmp_path / "other"}
    assert line in refused(capsys, flags(**{"sizes": None, "tokenizer": None, "model": trained, **changes}))


def test_bad_data_is_answered_by_one_line(flags: Flags, capsys, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"translation": {"en": "a", "de": "b"}}\n{"src": "a", "tgt": "b"}\n', encoding="utf-8")
    line = refused(capsys, flags(train_file=bad))
    assert "bad.jsonl:2: no `en`" in line and "found: src, tgt" in line
    bad.write_bytes(b'{"translation": {"en": "a", "de": "\xff"}}\n')
    assert "bad.jsonl" in (line := refused(capsys, flags(train_file=bad))) and "UTF-8" in line
    bad.write_text("", encoding="utf-8")
    assert "the corpus is empty" in refused(capsys, flags(train_file=bad))


def test_another_run_in_the_folder_is_not_touched(flags: Flags, trained, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert "holds a run or a model already" in refused(capsys, flags(output_dir=trained))
    line = refused(capsys, flags(output_dir=trained, resume=True, seed=7, dropout=0.2))
    assert "(dropout: None -> 0.2, seed: 1 -> 7); give the same, or --override to accept" in line
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_resume_with_another_flag_is_accepted_with_override(flags: Flags, tmp_path, capsys):
    assert finetune.main(flags()) == 0
    longer = [word.replace("2", "3") if word == "2" else word for word in SHORT]
    assert finetune.main(flags(resume=True, override=True, seed=7, short=longer)) == 0
    assert "Resuming with other flags: seed: 1 -> 7" in capsys.readouterr().out
    assert (tmp_path / "run" / "checkpoints" / "step-3").is_dir()


def test_a_run_goes_on_from_a_pretrained_model(flags: Flags, trained, tmp_path):
    tiny_steps = ["--max-steps", "1", "--learning-rate", "1e-9", "--save-steps", "0"]
    assert finetune.main(flags(sizes=None, tokenizer=None, model=trained, short=tiny_steps)) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "run"))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_a_recipe_is_overridden_by_flags(flags: Flags, tiny_sizes, tmp_path):
    (tmp_path / "recipe.yaml").write_text("max_steps: 1\nd_model: 8\nseed: 3\n", encoding="utf-8")
    sizes = ["--config", str(tmp_path / "recipe.yaml"), *tiny_sizes[2:]]
    assert finetune.main(flags(sizes=sizes, short=["--seed", "4", "--max-tokens", "128"])) == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["d_model"] == 8
    assert "seed: 4" in (tmp_path / "run" / "training.yaml").read_text()
    assert (tmp_path / "run" / "checkpoints" / "step-1").is_dir()


def test_ctrl_c_exits_130_with_a_checkpoint(flags: Flags, tmp_path, capsys, monkeypatch):
    original = Training._update

    def update_and_ctrl_c(run: Training, *arguments: object) -> None:
        original(run, *arguments)  # type: ignore[arg-type]
        if run.progress.update == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "_update", update_and_ctrl_c)
    assert finetune.main(flags()) == 130
    error = capsys.readouterr().err
    assert "finetune: interrupted: update 1 is saved; continue with the same flags and --resume" in error
    assert "Traceback" not in error
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-1"]
    assert finetune.main(flags(resume=True)) == 0


def test_weights_that_explode_end_the_run_with_one_line(flags: Flags, tmp_path, capsys):
    steep = ["--max-steps", "9", "--learning-rate", "1e30", "--warmup-steps", "1", "--save-steps", "1"]
    line = refused(capsys, flags(short=steep))
    assert "the loss is nan at update" in line and "train rows" in line and "lower the learning rate" in line
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]


# -- as separate programs ------------------------------------------------------------------------------------


@pytest.mark.slow  # six seconds
def test_a_terminated_program_leaves_a_checkpoint_and_exits_130(flags: Flags, tmp_path):
    program = [sys.executable, "-m", "vanilla_transformer.scripts.finetune"]
    argv = flags(short=["--max-steps", "1000000", "--max-tokens", "128", "--log-steps", "1", "--save-steps", "0"])
    with subprocess.Popen(
        [*program, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        for line in run.stdout:
            if line.startswith("update 3/"):
                run.send_signal(signal.SIGTERM)
                break
        run.stdout.read()
        error = run.stderr.read()
    assert run.returncode == 130, error
    assert "is saved; continue with the same flags and --resume" in error and "Traceback" not in error
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    AutoTokenizer.from_pretrained(checkpoint)


@pytest.mark.slow
def test_two_processes_make_the_same_updates_as_one_and_drop_different_units(flags: Flags, toy: Path, tmp_path: Path):
    """1 x 16 = 4 x 4 = 2 processes x 8: here an epoch is four batches, two for each process."""
    from vanilla_transformer.training.corpus import encode_pairs, load_pairs, pair_lengths
    from vanilla_transformer.training.token_batches import TokenBatches

    pairs = load_pairs([str(toy / "train.jsonl")], "en", "de")
    tokenizer = AutoTokenizer.from_pretrained(toy / "tokenizer")
    lengths = pair_lengths(encode_pairs(pairs, tokenizer, max_source_length=None, max_target_length=None)[0])
    four = next(most for most in range(100, 4096) if TokenBatches(lengths, most, 1).batches_in_epoch() == 4)
    # With a large epsilon Adam's step is proportional to the gradient.
    same = ["--max-steps", "2", "--adam-epsilon", "1", "--learning-rate", "1", "--warmup-steps", "1", "--dropout", "0"]
    same += ["--best-metric", "loss", "--save-steps", "0", "--max-grad-norm", "5"]
    made = {"one": flags(output_dir=tmp_path / "one", short=[*same, "--max-tokens", "4096"])}
    made["two"] = flags(
        output_dir=tmp_path / "two",
        short=[*same, "--max-tokens", str(four), "--accumulation-steps", "2"],
        validation_file=toy / "validation.jsonl",
    )
    assert finetune.main(made["one"]) == 0
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "vanilla_transformer.scripts.finetune", *made["two"]),
        ],
        # As a user has it: two processes must find each other without a GPU, unasked.
        env={k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU" or torch.accelerator.is_available()},
        capture_output=True, text=True, encoding="utf-8", timeout=280,
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr[-3000:]
    states = {name: tmp_path / name / "checkpoints" / "step-2" for name in made}
    progress = {name: json.loads((state / "progress.json").read_text()) for name, state in states.items()}
    assert progress["two"]["processes"] == 2 and progress["two"]["batches"] == 4
    assert progress["two"]["tokens"] == progress["one"]["tokens"]
    one, two = (load_file(state / "model.safetensors") for state in states.values())
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=2e-6, msg=key)
    drawn = [load_file(states["two"] / f"random_state_{process}.safetensors")["cpu"] for process in (0, 1)]
    assert not torch.equal(*drawn)
    (row,) = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert row["epoch"] == 2.0 and row["num_beams"] == 1 and row["bleu"] >= 0
    assert launched.stdout.count("Model: ") == 1  # one process speaks


def test_the_averaged_run_is_a_model_too(flags: Flags, tmp_path):
    """Two commands in a row, as a user has them."""
    assert finetune.main(flags(short=[*SHORT[:-4], "--save-steps", "1"])) == 0
    argv = ["--model", str(tmp_path / "run"), "--last", "2", "--output-dir", str(tmp_path / "average")]
    assert average_checkpoints.main(argv) == 0
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "average")


# -- tasks with classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, rows, changes, line",
    [
        ("sequence-classification", "classification", {"source_lang": "en"}, "source_lang is for tasks whose output is text"),
        ("sequence-classification", "classification", {"best": ["--best-metric", "las"]}, "choose accuracy or macro_f1 or loss"),
        ("sequence-classification", "classification", {"text_fields": "body"}, "no `body`; found: text, label"),
        ("token-classification", "tagging", {"tag_field": "pos"}, "no `pos`; found: tokens, tags; name the field with tag_field"),
        ("token-classification", "tagging", {"freeze": "lm_head"}, "freeze='lm_head': this model has body, "),
        ("dependency-parsing", "classification", {}, "classification.jsonl:1: no `tokens`; found: text, label"),
    ],
)  # fmt: skip
def test_a_task_with_classes_answers_bad_use_by_one_line(flags: Flags, labelled_toy, capsys, task, rows, changes, line):
    given = {"source_lang": None, "target_lang": None, "short": SHORT[:-2], "train_file": labelled_toy / f"{rows}.jsonl"}
    assert line in refused(capsys, flags(task=task, **given | changes))


def test_slow_start_needs_a_head_of_its_own(flags: Flags, capsys):
    line = refused(capsys, flags(head_only_steps=5))
    assert "head_only_steps=5: this model has no head of its own, its output matrix is the embedding" in line
