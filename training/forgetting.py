"""How much of an old task a model has forgotten, as numbers: its score before it learned another one, and after.

    before   body, old head   ----------------------> score on the old task's data
    after    body, new head   body with the old head -> score on the same data

Catastrophic forgetting (McCloskey and Cohen 1989; for fine-tuned language models Mosbach et al. 2021).
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from vanilla_transformer.training.evaluation import as_saved
from vanilla_transformer.training.own_task import own_task
from vanilla_transformer.training.prediction import task_of
from vanilla_transformer.training.starting_model import load_from


def forgetting(
    accelerator: Accelerator, before: str, after: str, tokenizer: Any, flags: dict[str, Any], kind: type[Any], files: list[str],
    num_beams: int,
) -> dict[str, Any]:  # fmt: skip
    """`before`, `after` and `difference` of each score, and which parts of the old model `kept` their weights.

    Args:
        before, after: folders of the models; both are of the same sizes.
        tokenizer, flags, kind: of the old one.
        files: the old task's data.

    Raises:
        ValueError: the models are not of one body.
    """
    model = load_from(kind, before, "model").to(accelerator.device)
    task = own_task(model, tokenizer, flags, files)
    assert task.test is not None
    found: dict[str, Any] = {}
    for name in ("before", "after"):
        if name == "after":
            found["kept"] = transplant(model, _weights(after), after)
        with as_saved(model):
            scores = task.evaluate(accelerator, model, task.test, num_beams)
        found[name] = {measure: scores[measure] for measure in task.metrics if measure in scores}
    found["difference"] = {name: round(found["after"][name] - value, 4) for name, value in found["before"].items()}
    return found


@torch.no_grad()
def transplant(model: PreTrainedModel, weights: dict[str, torch.Tensor], name: str) -> list[str]:
    """Puts the body of another model into this one, in place; the stacks and heads that it has not stay, and are named.

    Raises:
        ValueError: the bodies are of different shapes.
    """
    tied = model.all_tied_weights_keys
    kept: list[str] = []
    for key, own in model.state_dict().items():
        if key in tied:
            continue
        part = key.split(".")[1] if key.startswith(f"{model.base_model_prefix}.") else "head"
        new = weights.get(key) if part != "head" else None
        if new is None:
            kept.append(part)
            continue
        # A vocabulary that has grown since keeps its old tokens in front.
        rows = new[: len(own)] if key.endswith("embed_tokens.weight") else new
        if rows.shape != own.shape:
            raise ValueError(f"{name} is not made from the other model: {key} is {tuple(new.shape)}, and was {tuple(own.shape)}")
        own.copy_(rows)
    return sorted(set(kept))


def _weights(folder: str) -> dict[str, torch.Tensor]:
    _, kind, _ = task_of(folder)
    return load_from(kind, folder, "model").state_dict()
