"""`--max-tokens auto`: as large as memory allows, and a run as if the number had been given by hand."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
)
from vanilla_transformer.scripts import finetune, pretrain
from vanilla_transformer.scripts.command_line import parse_arguments
from vanilla_transformer.training import memory_fit
from vanilla_transformer.training.accelerator import make_accelerator
from vanilla_transformer.training.arguments import (
    DataArguments,
    ModelArguments,
    RunArguments,
    TaskArguments,
    TransferArguments,
)
from vanilla_transformer.training.loop import Training
from vanilla_transformer.training.machine_memory import LiveBytes, free_bytes
from vanilla_transformer.training.memory_fit import MOST, Trial, most_by_line, most_that_fits
from vanilla_transformer.training.objectives import NoiseArguments

SIZES: dict[str, Any] = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_attention_heads": 2, "d_ff": 32},
    **{"max_position_embeddings": 32, "dropout": 0.1},
}


def config(**changed: Any) -> VanillaTransformerConfig:
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return VanillaTransformerConfig(**SIZES, **special, vocab_size=50, **changed)


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """Among the objects of all these imports the collector takes longer than training."""
    monkeypatch.setattr(memory_fit, "free_memory", lambda: None)


@pytest.fixture
def trial(fresh_accelerator):
    def make(model: Any = None, data: Any = None, **flags: Any) -> Trial:
        run = RunArguments(**flags)
        model = model or VanillaTransformerForConditionalGeneration(config())
        return Trial(make_accelerator(run), model, data or DataArguments(), TransferArguments(), run)

    return make


# ------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("limit", [256, 300, 5000, 12345, 49_999])
def test_what_is_found_fits_and_five_per_cent_more_does_not(limit):
    tried = []

    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= limit

    found = most_that_fits(fits, 256, 50_000)
    assert limit / 1.05 - 1 <= found <= limit
    assert max(tried) <= 2 * limit and len(tried) < 16


def test_all_fits_or_nothing_does():
    assert most_that_fits(lambda tokens: True, 256, 50_000) == 50_000
    assert most_that_fits(lambda tokens: False, 256, 50_000) == 0
    assert most_that_fits(lambda tokens: True, 256, 100) == 100


@pytest.mark.parametrize("longest_row", [32, 200, 2048, 5000])
def test_a_line_is_followed_from_batches_of_a_few_rows_to_the_end_of_memory(longest_row):
    measured = []

    def peak(tokens: int) -> int:
        measured.append(tokens)
        return 10_000 + 700 * tokens

    assert most_by_line(peak, lambda: 10_000 + 700 * 30_000, longest_row) == 30_000
    assert most_by_line(peak, lambda: 10**12, longest_row) == MOST
    assert max(measured) <= max(4 * 256, 2 * longest_row)


def test_a_batch_that_may_not_fit_is_not_measured():
    measured = []

    def peak(tokens: int) -> int:
        measured.append(tokens)
        return tokens**2  # an attention matrix held whole

    room = 2000**2
    found = most_by_line(peak, lambda: room, 8192)
    assert all(peak <= room for peak in measured) and max(measured) < 2000
    assert 1900 < found <= 2000
    assert most_by_line(lambda tokens: 10**9, lambda: 10**6, 2048) < 128


# -------------------------------------------------------------------------------------------------------- the trial


@pytest.mark.parametrize("accumulation_steps", [1, 4])
def test_a_device_is_filled_up_to_what_it_holds_and_left_clean(trial, accumulation_steps):
    model = VanillaTransformerForConditionalGeneration(config())
    limit, seen = 3000, []

    def watch(module: Any, arguments: Any, given: dict[str, Any]) -> None:
        tokens = given["input_ids"].numel() + given["decoder_input_ids"].numel()
        seen.append((tuple(given["input_ids"].shape), any(p.grad is not None for p in model.parameters())))
        if tokens > limit:
            raise torch.OutOfMemoryError

    model.register_forward_pre_hook(watch, with_kwargs=True)
    found = most_that_fits(trial(model, accumulation_steps=accumulation_steps).fits, 256, 50_000)
    assert limit / 1.1 < found <= limit + 64
    assert all(parameter.grad is None for parameter in model.parameters())
    shapes = [shape for shape, _ in seen]
    assert (32, 8) in shapes and (8, 32) in shapes  # 512 tokens: short rows, and rows of the longest length
    # Of an update of several batches, the second finds the gradients of the first.
    assert any(has_gradients for _, has_gradients in seen) == (accumulation_steps > 1)


def test_rows_are_no_longer_than_the_data_may_have(trial):
    made = trial(data=DataArguments(max_source_length=20, max_target_length=12))
    assert made.longest == [20, 12]
    reading = VanillaTransformerForSequenceClassification(config(head_reads="decoder", num_labels=2))
    assert trial(reading).longest == [32, 32]  # the text twice
    assert trial(VanillaTransformerForSequenceClassification(config(head_reads="encoder", num_labels=2))).longest == [
        32
    ]


@pytest.mark.parametrize(
    "kind, changed",
    [
        (VanillaTransformerForSequenceClassification, {"problem_type": "single_label_classification", "num_labels": 3}),
        (VanillaTransformerForSequenceClassification, {"problem_type": "regression", "num_labels": 1}),
        (VanillaTransformerForTokenClassification, {"num_labels": 3}),
        (VanillaTransformerForDependencyParsing, {"num_labels": 3, "arc_width": 8, "relation_width": 8}),
    ],
)
@pytest.mark.parametrize("head_reads", ["encoder", "decoder"])
def test_models_of_all_tasks_can_be_tried(trial, kind, changed, head_reads):
    model = kind(config(head_reads=head_reads, **changed))
    assert trial(model).fits(128)


def test_more_tokens_more_bytes_and_the_same_each_time(trial):
    made = trial()
    first = made.peak_bytes(256)
    small, large, again = (made.peak_bytes(tokens) for tokens in (512, 1024, 512))
    assert small == again
    assert 1.6 < large / small < 2.1
    adam = 4 * sum(2 * parameter.numel() + 1 for parameter in made.model.parameters())  # two numbers each, and a count
    assert first - made.peak_bytes(256) == adam  # the first time


def test_bytes_are_counted_while_tensors_live():
    weight = torch.zeros(1000, requires_grad=True)
    with LiveBytes() as live:
        one = weight * 2
        two = one.exp()
        assert live.now == 8000
        two.view(10, 100).add_(1)  # neither makes anything
        assert live.now == 8000
        del one, two
        three = weight.detach() + 1
        assert live.now == 4000 and live.peak == 8000
    del three


def test_a_container_is_smaller_than_its_machine_and_processes_share_it(tmp_path, monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=10_000))
    assert free_bytes(tmp_path) == 10_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("500\n")
    assert free_bytes(tmp_path) == 10_000
    (tmp_path / "memory.max").write_text("4500\n")
    assert free_bytes(tmp_path) == 4000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(tmp_path) == 1000


# ---------------------------------------------------------------------------------------------------------- the run


def arguments(toy: Path, output_dir: Path, **flags: Any) -> list[Any]:
    """Of `finetune`, in the order of its `main`."""
    given = {
        **SIZES,
        **{"tokenizer": str(toy / "tokenizer"), "train_file": [str(toy / "train.jsonl")]},
        **{"source_lang": "en", "target_lang": "de", "learning_rate": 3e-3, "warmup_steps": 4, "save_steps": 0},
        **{"output_dir": str(output_dir), "max_steps": 2, "max_tokens": "auto"},
        **flags,
    }
    parts = (TaskArguments, ModelArguments, DataArguments, TransferArguments, RunArguments)
    return [part(**{f.name: given[f.name] for f in fields(part) if f.name in given}) for part in parts]


def run(prepared: Training) -> None:
    prepared.folder.tell = lambda model: None  # drawing takes longer than training
    prepared.run()


def test_a_run_that_found_its_number_is_the_run_that_was_given_it(
    toy, tmp_path, saved_state, fresh_accelerator, monkeypatch, capsys
):
    monkeypatch.setattr(memory_fit, "MOST", 300)
    run(finetune.prepare(arguments(toy, tmp_path / "auto")))
    assert "max_tokens=auto: 300 tokens fit into the memory of cpu, the most that is taken" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "auto" / "training.yaml").read_text())["flags"]["max_tokens"] == 300
    fresh_accelerator()
    run(finetune.prepare(arguments(toy, tmp_path / "by hand", max_tokens=300)))
    found, given = (saved_state(tmp_path / name / "checkpoints" / "step-2") for name in ("auto", "by hand"))
    assert found == given

    monkeypatch.setattr(memory_fit, "Trial", None)  # nothing is tried when a run goes on
    fresh_accelerator()
    resumed = arguments(toy, tmp_path / "by hand", resume=True, max_steps=3)
    run(finetune.prepare(resumed))
    assert resumed[-1].max_tokens == 300
    assert "max_tokens=auto: 300, as the run began." in capsys.readouterr().out


def test_there_is_nothing_to_resume(toy, tmp_path, fresh_accelerator):
    with pytest.raises(
        ValueError, match=r"takes the number that the run began with, and output_dir .*none holds no run"
    ):
        finetune.prepare(arguments(toy, tmp_path / "none", resume=True))


def test_seeds_that_go_on_take_the_number_of_the_first(toy, tmp_path, fresh_accelerator):
    (tmp_path / "seed-1").mkdir()
    (tmp_path / "seed-1" / "training.yaml").write_text("flags: {max_tokens: 777}\n")
    given = arguments(toy, tmp_path, resume=True, seeds=2)
    finetune.settle_max_tokens(given)
    assert given[-1].max_tokens == 777


def test_a_model_that_leaves_no_room_is_refused(toy, tmp_path, fresh_accelerator, monkeypatch):
    monkeypatch.setattr(memory_fit, "free_bytes", lambda: 1000)
    with pytest.raises(
        ValueError, match="max_tokens=auto: not even 256 tokens fit into the memory of cpu beside this model"
    ):
        finetune.settle_max_tokens(arguments(toy, tmp_path / "run"))


def test_pretraining_and_tasks_with_classes_find_theirs(toy, labelled_toy, tmp_path, fresh_accelerator, monkeypatch):
    monkeypatch.setattr(memory_fit, "free_bytes", lambda: 20_000_000)
    _, model, data, _, own = arguments(toy, tmp_path / "run")
    pretrain.settle_max_tokens([NoiseArguments(), model, data, own])
    assert 256 < own.max_tokens < 50_000
    given = arguments(
        toy,
        tmp_path / "run",
        task="token-classification",
        train_file=[str(labelled_toy / "tagging.jsonl")],
        source_lang=None,
        target_lang=None,
    )
    finetune.settle_max_tokens(given)
    assert own.max_tokens < given[-1].max_tokens <= 50_000  # an encoder alone takes less memory a token


# --------------------------------------------------------------------------------------------------------- the flag


def test_the_flag_takes_a_number_or_the_word(tmp_path, capsys):
    def parsed(*argv: str) -> Any:
        return parse_arguments("finetune", "Trains.", RunArguments, argv=list(argv))[0].max_tokens

    assert parsed("--max-tokens", "auto") == parsed("--max_tokens=auto") == "auto"
    assert parsed("--max-tokens", "512") == 512 and parsed() == 4096
    file = tmp_path / "run.yaml"
    for text, value in (("auto", "auto"), ("1024", 1024)):
        file.write_text(f"max_tokens: {text}\n")
        assert parsed("--config", str(file)) == value
    with pytest.raises(SystemExit):
        parsed("--max-tokens", "many")
    assert "argument --max-tokens: must be a whole number or auto, and is 'many'" in capsys.readouterr().err
    file.write_text("max_tokens: many\n")
    with pytest.raises(SystemExit):
        parsed("--config", str(file))
    assert "max_tokens must be a whole number or one of auto, and is 'many'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="max_tokens='many' must be a whole number, or auto"):
        RunArguments(max_tokens="many")
