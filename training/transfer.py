"""Training some of the weights, or some of them faster: what is done to a pretrained model so that it forgets less.

    level   head                   rate x 1              <- learns from the first update ("slow start")
            decoder, top layer     rate x layer_decay
            ...                                             then one level more every `unfreeze_steps` updates
            encoder, first layer
      0     embeddings             rate x layer_decay^n

Freezing all but the head, and unfreezing from the top, are ULMFiT's (Howard and Ruder 2018, sections 3.2 and 3.3), as are
the rates that fall from layer to layer. Layers that do not learn drop nothing either: what they give the layers above is
what they will give when the model is used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vanilla_transformer.training.arguments import TransferArguments


@dataclass
class Level:
    """Weights that are frozen, and learn, together."""

    name: str
    parameters: list[nn.Parameter]
    modules: list[nn.Module] = field(default_factory=list)
    """those in which something is dropped; the children of a stack are levels of their own"""
    rate: float = 1.0
    """times the learning rate of the schedule"""
    frozen: bool = False


class Transfer:
    """Which weights of a model learn, when and how fast.

    Args:
        model: before it is wrapped; weights that never learn get `requires_grad=False` here. Its attribute `new_tokens`, if it
            has one, names tokens whose embeddings were drawn for this run.
        flags: what to freeze, and for how long.

    Raises:
        ValueError: nothing is left to learn, new tokens would stay as they were drawn, or a part is named that the model has
            not.
    """

    def __init__(self, model: PreTrainedModel, flags: TransferArguments):
        self.flags = flags
        self.levels = levels(model)
        top = len(self.levels) - 1
        for number, level in enumerate(self.levels):
            level.rate = flags.layer_decay ** (top - number)
            level.frozen = _is_frozen(level.name, flags.freeze)
        self.levels[-1].rate *= flags.head_rate
        known = {"embeddings", "encoder", "decoder", "body"}
        for part in flags.freeze:
            if part not in known or not any(_is_frozen(level.name, [part]) for level in self.levels):
                raise ValueError(f"freeze={part!r}: this model has {', '.join(sorted(known - _absent(self.levels)))} to freeze")
        if all(level.frozen for level in self.levels if level.parameters):
            raise ValueError(
                f"freeze={' '.join(flags.freeze)} leaves nothing to learn: the output matrix is the embedding "
                f"(share_embeddings), so it is frozen with it"
            )
        if flags.head_only_steps and not any(p.requires_grad for p in self.levels[-1].parameters):
            raise ValueError(
                f"head_only_steps={flags.head_only_steps}: this model has no head of its own, its output matrix is the embedding "
                f"(share_embeddings); use layer_decay or freeze instead"
            )
        if flags.head_rate != 1.0 and not self.levels[-1].parameters:
            raise ValueError(
                f"head_rate={flags.head_rate}: this model has no head of its own, its output matrix is the embedding; leave it "
                f"out"
            )
        for level in self.levels:
            for parameter in level.parameters:
                parameter.requires_grad_(not level.frozen and parameter.requires_grad)
        new_tokens = getattr(model, "new_tokens", [])
        if new_tokens and not any(parameter.requires_grad for parameter in self.levels[0].parameters):
            frozen = f"lora_rank={flags.lora_rank}" if flags.lora_rank else f"freeze={' '.join(flags.freeze)}"
            raise ValueError(
                f"{frozen} freezes the embeddings, and those of {' and '.join(new_tokens)}, which this model did not have, would "
                f"never be learned; leave it out, or begin with a model that was trained with them"
            )
        output: Any = model.get_output_embeddings()
        self.output_is_frozen = output is not None and not output.weight.requires_grad

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimizer; `rate` is what the schedule's learning rate is multiplied by."""
        learning = [level for level in self.levels if not level.frozen]
        if all(level.rate == 1.0 for level in learning):
            # One group: a fused optimizer is fastest with one.
            return [{"params": [p for level in learning for p in level.parameters if p.requires_grad], "rate": 1.0}]
        groups = [{"params": [p for p in x.parameters if p.requires_grad], "rate": x.rate} for x in learning]
        return [group for group in groups if group["params"]]

    def resting(self, update: int) -> list[Level]:
        """The levels that do not learn at this update, counted from 1."""
        flags, top = self.flags, len(self.levels) - 1
        lowest = 0
        if update <= flags.head_only_steps:
            lowest = top
        elif flags.unfreeze_steps:
            lowest = max(0, top - 1 - (update - flags.head_only_steps - 1) // flags.unfreeze_steps)
        return [level for number, level in enumerate(self.levels) if level.frozen or number < lowest]

    def rest(self, update: int) -> None:
        """To be called behind `model.train()`: nothing is dropped where nothing is learned."""
        for level in self.resting(update):
            for module in level.modules:
                if level.name == "embeddings":
                    module.training = False  # of a stack itself: its layers are levels of their own
                else:
                    module.eval()

    def drop_gradients(self, update: int) -> None:
        """To be called behind the backward pass: weights whose turn has not come get no gradient, nor a share in its norm.

        They are not `requires_grad=False` until then, because distributed training asks once, at the beginning, who learns.
        """
        for level in self.resting(update):
            for parameter in level.parameters:
                parameter.grad = None

    @property
    def is_partial(self) -> bool:
        """Whether anything else happens than that all weights learn alike."""
        return self.flags != TransferArguments()

    def __str__(self) -> str:
        learning = sum(p.numel() for level in self.levels for p in level.parameters if p.requires_grad)
        every = sum(p.numel() for level in self.levels for p in level.parameters)
        said = [f"{learning:,} of {every:,} weights learn"]
        if frozen := [level.name for level in self.levels if level.frozen]:
            said.append(f"frozen: {', '.join(frozen)}")
        if self.output_is_frozen:
            said.append("the output matrix is the embedding (share_embeddings), so it is frozen with it")
        if self.flags.head_only_steps:
            after = f", then a level every {self.flags.unfreeze_steps}" if self.flags.unfreeze_steps else ", then all"
            said.append(f"slow start: the head alone for {self.flags.head_only_steps} updates{after}")
        if self.flags.layer_decay != 1.0:
            said.append(f"rates from {self.levels[0].rate:.2g} (embeddings) to {self.levels[-1].rate:g} (head)")
        return "; ".join(said)


def levels(model: PreTrainedModel) -> list[Level]:
    """From the embeddings to the head; every parameter is in exactly one, one that is shared in the lowest."""
    body = model.base_model
    stacks = [stack for stack in (getattr(body, "encoder", None), getattr(body, "decoder", None)) if stack is not None]
    found = [Level("embeddings", [], stacks)]
    taken: set[torch.Tensor] = set()
    _take(found[0], taken, [part for stack in stacks for part in (stack.embed_tokens, stack.embed_positions)])
    for name, stack in zip(("encoder", "decoder"), stacks, strict=False):
        for number, layer in enumerate(stack.layers, start=1):
            last = [stack.norm] if number == len(stack.layers) else []
            found.append(Level(f"{name} layer {number}", [], [layer, *last]))
            _take(found[-1], taken, found[-1].modules)
    head = [module for module in model.children() if module is not body]
    found.append(Level("head", [], head))
    _take(found[-1], taken, [model])  # whatever is left
    return found


def _take(level: Level, taken: set[torch.Tensor], modules: list[nn.Module]) -> None:
    for module in modules:
        for parameter in module.parameters():
            if parameter not in taken:
                taken.add(parameter)
                level.parameters.append(parameter)


def _is_frozen(level: str, parts: list[str]) -> bool:
    return level.split()[0] in parts or ("body" in parts and level != "head")


def _absent(found: list[Level]) -> set[str]:
    return {"encoder", "decoder"} - {level.name.split()[0] for level in found}
