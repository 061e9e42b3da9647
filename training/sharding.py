"""A model that lies in shards, a part of each weight on each process (FSDP2), and the whole of it where that is needed.

    accelerate launch --use_fsdp --fsdp_version 2 ...

                               one process       DDP            FSDP2 on W processes
    weights, gradients,        16 bytes          16 bytes       16 / W bytes
    Adam's two moments         a weight          a weight       a weight
    scores, and what is saved  the model         the model      a whole copy on each process: 4 bytes a weight more

The copy is filled from the shards before each evaluation and each checkpoint, so that decoding, publishing and averaging are
the same code for all, and a checkpoint can be continued with shards or without.
"""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from vanilla_transformer.training.transfer import Transfer


def refuse_what_cannot_be_sharded(accelerator: Accelerator) -> None:
    """ValueError if shards were asked for that there would not be."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return
    if accelerator.distributed_type != DistributedType.FSDP:
        raise ValueError(
            "use_fsdp: Accelerate shards a model only over several processes with a GPU each, and would copy it silently here; "
            "leave --use_fsdp out"
        )
    if not accelerator.is_fsdp2:
        raise ValueError("use_fsdp: weights have their names and shapes in FSDP2 only: add --fsdp_version 2")
    if accelerator.mixed_precision == "fp16":
        raise ValueError("use_fsdp with precision=fp16: gradients in shards are not rescaled here; take bf16 or fp32")


def refuse_partial_learning_in_shards(accelerator: Accelerator, transfer: Transfer) -> None:
    """ValueError if only some weights learn, or some faster: `transfer` would go on holding the weights before they were cut."""
    if accelerator.is_fsdp2 and transfer.is_partial:
        raise ValueError(
            "use_fsdp shards all weights alike: leave out freeze, head_only_steps, layer_decay, head_rate and lora_rank, or "
            "leave out --use_fsdp"
        )


def prepare(
    accelerator: Accelerator, model: PreTrainedModel, optimizer: torch.optim.Optimizer
) -> tuple[torch.nn.Module, PreTrainedModel, Any]:
    """(the model that learns, wrapped or in shards; the plain one that is judged and saved; the optimizer)."""
    if not accelerator.is_fsdp2:
        wrapped, optimizer = accelerator.prepare(model, optimizer)
        return wrapped, accelerator.unwrap_model(wrapped), optimizer
    whole = copy.deepcopy(model).to(accelerator.device)
    # Weights and sums of gradients stay in float32, and autocast computes as it does without shards; the policy that
    # Accelerate would take rounds the loss and the sums to bfloat16.
    plugin: Any = accelerator.state.fsdp_plugin
    plugin.mixed_precision_policy = MixedPrecisionPolicy()
    # Accelerate would make a group of the input's matrix and the output's; here the target's is the same one, too, and all
    # uses of a matrix must lie in one group. Not told of them, it leaves them to the root's.
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        setattr(model, name, lambda: None)
    sharded, optimizer = accelerator.prepare(model, optimizer)
    for name in names:
        delattr(model, name)
    if accelerator.mixed_precision != "no":
        sharded.forward = accelerator.autocast()(sharded.forward)
    gather_weights(sharded, whole)  # on all but the first process they may have been left empty until now
    return sharded, whole, optimizer


def is_sharded(model: torch.nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


@torch.no_grad()
def gather_weights(model: torch.nn.Module, whole: torch.nn.Module) -> None:
    """From the shards of all processes into the whole copy. Every process must call it."""
    for name, parameter in model.named_parameters():
        whole.get_parameter(name).copy_(whole_tensor(parameter))


@torch.no_grad()
def spread_weights(whole: torch.nn.Module, model: torch.nn.Module) -> None:
    """From the whole copy, which must be the same on all processes, into the shards. Every process must call it."""
    for name, parameter in model.named_parameters():
        parameter.copy_(like(whole.get_parameter(name).detach(), parameter))


def whole_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """It, or all of its shards. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """A whole tensor cut into shards as `model` is, if it is; numbers that are not of its shape (Adam's count) stay whole."""
    if not isinstance(model, DTensor) or tensor.shape != model.shape:
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)
