"""One text and what a classifier, tagger or parser says about it, in a line for people to read."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from vanilla_transformer.training.labelling import Labelling
from vanilla_transformer.training.prediction import predict


def answered(model: PreTrainedModel, labelling: Labelling, text: str) -> str:
    """Such as "positive (0.93)", "Angela/B-PER sings/O", or "Dogs (nsubj of run), run (root)".

    Args:
        text: of a tagger or parser, the words with blanks between them; of a tagger of characters, the text itself.

    Raises:
        ValueError: a sentence to be parsed is longer than the model allows.
    """
    pieces: Any = getattr(labelling, "pieces", None)
    row: dict[str, Any] = {"text": text}
    if pieces is not None:
        row = {"tokens": list(text) if pieces.characters else text.split()}
    (answer,) = predict(model, labelling, Dataset.from_list([row]))
    said = labelling.written(answer, row)
    if pieces is None:
        return f"{said['label']} ({max(said['scores'].values()):.2f})" if "scores" in said else str(said["label"])
    if "tags" in said:
        return " ".join(f"{token}/{tag}" for token, tag in zip(said["tokens"], said["tags"], strict=True))
    words = said["tokens"]
    arcs = zip(words, said["head"], said["deprel"], strict=True)
    return ", ".join(f"{word} ({relation}{f' of {words[head - 1]}' if head else ''})" for word, head, relation in arcs)
