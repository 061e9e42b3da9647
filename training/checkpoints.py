"""Checkpoints: all that a run needs to go on as if it had never stopped. Written whole or not at all; no pickles.

    output_dir/checkpoints/step-2000/
        config.json, model.safetensors, tokenizer.json, ...   a model like any other: loads with from_pretrained (with
                                                               low-rank changes not: what is published does)
        optimizer.safetensors                                  Adam's moments, by parameter name
        random_state_0.safetensors                             torch's generators of process 0, 1, ...: dropout goes on
        progress.json                                          updates, batches consumed, best score, seconds, ...
        checksums.json                                         of all these files (checksums.py)
"""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vanilla_transformer.training.checksums import fault_of, write_checksums
from vanilla_transformer.training.processes import Processes
from vanilla_transformer.training.sharding import gather_weights, is_sharded, like, spread_weights, whole_tensor


@dataclass
class Progress:
    """Where a run stands. Everything else follows from it and from the flags."""

    update: int = 0
    batches: int = 0
    """micro-batches that each process has consumed"""
    processes: int = 1
    batches_per_update: int = 0
    """of all processes; 0: an older version did not note it"""
    accumulation_steps: int = 0
    """the flag; 0: as above"""
    tokens: int = 0
    """source + target tokens seen, padding left out, all processes"""
    seconds: float = 0.0
    """spent training: evaluating, saving and starting left out"""
    loss_sum: float = 0.0
    """of the training loss since the last evaluation, over this many target tokens"""
    loss_tokens: int = 0
    evaluated: int = -1
    """the update after which the last evaluation was"""
    best_score: float | None = None
    best_loss: float = 0.0
    best_update: int = 0
    evaluations_without_best: int = 0
    corpus: str = ""
    """the training rows (fingerprint.py)"""
    stream: dict[str, Any] = field(default_factory=dict)
    """what is known of the pools of a stream (streamed_batches.py)"""
    averaged: list[str] = field(default_factory=list)
    """the checkpoints whose average was judged at the end"""


def save_checkpoint(
    folder: Path,
    processes: Processes,
    model: torch.nn.Module,
    plain: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    keep: int = 0,
) -> Path:
    """Write `folder/step-N` and delete the oldest beyond `keep` (0 keeps all). Every process must call it.

    Args:
        model: what learns, as Accelerate prepared it.
        plain: the same without its wrapper; of a model in shards, its whole copy, which is filled here.
        keep: see above.

    It is written under another name and renamed when complete, so that a full disk or a kill leaves the earlier
    checkpoints as they are.

    Raises:
        OSError: on every process, if one of them could not write; nothing of it is left behind.
    """
    accelerator = processes.accelerator
    final = folder / f"step-{progress.update}"
    unfinished = folder / f".unfinished-step-{progress.update}"
    try:
        with processes.together():
            if accelerator.is_main_process:
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir(parents=True)
        if is_sharded(model):
            gather_weights(model, plain)
        # Of shards, every process must give its own; and nothing that waits for another may stand inside of `together`.
        moments = _optimizer_tensors(model, optimizer, accelerator) if is_sharded(model) or accelerator.is_main_process else {}
        with processes.together():
            save_file(_random_state(accelerator.device), unfinished / f"random_state_{accelerator.process_index}.safetensors")
            if accelerator.is_main_process:
                plain.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
                save_file(moments, unfinished / "optimizer.safetensors")
                state = asdict(progress)
                if accelerator.scaler is not None:
                    state["loss_scaler"] = accelerator.scaler.state_dict()
                (unfinished / "progress.json").write_text(json.dumps(state, indent=1))
        with processes.together():
            if accelerator.is_main_process:
                write_checksums(unfinished)
                shutil.rmtree(final, ignore_errors=True)
                unfinished.rename(final)
                if keep:
                    for old in complete_checkpoints(folder)[:-keep]:
                        shutil.rmtree(old)
    except (OSError, SafetensorError) as error:  # safetensors has its own name for a full disk
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OSError(f"{final} could not be written ({error}); earlier checkpoints are as they were") from error
    return final


def load_checkpoint(
    checkpoint: Path,
    accelerator: Accelerator,
    model: torch.nn.Module,
    plain: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Put model, optimizer and torch's generators into the state of `checkpoint`.

    With another number of processes than it was written by, the generators of the additional ones are not in it:
    dropout then differs from the run that never stopped, the data do not.

    Raises:
        ValueError: a file of it is damaged.
    """
    load_weights(plain, checkpoint)
    if is_sharded(model):
        spread_weights(plain, model)
    _load_optimizer_tensors(accelerator.unwrap_model(model), optimizer, _load_tensors(checkpoint / "optimizer.safetensors"))
    state = json.loads((checkpoint / "progress.json").read_text())
    if accelerator.scaler is not None and "loss_scaler" in state:
        accelerator.scaler.load_state_dict(state["loss_scaler"])
    random_state = checkpoint / f"random_state_{accelerator.process_index}.safetensors"
    if random_state.is_file():
        _set_random_state(_load_tensors(random_state), accelerator.device)
    return Progress(**{f.name: state[f.name] for f in fields(Progress) if f.name in state})


def complete_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first. One that is not complete has another name."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def intact_checkpoint(folder: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint whose files are what was written, and what is wrong with each newer one.

    Raises:
        ValueError: there is none.
    """
    faults: list[str] = []
    for checkpoint in reversed(complete_checkpoints(folder)):
        fault = fault_of(checkpoint)
        if fault is None:
            return checkpoint, faults
        faults.append(f"{checkpoint} is damaged: {fault}")
    raise ValueError("; ".join(faults) or f"{folder} holds no checkpoint")


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """The weights of a saved model into one of the same shape. Matrices that are one are stored once.

    Raises:
        ValueError: the file is damaged, or is another model's.
    """
    file = folder / "model.safetensors"
    weights = _load_tensors(file)
    # `tied` maps each parameter that is not stored to the one it is.
    tied = model.all_tied_weights_keys
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    missing = [name for name in own if name not in weights and name not in tied]
    unknown = [name for name in weights if name not in own]
    if missing or unknown:
        raise ValueError(f"{file} is another model's: missing {missing[:3]}, unknown {unknown[:3]}")
    for name, tensor in weights.items():
        if tensor.shape != own[name]:
            raise ValueError(f"{file} is another model's: {name} is {tuple(tensor.shape)}, and here {tuple(own[name])}")
    model.load_state_dict(weights, strict=False)


def average_weights(folders: list[Path]) -> dict[str, torch.Tensor]:
    """Mean of the weights of saved models (section 6.1), taken in float64 and rounded once.

    Raises:
        ValueError: there is none, one cannot be read or is damaged, or they do not have the same parameters.
    """
    if not folders:
        raise ValueError("there is no checkpoint to average")
    for folder in folders:
        if fault := fault_of(folder):
            raise ValueError(f"{folder} is damaged: {fault}")
    first = _load_tensors(folders[0] / "model.safetensors")
    total = {name: tensor.double() for name, tensor in first.items()}
    for folder in folders[1:]:
        weights = _load_tensors(folder / "model.safetensors")
        if {name: tensor.shape for name, tensor in weights.items()} != {name: t.shape for name, t in total.items()}:
            raise ValueError(f"{folder} has other parameters than {folders[0]}, so they cannot be averaged")
        for name, tensor in weights.items():
            total[name] += tensor
    return {name: (tensor / len(folders)).to(first[name].dtype) for name, tensor in total.items()}


def _load_tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} cannot be read ({error}); is it damaged?") from error


def _optimizer_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator
) -> dict[str, torch.Tensor]:
    """Whole, on the first process; of shards every process must give its own, in the same order."""
    found: dict[str, torch.Tensor] = {}
    for name, parameter in accelerator.unwrap_model(model).named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            whole = whole_tensor(value.detach())
            if accelerator.is_main_process:
                found[f"{name}|{key}"] = whole.cpu().contiguous()
    return found


def _load_optimizer_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    by_name: dict[str, dict[str, torch.Tensor]] = {}
    for full_name, tensor in tensors.items():
        name, key = full_name.split("|")
        by_name.setdefault(name, {})[key] = tensor
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {key: like(tensor, parameter) for key, tensor in by_name[names[parameter]].items()}
        for index, parameter in enumerate(ordered)
        if names[parameter] in by_name
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
