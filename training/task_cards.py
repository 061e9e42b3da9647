"""What a model card says of each task: what the model does, how the Hub calls it, and where it fails."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from vanilla_transformer.training.directions import Direction
from vanilla_transformer.training.prediction import task_name

_CLASSES_SHOWN = 20
# The Hub has none for parsers, and none for models that restore whole texts.
_PIPELINE_TAGS = {
    "translation": "translation",
    "dialogue": "text2text-generation",
    "sequence-classification": "text-classification",
    "token-classification": "token-classification",
}


@dataclass(frozen=True)
class TaskCard:
    """Of one model."""

    task: str | None
    """see `task_name`"""
    does: str
    """a sentence"""
    limits: list[str]
    """sentences"""
    tags: list[str]
    pipeline_tag: str | None
    """what the Hub sorts models by; None where it has no such task"""
    task_type: str
    """in the card's model-index"""
    languages: list[str]


def task_card(model: PreTrainedModel, flags: dict[str, Any]) -> TaskCard:
    """The card of a model whose run had these flags; none if they are not known."""
    task = task_name(type(model), flags)
    config: Any = model.config
    pipeline_tag = _PIPELINE_TAGS.get(task or "")
    return TaskCard(
        task=task,
        does=_does(task, config, flags),
        limits=_limits(task, config, flags),
        tags=["vanilla-transformer", *([task] if task else [])],
        pipeline_tag=pipeline_tag,
        task_type=pipeline_tag or ("dependency-parsing" if task == "dependency-parsing" else "fill-mask"),
        languages=_languages(task, flags),
    )


def directions(flags: dict[str, Any]) -> list[Direction]:
    """Those that a translator was trained for, each once."""
    if flags.get("train_languages"):
        return list(dict.fromkeys(Direction.parse(name, "train_languages") for name in flags["train_languages"]))
    return [Direction(flags["source_lang"], flags["target_lang"])]


def _languages(task: str | None, flags: dict[str, Any]) -> list[str]:
    if task == "translation":
        return list(dict.fromkeys(code for one in directions(flags) for code in (one.source, one.target)))
    return list(flags.get("train_languages") or []) if task == "denoising" else []


def _does(task: str | None, config: Any, flags: dict[str, Any]) -> str:
    if task == "translation":
        return f"It translates {', '.join(f'{one.source} to {one.target}' for one in directions(flags))}."
    if task == "dialogue":
        return "It answers in a dialogue: what was said so far in, the next turn out."
    if task == "denoising":
        return f"It was pretrained by denoising: {_objectives(flags)}."
    if task == "sequence-classification":
        if config.problem_type == "regression":
            return "It gives a text, or a pair of texts, a number."
        return f"It tells {config.num_labels} classes of texts apart: {_classes(config)}."
    if task == "token-classification":
        unit = "character" if config.tokens_are_characters else "word"
        return f"It gives each {unit} of a text one of {config.num_labels} tags: {_classes(config)}."
    if task == "dependency-parsing":
        return (
            f"It finds the tree of a sentence (Dozat and Manning 2017): the head of each word, and one of {config.num_labels} "
            f"relations to it: {_classes(config)}."
        )
    return ""


def _classes(config: Any) -> str:
    names = [f"`{' '.join(str(config.id2label[number]).split())}`" for number in range(config.num_labels)]
    return ", ".join(names[:_CLASSES_SHOWN]) + (", ..." if len(names) > _CLASSES_SHOWN else "")


def _objectives(flags: dict[str, Any]) -> str:
    """A run older than the objectives had text infilling."""
    names = [name.replace("+", " and then ") for name in flags.get("objective") or ["text-infilling"]]
    if flags.get("mix"):
        shares = " : ".join(f"{share:g}" for share in flags["mix"])
        return f"for each text one of {', '.join(names)}" + (f", drawn {shares}" if len(names) > 1 else "")
    return " and then ".join(names)


def _limits(task: str | None, config: Any, flags: dict[str, Any]) -> list[str]:
    most = f"{config.max_position_embeddings:,} tokens"
    said = {
        None: [f"It reads and writes at most {most}."],
        "translation": [
            f"It reads and writes at most {most}.",
            "It translates sentence by sentence, without context, and only what resembles its training data; elsewhere it may "
            "leave out, repeat or invent, fluently.",
        ],
        "dialogue": [
            f"It reads and writes at most {most}; of a longer dialogue it knows the last turns alone.",
            "It says what could stand in its training data, whether or not it is true or fitting, and may contradict itself.",
        ],
        "denoising": [
            f"It reads and writes at most {most}.",
            "It restores texts and does nothing else: it is meant to be fine-tuned on a task.",
        ],
        "sequence-classification": [
            f"It reads at most {most} at once; `vanilla-transformer predict` reads a longer text in windows.",
            "It gives an answer to every text, also to one that is nothing like its training data. How sure it says it is was "
            "not examined."
        ],
        "token-classification": [
            f"It reads at most {most} at once; `vanilla-transformer predict` reads a longer text in overlapping windows.",
            "Texts must be cut as its training data are; where punctuation is a token there, it must stand by itself.",
        ],
        "dependency-parsing": [
            f"It parses sentences of at most {most}, one by one, and refuses longer ones.",
            "Sentences must be cut into words as its training data are; where punctuation is a word there, it must stand by "
            "itself.",
        ],
    }[task]  # fmt: skip
    if task not in (None, "translation", "dialogue", "denoising") and flags.get("unknown_labels") == "wrong":
        said.append("It does not know labels that only the validation or test part has; in its scores they count as wrong.")
    return [*said, "It was not examined for bias, nor for private or harmful content in its training data."]
