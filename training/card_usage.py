"""The code on a model's card: what a stranger copies and runs, without our package unless it says so."""

from __future__ import annotations

from typing import Any

from vanilla_transformer.training.dialogue import SPEAKERS
from vanilla_transformer.training.task_cards import TaskCard, directions

# Stands in the card that is uploaded with the model: the commit's name is known only when it is made.
UNPINNED = 'revision="main"'
_WORDS = ["A", "sentence", "with", "words", "."]


def usage(card: TaskCard, config: Any, flags: dict[str, Any], name: str, on_hub: bool, example: str | None) -> str:
    """Markdown.

    Args:
        name: of the model: a folder's, or "user/name" on the Hub.
        on_hub: load it by repository and revision.
        example: a text for it, as the model reads it; for taggers and parsers, words with blanks between them.
    """
    where = f'"{name}", {UNPINNED}, trust_remote_code=True' if on_hub else f'"{name}", trust_remote_code=True'
    if card.task == "sequence-classification":
        return (
            _python(_classify(config, where, example or "A sentence."))
            + '\n\nOf a pair of texts, if it was trained on pairs: `classify({"text": "...", "text_pair": "..."})`.'
            + _predict(name, "texts.jsonl", "labelled.jsonl")
        )
    if card.task == "token-classification":
        if config.tokens_are_characters:
            return (
                _python(_loaded("AutoModelForTokenClassification", where).rstrip())
                + '\n\nThis command cuts texts into single characters as the model was trained on them, `{"tokens": ["a", " ", '
                '...]}` in each line:'
                + _predict(name, "sentences.jsonl", "tagged.jsonl", alone=True)
            )
        words = example.split() if example else _WORDS
        has_entities = all(label == "O" or label.startswith(("B-", "I-")) for label in config.id2label.values())
        return _python(_entities(where, words) if has_entities else _tags(where, words)) + _predict(
            name, "sentences.jsonl", "tagged.jsonl"
        )
    if card.task == "dependency-parsing":
        return (
            _python(_tree(where, example.split() if example else _WORDS))
            + "\n\nWhere vanilla-transformer is installed, write `VanillaTransformerForDependencyParsing`, from "
            "`vanilla_transformer.modeling`, instead of `AutoModel`. Heads chosen one by one, as here, need not make a tree; the "
            "best tree comes from this command:"
            + _predict(name, "sentences.conllu", "parsed.conllu", alone=True)
        )
    return _python(_write(where, example or _text(card, flags)))


def _text(card: TaskCard, flags: dict[str, Any]) -> str:
    if card.task == "dialogue":
        return f"{SPEAKERS[0]} Hello, how are you?"
    if card.task == "translation" and (flags.get("target_tag") or flags.get("train_languages")):
        return f">>{directions(flags)[0].target}<< A sentence."
    return "A sentence."


def _python(code: str) -> str:
    return f"```python\n{code}\n```"


def _predict(name: str, read: str, written: str, alone: bool = False) -> str:
    """`alone`: it is the one way, and not said to be another."""
    said = "" if alone else "\n\nOr, for whole files, with [vanilla-transformer](https://pypi.org/project/vanilla-transformer/):"
    return f"{said}\n\n```\nvanilla-transformer predict --model {name} --input {read} --output {written}\n```"


def _loaded(kind: str, where: str, imported: str = "") -> str:
    return (
        f"from transformers import {kind}, AutoTokenizer{imported}\n\n"
        f"tokenizer = AutoTokenizer.from_pretrained({where})\n"
        f"model = {kind}.from_pretrained({where})\n"
    )


def _write(where: str, text: str) -> str:
    return _loaded("AutoModelForSeq2SeqLM", where) + (
        f'ids = model.generate(**tokenizer({text!r}, return_tensors="pt"))\n'
        "print(tokenizer.decode(ids[0], skip_special_tokens=True))"
    )


def _classify(config: Any, where: str, text: str) -> str:
    top = "" if config.problem_type == "regression" else ", top_k=None"
    return _loaded("AutoModelForSequenceClassification", where, ", pipeline") + (
        'classify = pipeline("text-classification", model=model, tokenizer=tokenizer)\n'
        f"print(classify({text!r}{top}))"
    )


def _entities(where: str, words: list[str]) -> str:
    return _loaded("AutoModelForTokenClassification", where, ", pipeline") + (
        'tag = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")\n'
        f"print(tag({' '.join(words)!r}))"
    )


def _first_pieces(words: list[str]) -> str:
    return (
        f"words = {words!r}\n"
        'encoded = tokenizer(" ".join(words), return_tensors="pt")\n'
        "# A word is read from its first piece.\n"
        'first = [encoded.char_to_token(len(" ".join(["", *words[:i]]))) for i in range(len(words))]\n'
    )


def _tags(where: str, words: list[str]) -> str:
    return (
        _loaded("AutoModelForTokenClassification", where)
        + _first_pieces(words)
        + "tags = model(**encoded).logits[0].argmax(-1)[first].tolist()\n"
        + "print([(word, model.config.id2label[tag]) for word, tag in zip(words, tags)])"
    )


def _tree(where: str, words: list[str]) -> str:
    return (
        "import torch\n"
        + _loaded("AutoModel", where)
        + _first_pieces(words)
        + 'root = encoded["input_ids"].shape[1] - 1\n'
        + "output = model(**encoded, word_positions=torch.tensor([[root, *first]]))\n"
        + "heads = output.arc_logits[0].argmax(-1).tolist()  # 0 is the root, 1 the first word\n"
        + "relations = [int(output.relation_logits[0, i, head].argmax()) for i, head in enumerate(heads)]\n"
        + "print([(word, head, model.config.id2label[r]) for word, head, r in zip(words, heads, relations)])"
    )
