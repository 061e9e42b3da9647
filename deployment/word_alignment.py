"""Which words of the source an output was made from, as its cross-attention tells.

A forced pass over source and output yields the weights of one decoder layer, the last but one, averaged over its heads: of
all layers its average agrees best with human alignments (Garg et al., 2019, "Jointly Learning to Align and Translate with
Transformer Models"). Each target token is linked with the source token that was looked at most when it was predicted, unless
that is `</s>` or a language tag. Words are what white space separates; two words are linked if tokens of them are.

Shapes: B batch, H heads, S source tokens, T target tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vanilla_transformer.modeling.forced_decoding import batches, evaluation, pad
from vanilla_transformer.training.explanation import BYTE_OF, eager_attention

Span = tuple[int, int]
"""of characters: from, and up to but not including"""


@dataclass(frozen=True)
class TokenLinks:
    """One source text and one output.

    Attributes:
        source: characters of the source that each of its tokens covers; empty for `</s>`, a tag, or a space alone.
        target: the same of the output's tokens.
        links: for each target token the index of its source token.
    """

    source: list[Span]
    target: list[Span]
    links: list[int]


@torch.no_grad()
def token_links(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    outputs: Sequence[list[int]],
    prefix: str = "",
    max_tokens: int = 4096,
) -> list[TokenLinks]:
    """Align each source with its output.

    Args:
        model: a VanillaTransformerForConditionalGeneration; it is left in its mode and attention implementation.
        tokenizer: its own.
        sources: texts that fit into the model.
        outputs: as many lists of token ids, as they were written; none is empty.
        prefix: what stood before each source when it was translated: a language tag and a space, or nothing.
        max_tokens: tokens of the longer side in a batch, padding counted.
    """
    encoded = tokenizer([prefix + source for source in sources], return_offsets_mapping=True)
    ids = encoded["input_ids"]
    rows: list[list[int]] = [[] for _ in sources]
    lengths = [max(len(source), len(output)) for source, output in zip(ids, outputs, strict=True)]
    with evaluation(model), eager_attention(model):
        for batch in batches(lengths, max_tokens):
            some = [ids[index] for index in batch], [outputs[index] for index in batch]
            for index, links in zip(batch, _links(model, *some, tokenizer.pad_token_id), strict=True):
                rows[index] = links
    return [
        TokenLinks(
            [(max(0, start - len(prefix)), max(0, end - len(prefix))) for start, end in spans],
            target_spans(tokenizer, output),
            links,
        )
        for spans, output, links in zip(encoded["offset_mapping"], outputs, rows, strict=True)
    ]


def _links(
    model: Any, sources: Sequence[list[int]], targets: Sequence[list[int]], pad_token_id: int
) -> list[list[int]]:
    input_ids, attention_mask = pad(sources, pad_token_id, model.device)
    labels, _ = pad(targets, pad_token_id, model.device)
    layers = model.base_model.decoder.layers
    kept: list[torch.Tensor] = []
    # Of one layer alone: `output_attentions` would keep the maps of all layers and all three kinds.
    hook = layers[max(len(layers) - 2, 0)].cross_attn.register_forward_hook(lambda *called: kept.append(called[2][1]))
    try:
        model.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
            use_cache=False,
        )
    finally:
        hook.remove()
    best = kept[0].mean(dim=1).argmax(dim=-1)  # (B, H, T, S) -> (B, T)
    return [row[: len(target)] for row, target in zip(best.tolist(), targets, strict=True)]


def target_spans(tokenizer: Any, ids: Sequence[int]) -> list[Span]:
    """The characters of the output's text that each token wrote; a character of several tokens belongs to all of them."""
    added = tokenizer.added_tokens_decoder
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    spans: list[Span] = []
    text = ""
    for token in ids:
        before = len(text)
        if token in added:
            written = "" if added[token].special else str(added[token])
        else:
            piece = tokenizer.convert_ids_to_tokens(token) or ""
            written = decoder.decode(bytes(BYTE_OF[letter] for letter in piece))
        text += written
        unfinished = 1 if decoder.getstate()[0] else 0
        spans.append((before, len(text) + unfinished))
    # The tokenizer writes one space before every text, and takes it off again.
    shift = 1 if text.startswith(" ") else 0
    return [(max(0, start - shift), max(0, end - shift)) for start, end in spans]


def pharaoh(links: Sequence[Span]) -> str:
    """[(0, 0), (1, 2)] -> "0-0 1-2": source word, target word, counted from 0."""
    return " ".join(f"{source}-{target}" for source, target in links)


class WordLinks:
    """Links between the words of two texts, gathered from pieces of them."""

    def __init__(self, source: str, target: str):
        self._word_at = [_word_at(text) for text in (source, target)]
        self._found: set[Span] = set()

    def add(self, piece: TokenLinks, source_start: int, target_start: int) -> None:
        """A piece that begins at these characters of the two texts."""
        source_words = [self._words(0, start + source_start, end + source_start) for start, end in piece.source]
        for (start, end), source_token in zip(piece.target, piece.links, strict=True):
            target_words = self._words(1, start + target_start, end + target_start)
            self._found.update((a, b) for a in source_words[source_token] for b in target_words)

    def sorted(self) -> list[Span]:
        return sorted(self._found)

    def _words(self, side: int, start: int, end: int) -> set[int]:
        return {word for word in self._word_at[side][start:end] if word is not None}


def _word_at(text: str) -> list[int | None]:
    """For each character the number of its word, None for white space."""
    numbers: list[int | None] = [None] * len(text)
    for number, word in enumerate(re.finditer(r"\S+", text)):
        numbers[word.start() : word.end()] = [number] * len(word[0])
    return numbers
