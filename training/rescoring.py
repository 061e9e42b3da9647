"""What a model answers, asked in one way by this package and by a process that has never heard of it.

    python -P rescoring.py QUESTIONS ANSWERS        (files of `torch.save` without code: tensors, texts, numbers)

`verification.py` calls `answers` for the model at home and runs this file for the folder that is to be published, where
all code comes out of that folder. So nothing of this package may be imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

PIPED = 8  # texts that the folder's own pipeline translates as well
TOKENS_AT_ONCE = 2048  # of one side, padding counted: the logits of a vocabulary of 37,000 are 300 MB


def answers(model: Any, tokenizer: Any, questions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Answer every set of questions.

    Args:
        model, tokenizer: loaded from one folder.
        questions: by name; each has `texts`, and for a model with a head `batches`, each what its `forward` takes; for one
            that writes, `num_beams` to write with, or None for the folder's own generation settings, and `pairs` of
            token ids (source, target), all ending in `</s>`.

    Returns:
        By the same names `ids`, the tokens of the texts; and `outputs`, see `_outputs`, of the batches; or `translations`
        of the texts, and `log_probs`, ln P of each pair's target in nats.
    """
    model.eval()
    result = {}
    for name, asked in questions.items():
        ids = tokenizer(asked["texts"])["input_ids"] if asked["texts"] else []
        if "batches" in asked:
            result[name] = {"ids": ids, "outputs": [_outputs(model, batch) for batch in asked["batches"]]}
        else:
            translations = _translations(model, tokenizer, asked["texts"], ids, asked["num_beams"])
            result[name] = {"ids": ids, "translations": translations, "log_probs": _log_probs(model, asked["pairs"])}
    return result


@torch.no_grad()
def _outputs(model, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a head says: `loss`, summed over the batch, if there are labels; `logits`; or, of a parser, `arc_logits` and
    `relations`, the best relation of each word to each candidate (all their scores would be a hundred times as much).
    """
    given = {name: tensor.to(model.device) for name, tensor in batch.items()}
    output = model(**given, num_items_in_batch=1)
    found = {name: output[name] for name in ("loss", "logits", "arc_logits") if output.get(name) is not None}
    if output.get("relation_logits") is not None:
        found["relations"] = output["relation_logits"].argmax(-1).int()
    return {name: tensor.cpu() for name, tensor in found.items()}


@torch.no_grad()
def _translations(model, tokenizer, texts: list[str], sources: list[list[int]], num_beams: int | None) -> list[str]:
    options: dict[str, Any] = {}
    if num_beams is not None:  # as the Translator has it, which made the scores of the card
        options = {"num_beams": num_beams, "do_sample": False, "length_penalty_kind": "paper"}
        options |= {"max_new_tokens_beyond_source": 50, "max_length": None, "max_new_tokens": None}
        options |= {"suppress_tokens": sorted({tokenizer.pad_token_id, model.config.decoder_start_token_id})}
        if num_beams > 1:  # elsewhere transformers warns that it has no use for it
            options["length_penalty"] = 0.6
    outputs = [""] * len(texts)
    for batch in _batches([len(source) for source in sources]):
        batch = [index for index in batch if texts[index].strip()]
        if not batch:
            continue
        input_ids, mask = _padded([sources[index] for index in batch], tokenizer.pad_token_id, model.device)
        written = model.generate(input_ids, attention_mask=mask, **options)
        for index, text in zip(batch, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True):
            outputs[index] = text
    return outputs


@torch.no_grad()
def _log_probs(model, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    values = [0.0] * len(pairs)
    pad, start = model.config.pad_token_id, model.config.decoder_start_token_id
    for batch in _batches([max(map(len, pair)) for pair in pairs]):
        input_ids, mask = _padded([pairs[index][0] for index in batch], pad, model.device)  # (B, S)
        labels, written = _padded([pairs[index][1] for index in batch], pad, model.device)  # (B, T)
        shifted = torch.cat([torch.full_like(labels[:, :1], start), labels[:, :-1]], dim=1)
        logits = model(input_ids=input_ids, attention_mask=mask, decoder_input_ids=shifted).logits  # (B, T, V)
        each = logits.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]
        for index, value in zip(batch, (each * written).sum(-1).tolist(), strict=True):
            values[index] = value
    return values


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Indices of rows of similar length, the longest first."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _padded(rows: list[list[int]], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(longest, device=device) < lengths[:, None]).long()


def device() -> torch.device:
    """An accelerator where there is one: whole test sets are translated here."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def _piped(folder: str, texts: list[str]) -> list[str]:
    from transformers import pipeline

    # The types of transformers know its own tasks only.
    translate: Any = pipeline("seq2seq-translation", model=folder, trust_remote_code=True, device=device())  # pyright: ignore[reportCallIssue, reportArgumentType]
    return [translation["translation_text"] for translation in translate(texts)]


def main(questions_file: str, answers_file: str) -> int:
    """Load the folder named in the questions as a stranger does. 1 and one line on stderr if that fails."""
    sys.modules["vanilla_transformer"] = None  # type: ignore[assignment]  # from here on it is not installed
    os.environ["HF_HUB_OFFLINE"] = "1"  # the folder must have all it needs
    import transformers

    asked = torch.load(questions_file, weights_only=True)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(asked["folder"], trust_remote_code=True)
        auto = getattr(transformers, asked["auto_class"])
        model = auto.from_pretrained(asked["folder"], trust_remote_code=True).to(device())
        if type(model).__name__ != asked["model_class"]:
            raise ValueError(f"{asked['auto_class']} gives a {type(model).__name__}, and not the {asked['model_class']}")
        given = answers(model, tokenizer, asked["questions"])
        if getattr(model.config, "custom_pipelines", None):
            given["sample"]["piped"] = _piped(asked["folder"], asked["questions"]["sample"]["texts"][:PIPED])
    except Exception as error:  # whatever the folder's code does, the user gets a line and not a screenful
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    torch.save(given, answers_file)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
