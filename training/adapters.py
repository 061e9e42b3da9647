"""Low-rank changes beside frozen weights (LoRA: Hu et al. 2022), by peft: W x + (alpha / rank) B A x, and only A and B learn.

What a run publishes has them added into the weights: it is a model like any other, and needs no peft.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import TransferArguments


def add_adapters(model: PreTrainedModel, flags: TransferArguments, seed: int) -> None:
    """Puts a low-rank change beside each linear layer of the body that `flags.lora_targets` names; the rest of it is frozen. A
    head learns as it is.

    Does nothing if `flags.lora_rank` is 0.

    Raises:
        ValueError: peft is not installed, or no layer has such a name.
    """
    if not flags.lora_rank:
        return
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora_rank needs the package peft: pip install peft") from error
    config = LoraConfig(
        r=flags.lora_rank,
        lora_alpha=flags.lora_alpha,  # pyright: ignore[reportArgumentType]  # peft computes with it, whole or not
        lora_dropout=flags.lora_dropout,
        target_modules=list(flags.lora_targets),
    )
    torch.manual_seed(seed)  # A is drawn at random; B begins as zero
    try:
        inject_adapter_in_model(config, model.base_model)
    except ValueError as error:
        raise ValueError(f"lora_targets={' '.join(flags.lora_targets)}: {' '.join(str(error).split())[:200]}") from error


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with every low-rank change added into its weight; the model itself if it has none."""
    if not any(name.endswith("base_layer") for name, _ in model.named_modules()):
        return model
    merged = deepcopy(model)
    _merge(merged)
    return merged


def _merge(module: nn.Module) -> None:
    child: Any
    for name, child in module.named_children():
        if hasattr(child, "base_layer"):
            child.merge()
            setattr(module, name, child.get_base_layer())
        else:
            _merge(child)
