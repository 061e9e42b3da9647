"""What a model gives to outputs that are there already: ln P of each token, given the source and the tokens before it.

Shapes: B batch, S source length, T target length, D d_model, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

# 2^25 logits in float32 are 128 MiB: as many as are held at once, however large batch and vocabulary are.
LOGITS_AT_ONCE = 2**25


@torch.no_grad()
def token_log_probs(
    model, sources: Sequence[list[int]], targets: Sequence[list[int]], pad_token_id: int
) -> list[list[float]]:
    """B sources and B targets, ending in `</s>` unless cut -> for each target one number per token, in nats.

    Nothing is smoothed. The model must be in evaluation mode.
    """
    input_ids, attention_mask = pad(sources, pad_token_id, model.device)  # (B, S)
    labels, written = pad(targets, pad_token_id, model.device)  # (B, T)
    # The model without its last layer, so that the logits of all positions are never there at once.
    hidden = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        use_cache=False,
    ).last_hidden_state
    states, ids = hidden[written.bool()], labels[written.bool()]  # (tokens, D) and (tokens,)
    at_once = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    log_probs: list[float] = []
    for some_states, some_ids in zip(states.split(at_once), ids.split(at_once), strict=True):
        losses = nn.functional.cross_entropy(model.lm_head(some_states).float(), some_ids, reduction="none")
        log_probs += (-losses).tolist()
    values = iter(log_probs)
    return [list(islice(values, len(target))) for target in targets]


def pad(rows: Sequence[list[int]], pad_token_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of ids -> (B, longest) padded on the right, and (B, longest) with 1 for ids and 0 for padding."""
    padded = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], True, pad_token_id)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).long()
    return padded.to(device), mask.to(device)


def batches(lengths: Sequence[int], max_tokens: int, max_rows: int | None = None) -> Iterator[list[int]]:
    """Indices of rows of similar length, at most `max_tokens` tokens, padding counted, and `max_rows` rows.

    A row longer than `max_tokens` is a batch of its own. The longest come first: what does not fit into memory
    fails at once, and not in the end.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and ((len(batch) + 1) * lengths[batch[0]] > max_tokens or len(batch) == max_rows):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def score_pairs(
    log_probs_of: Callable[[list[list[int]], list[list[int]]], list[list[float]]],
    tokenizer,
    limit: int,
    pairs: Iterable[tuple[str, str]],
    prefix: str,
    max_tokens: int,
    chunk_size: int,
) -> Iterator[list[float]]:
    """`token_log_probs` of (source, target) texts, in order, `chunk_size` pairs at a time. See `Translator.score`.

    Args:
        log_probs_of: (sources, targets) of a batch -> for each target one number per token.
        limit: tokens that a text may have.
    """
    pairs = iter(pairs)
    before = 0
    while chunk := list(islice(pairs, chunk_size)):
        for position, pair in enumerate(chunk, start=before + 1):
            for text in pair:
                check_text(text, position)
        sources = tokenizer([prefix + source for source, _ in chunk])["input_ids"]
        targets = tokenizer(text_target=[target for _, target in chunk])["input_ids"]
        lengths = [max(map(len, pair)) for pair in zip(sources, targets, strict=True)]
        for position, length in enumerate(lengths, start=before + 1):
            if length > limit:
                raise ValueError(
                    f"pair {position}: {length} tokens are more than the model's max_position_embeddings={limit}"
                )
        results: list[list[float]] = [[] for _ in chunk]
        for batch in batches(lengths, max_tokens):
            rows = log_probs_of([sources[i] for i in batch], [targets[i] for i in batch])
            for index, row in zip(batch, rows, strict=True):
                results[index] = row
        yield from results
        before += len(chunk)


@contextmanager
def evaluation(model) -> Iterator[None]:
    """Without dropout; afterwards the model is in its mode of before (training asks for outputs in between)."""
    if not model.training:  # going through all modules takes as long as some words
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def check_text(text: object, position: int) -> None:
    """Raise ValueError, with the position, for what is no text."""
    if not isinstance(text, str):
        raise ValueError(f"text {position}: expected a str, found {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text {position}: character {error.start + 1} is half a surrogate pair, which is no Unicode; "
            "read the text as UTF-8, or remove the character"
        ) from error


def mean_log_probs(each: Sequence[list[list[float]]]) -> list[list[float]]:
    """Of several models' log-probabilities of the same outputs those of an ensemble: the logarithm of the mean of P."""
    if len(each) == 1:
        return each[0]
    return [[_log_of_mean(token) for token in zip(*rows, strict=True)] for rows in zip(*each, strict=True)]


def _log_of_mean(log_probs: Sequence[float]) -> float:
    most = max(log_probs)
    return most + math.log(math.fsum(math.exp(one - most) for one in log_probs) / len(log_probs))
