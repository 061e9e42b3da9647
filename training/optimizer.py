"""A model made ready to learn: which of its weights change, and Adam, which changes them."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from vanilla_transformer.training.adapters import add_adapters
from vanilla_transformer.training.arguments import RunArguments, TransferArguments
from vanilla_transformer.training.transfer import Transfer


def ready_to_learn(
    model: PreTrainedModel, flags: TransferArguments, run: RunArguments
) -> tuple[Transfer, torch.optim.Optimizer]:
    """Which weights learn, and their optimizer (section 5.3). The model is changed: adapters, frozen weights, checkpointing.

    Raises:
        ValueError: as `add_adapters` and `Transfer`.
    """
    add_adapters(model, flags, run.seed)
    transfer = Transfer(model, flags)
    if run.gradient_checkpointing:
        # transformers 5.23 renamed it, and warns about the old name.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
    kind = torch.optim.AdamW if run.weight_decay else torch.optim.Adam
    optimizer = kind(
        transfer.parameter_groups(),
        lr=0.0,  # the schedule sets it before every update
        betas=(run.adam_beta1, run.adam_beta2),
        eps=run.adam_epsilon,
        weight_decay=run.weight_decay,
        fused=True,
    )
    return transfer, optimizer
