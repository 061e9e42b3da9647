"""How much of an old task a model has forgotten, as numbers: its score before it learned another one, and after.

    before   body, old head   ----------------------> score on the old task's data
    after    body, new head   body with the old head -> score on the same data

If the new head is the old one, which has learned on, it is the new one that is scored: where both write text, or tell the same
classes apart, and the run that followed began no new head. Classes that are named by numbers, and numbers that are hit, may be
those of any task: then it is the old head.

Catastrophic forgetting (McCloskey and Cohen 1989; for fine-tuned language models Mosbach et al. 2021).
"""

from __future__ import annotations

import re
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer, PreTrainedModel

from vanilla_transformer.training.evaluation import as_saved
from vanilla_transformer.training.own_task import own_task
from vanilla_transformer.training.prediction import task_of
from vanilla_transformer.training.starting_model import load_from

# Names of classes that are no more than numbers.
_NUMBERED = re.compile(r"(LABEL_)?-?\d+|true|false", re.IGNORECASE)


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
        ValueError: the models are not of one body, or a token has not the same id in both.
    """
    model = load_from(kind, before, "model").to(accelerator.device)
    task = own_task(model, tokenizer, flags, files)
    assert task.test is not None
    found: dict[str, Any] = {}
    for name in ("before", "after"):
        if name == "after":
            _refuse_other_ids(tokenizer, load_from(AutoTokenizer, after, "tokenizer"), after)
            _, new_kind, new_flags = task_of(after)
            other = load_from(new_kind, after, "model")
            found["kept"] = transplant(model, other, after, is_head_new=bool(new_flags.get("new_head")))
        with as_saved(model):
            scores = task.evaluate(accelerator, model, task.test, num_beams)
        found[name] = {measure: scores[measure] for measure in task.metrics if measure in scores}
    found["difference"] = {name: round(found["after"][name] - value, 5) for name, value in found["before"].items()}
    return found


@torch.no_grad()
def transplant(model: PreTrainedModel, other: PreTrainedModel, name: str, is_head_new: bool = False) -> list[str]:
    """Puts the weights of another model into this one, in place; a stack that it has not, and the head if it has another one,
    stay, and are named.

    Args:
        name: of the other model, for messages.
        is_head_new: whether its head is known not to come from this one's.

    Raises:
        ValueError: they are not of the same sizes.
    """
    same_head = type(model) is type(other) and not is_head_new and _are_of_one_task(model, other)
    old, new = _weights_by_part(model), _weights_by_part(other)
    kept = [part for part in old if part not in new or (part == "head" and not same_head)]
    for part in (part for part in old if part not in kept):
        if unlike := sorted(old[part].keys() ^ new[part].keys()):
            raise ValueError(f"{name} is not made from the other model: only one of them has {unlike[0]}")
        for key, own in old[part].items():
            # A vocabulary that has grown since keeps its old tokens in front.
            weights = new[part][key]
            rows = weights[: len(own)] if key.endswith(("embed_tokens.weight", "lm_head.weight")) else weights
            if rows.shape != own.shape:
                sizes = f"{key} is {tuple(weights.shape)}, and was {tuple(own.shape)}"
                raise ValueError(f"{name} is not made from the other model: {sizes}")
            own.copy_(rows)
    return sorted(kept)


def _are_of_one_task(model: Any, other: Any) -> bool:
    """Whether two models of one kind, by their classes, have learned the same. Names such as 0, true or LABEL_1 tell nothing."""
    if model.can_generate():
        return True
    names = list((model.config.id2label or {}).values())
    tell = model.config.problem_type != "regression" and not all(map(_NUMBERED.fullmatch, names))
    return tell and model.config.id2label == other.config.id2label


def _weights_by_part(model: PreTrainedModel) -> dict[str, dict[str, torch.Tensor]]:
    """Of "encoder", "decoder" and "head", each weight once."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in model.state_dict().items():
        if key not in model.all_tied_weights_keys:
            part = key.split(".")[1] if key.startswith(f"{model.base_model_prefix}.") else "head"
            parts.setdefault(part, {})[key] = tensor
    return parts


def _refuse_other_ids(before: Any, after: Any, name: str) -> None:
    ids = after.get_vocab()
    for token, number in sorted(before.get_vocab().items(), key=lambda item: item[1]):
        if ids.get(token) != number:
            raise ValueError(f"{name} is not made from the other model: {token!r} has the id {ids.get(token)}, and had {number}")
