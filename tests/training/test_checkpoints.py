from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers.modeling_utils
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
from vanilla_transformer.training import checkpoints
from vanilla_transformer.training.checkpoints import (
    Progress,
    average_weights,
    complete_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from vanilla_transformer.training.processes import Processes


class Trained:
    """A model after an update by Adam, and what else a checkpoint takes."""

    def __init__(self, tokenizer: Path, seed: int = 0, d_model: int = 8, **fields):
        self.accelerator = Accelerator(cpu=True)
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer)
        torch.manual_seed(seed)
        config = VanillaTransformerConfig(
            vocab_size=len(self.tokenizer), d_model=d_model, encoder_layers=1, decoder_layers=1,
            num_attention_heads=1, d_ff=8, **fields,
        )  # fmt: skip
        model = VanillaTransformerForConditionalGeneration(config)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9, 0.98))
        self.model, prepared = self.accelerator.prepare(model, optimizer)
        self.optimizer = prepared.optimizer
        self.update()

    def update(self) -> None:
        ids = torch.randint(5, 20, (2, 4))
        self.model(input_ids=ids, labels=ids).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path, update: int, keep: int = 0) -> Path:
        progress = Progress(update=update, batches=2 * update, best_score=-1.25, loss_sum=0.1 + 0.2)
        processes = Processes(self.accelerator)
        return save_checkpoint(
            folder, processes, self.model, self.model, self.tokenizer, self.optimizer, progress, keep
        )

    def load(self, checkpoint: Path) -> Progress:
        return load_checkpoint(checkpoint, self.accelerator, self.model, self.model, self.optimizer)


@pytest.fixture
def trained(toy: Path, fresh_accelerator: Callable[[], None]) -> Callable[..., Trained]:
    return lambda **options: Trained(toy / "tokenizer", **options)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("share_embeddings", ["all", "none"])
def test_a_checkpoint_brings_back_weights_moments_dropout_and_progress(trained, tmp_path, share_embeddings):
    first = trained(share_embeddings=share_embeddings)
    checkpoint = first.save(tmp_path, 7)
    first.update()
    drawn = torch.rand(3)

    other = trained(seed=1, share_embeddings=share_embeddings)
    progress = other.load(checkpoint)
    other.update()
    assert torch.equal(torch.rand(3), drawn)
    assert progress == Progress(update=7, batches=14, best_score=-1.25, loss_sum=0.1 + 0.2)
    for (name, ours), (_, theirs) in zip(other.model.named_parameters(), first.model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
        for key, value in first.optimizer.state[theirs].items():
            assert torch.equal(other.optimizer.state[ours][key], value), (name, key)
    assert other.optimizer.state[next(other.model.parameters())]["step"] == 2


def test_a_checkpoint_is_a_model_with_its_tokenizer_and_no_pickle(trained, tmp_path):
    mine = trained()
    checkpoint = mine.save(tmp_path, 3)
    model = VanillaTransformerForConditionalGeneration.from_pretrained(checkpoint)
    assert torch.equal(model.lm_head.weight, mine.model.lm_head.weight)
    AutoTokenizer.from_pretrained(checkpoint).check_fits(model.config)
    assert {path.suffix for path in checkpoint.iterdir()} <= {".json", ".safetensors", ".py"}


def test_progress_of_an_older_version_is_read_with_defaults_for_what_is_new(trained, tmp_path):
    mine = trained()
    checkpoint = mine.save(tmp_path, 3)
    (checkpoint / "progress.json").write_text(json.dumps({"update": 3, "batches": 6, "gone": 1}))
    assert mine.load(checkpoint) == Progress(update=3, batches=6)


def test_only_complete_checkpoints_count_and_they_are_ordered_as_numbers(tmp_path):
    for name in ("step-10", "step-9", "step-100", ".unfinished-step-200", "step-300.old", "step-", "notes"):
        (tmp_path / name).mkdir()
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["step-9", "step-10", "step-100"]
    assert complete_checkpoints(tmp_path / "missing") == []


def test_the_oldest_beyond_keep_are_deleted(trained, tmp_path):
    mine = trained()
    for update in (8, 9, 10, 11):
        mine.save(tmp_path, update, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-11"]
    mine.save(tmp_path, 12, keep=0)
    assert len(complete_checkpoints(tmp_path)) == 3


def test_the_same_step_is_replaced(trained, tmp_path):
    mine = trained()
    before = contents(mine.save(tmp_path, 5))
    mine.update()
    after = contents(mine.save(tmp_path, 5))
    assert [path.name for path in tmp_path.iterdir()] == ["step-5"]
    assert before.keys() == after.keys() and before["model.safetensors"] != after["model.safetensors"]


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_disk_says_safetensors(*args, **kwargs):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize(
    "where, name, failure",
    [
        (Path, "mkdir", full_disk),
        (checkpoints, "save_file", full_disk_says_safetensors),
        (transformers.modeling_utils, "safe_save_file", full_disk_says_safetensors),
        (Path, "write_text", full_disk),
        (Path, "rename", full_disk),
    ],
)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_half_written(
    trained, tmp_path, monkeypatch, where, name, failure
):
    mine = trained()
    mine.save(tmp_path, 4, keep=1)
    before = contents(tmp_path)
    mine.update()
    with monkeypatch.context() as patch:
        patch.setattr(where, name, failure)
        with pytest.raises(
            OSError, match=r"step-8 could not be written \(.*No space left.*\); earlier checkpoints are as"
        ):
            mine.save(tmp_path, 8, keep=1)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]
    mine.save(tmp_path, 8, keep=1)  # when there is space again
    assert [path.name for path in tmp_path.iterdir()] == ["step-8"]


def test_what_a_killed_process_left_half_written_does_not_end_up_in_a_checkpoint(trained, tmp_path):
    (tmp_path / ".unfinished-step-4").mkdir()
    (tmp_path / ".unfinished-step-4" / "random_state_7.safetensors").write_text("half")
    checkpoint = trained().save(tmp_path, 4)
    assert "random_state_7.safetensors" not in contents(checkpoint)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


@pytest.mark.parametrize("name", ["model", "optimizer", "random_state_0"])
def test_a_damaged_file_is_named(trained, tmp_path, name):
    mine = trained()
    file = mine.save(tmp_path, 4) / f"{name}.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{name}.safetensors cannot be read .*; is it damaged"):
        mine.load(file.parent)


def test_weights_of_another_model_are_refused(trained, tmp_path):
    mine = trained()
    file = mine.save(tmp_path, 4) / "model.safetensors"
    weights = load_file(file)
    weights["stranger"] = weights.pop(next(name for name in weights if "q_proj" in name))
    save_file(weights, file)
    with pytest.raises(ValueError, match="is another model's: missing .*q_proj.*, unknown .*stranger"):
        load_weights(mine.model, file.parent)
    with pytest.raises(ValueError, match=r"is another model's: model.\S+ is \(8, 8\), and here \(4, 4\)$"):
        load_weights(trained(d_model=4).model, mine.save(tmp_path, 5))


def test_the_average_is_the_mean_of_each_weight(tmp_path):
    for name, numbers in {"a": [1.0, 2.0], "b": [3.0, 2.0], "c": [8.0, -1.0]}.items():
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor(numbers), "v": torch.zeros(1)}, tmp_path / name / "model.safetensors")
    mean = average_weights([tmp_path / name for name in "abc"])
    assert torch.equal(mean["w"], torch.tensor([4.0, 1.0])) and torch.equal(mean["v"], torch.zeros(1))
    assert torch.equal(average_weights([tmp_path / "c"])["w"], torch.tensor([8.0, -1.0]))


def test_the_average_is_rounded_once(tmp_path):
    # In float32 2^24 + 1 is 2^24: adding the ones to it one by one would lose them all.
    numbers = [2.0**24, 1.0, 1.0, 1.0, 1.0]
    for index, number in enumerate(numbers):
        (tmp_path / str(index)).mkdir()
        save_file({"w": torch.tensor([number])}, tmp_path / str(index) / "model.safetensors")
    mean = average_weights([tmp_path / str(index) for index in range(5)])["w"]
    assert mean.dtype == torch.float32 and mean.item() == torch.tensor((2**24 + 4) / 5).item()


@pytest.mark.parametrize(
    "others", [{"w": torch.zeros(3)}, {"w": torch.zeros(2), "v": torch.zeros(1)}, {"v": torch.zeros(2)}]
)
def test_models_of_other_shapes_are_not_averaged(tmp_path, others):
    for name, weights in {"a": {"w": torch.zeros(2)}, "b": others}.items():
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
    with pytest.raises(ValueError, match="b has other parameters than .*a, so they cannot be averaged"):
        average_weights([tmp_path / "a", tmp_path / "b"])


def test_no_models_have_no_average(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint to average"):
        average_weights([])
    with pytest.raises(ValueError, match="model.safetensors cannot be read"):
        average_weights([tmp_path])
