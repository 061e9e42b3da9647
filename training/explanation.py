"""Where a model looked while it wrote: the attention weights of its winning output.

Shapes: L layers, H heads, S source tokens, T target tokens (`</s>` counts, padding does not).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vanilla_transformer.modeling import Translator, VanillaTransformerForConditionalGeneration
from vanilla_transformer.tokenization import VanillaTransformerTokenizer

KINDS = ("encoder self-attention", "decoder self-attention", "cross-attention")


@dataclass(frozen=True)
class AttentionMaps:
    """The weights of one source text and one output; every row of every map sums to 1.

    **Which row means what.** The decoder's row t is the query that *predicts* `target_tokens[t]`. What it
    reads at that moment is the token before, `input_tokens[t]`: the target shifted right, `<s>` in front.

        target_tokens   das    ␣Haus  </s>       rows of `decoder` and `cross`
        input_tokens    <s>    das    ␣Haus      columns of `decoder`

    So on the diagonal of `decoder` a query looks at the token it has just been given, never at the one it
    predicts, and in `cross` the row of "␣Haus" shows which source tokens it was made from.

    Attributes:
        encoder: (L, H, S, S), rows and columns are source tokens.
        decoder: (L, H, T, T), rows are target tokens, columns are input tokens; exactly 0 above the diagonal.
        cross: (L, H, T, S), rows are target tokens, columns are source tokens.
        source_tokens, input_tokens, target_tokens: what stands at the rows and columns, readable.
        text: the source as it was given to the tokenizer, with its language tag.
        output: the target as text.
        is_cut: the output reached its greatest length before `</s>`.
    """

    encoder: torch.Tensor
    decoder: torch.Tensor
    cross: torch.Tensor
    source_tokens: list[str]
    input_tokens: list[str]
    target_tokens: list[str]
    text: str
    output: str
    is_cut: bool

    def of_kind(self, kind: str) -> tuple[torch.Tensor, list[str], list[str]]:
        """One of `KINDS` -> its maps (L, H, rows, columns), the tokens at the rows and at the columns."""
        return {
            KINDS[0]: (self.encoder, self.source_tokens, self.source_tokens),
            KINDS[1]: (self.decoder, self.target_tokens, self.input_tokens),
            KINDS[2]: (self.cross, self.target_tokens, self.source_tokens),
        }[kind]

    def alignment(self, layer: int | None = None) -> list[int]:
        """For each target token, the index of the source token it looked at most by the mean of the heads.

        Args:
            layer: of the decoder, from 0, or from the end if negative. If not given the last but one, which
                aligns better than the last (Garg et al., 2019).

        Raises:
            ValueError: there is no such layer.
        """
        layers = self.cross.shape[0]
        if layer is None:
            layer = max(layers - 2, 0)
        if not -layers <= layer < layers:
            raise ValueError(f"layer {layer} does not exist: the decoder has {layers}, counted from 0")
        return self.cross[layer].mean(dim=0).argmax(dim=-1).tolist()


def attention_maps(
    model: VanillaTransformerForConditionalGeneration,
    tokenizer: VanillaTransformerTokenizer,
    text: str,
    *,
    target_lang: str | None = None,
    num_beams: int = 4,
    **options,
) -> AttentionMaps:
    """Translate `text`, then run the best output through the model once more, with every weight on show.

        >>> maps = attention_maps(model, tokenizer, "a house", num_beams=5)
        >>> maps.cross.shape, maps.target_tokens[0], maps.source_tokens[maps.alignment()[0]]

    The search is the `Translator`'s, so the maps are of the very output that `translate` gives; it uses the
    model's own attention implementation. The second pass uses the eager one, which alone shows its weights.
    The model is left as it was found: its implementation, and every module's training mode.

    Args:
        model: a trained one, in whatever attention implementation and mode.
        tokenizer: the one it was trained with.
        text: the source, one text.
        target_lang: puts this language's tag in front, for models of several languages.
        num_beams: of the search; 1 is greedy.
        options: anything else that `Translator.stream` takes, for example `length_penalty`.

    Raises:
        ValueError: the text is empty or longer than the model allows, the language has no tag, the tokenizer
            is not the model's, or weights do not sum to 1 (a model that computes NaN).
    """
    if not text.strip():
        raise ValueError("the text is empty: there is nothing to look at")
    translator = Translator(model, tokenizer)
    tagged = text if target_lang is None else f"{tokenizer.language_tag(target_lang)} {text}"
    source = tokenizer(tagged)["input_ids"]
    limit = model.config.max_position_embeddings
    if len(source) > limit:
        raise ValueError(f"the text has {len(source)} tokens, more than max_position_embeddings={limit}; shorten it")

    with torch.no_grad(), _evaluating(model):
        (translation,) = translator.translate([tagged], num_beams=num_beams, **options)
        targets = translation.token_ids
        inputs = [model.config.decoder_start_token_id, *targets[:-1]]
        with eager_attention(model):
            outputs = model(
                input_ids=torch.tensor([source], device=model.device),
                decoder_input_ids=torch.tensor([inputs], device=model.device),
                output_attentions=True,
                use_cache=False,
            )
    return AttentionMaps(
        encoder=_stacked(outputs.encoder_attentions, KINDS[0]),
        decoder=_stacked(outputs.decoder_attentions, KINDS[1]),
        cross=_stacked(outputs.cross_attentions, KINDS[2]),
        source_tokens=readable_tokens(tokenizer, source),
        input_tokens=readable_tokens(tokenizer, inputs),
        target_tokens=readable_tokens(tokenizer, targets),
        text=tagged,
        output=translation.text,
        is_cut=translation.cut,
    )


def readable_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """Ids -> what a reader sees: "␣für", "</s>", and "⟨F0⟩" for a byte that is no character alone.

    A byte-level vocabulary spells " für" as "ĠfÃ¼r", and cuts a character it rarely met, such as an emoji,
    into bytes.
    """
    added = {int(i): str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    return [added[i] if i in added else _readable_piece(tokenizer.convert_ids_to_tokens(i)) for i in ids]


def _readable_piece(piece) -> str:
    if piece is None:
        return "⟨no token⟩"  # the model's vocabulary may be larger than the tokenizer's
    if all(letter in BYTE_OF for letter in piece):
        piece = bytes(BYTE_OF[letter] for letter in piece).decode("utf-8", errors="surrogateescape")
    label = "".join(map(_readable_character, piece))
    # A combining mark needs something to stand on, or it lands on its neighbour.
    return f"◌{label}" if label and unicodedata.combining(label[0]) else label


def _readable_character(character: str) -> str:
    if character in VISIBLE:
        return VISIBLE[character]
    if "\udc80" <= character <= "\udcff":  # where surrogateescape puts the bytes 80 to FF
        return f"⟨{ord(character) - 0xDC00:02X}⟩"
    return character if character.isprintable() else f"⟨U+{ord(character):04X}⟩"


def _byte_alphabet() -> dict[str, int]:
    """Letter -> byte in byte-level BPE: a byte that prints in Latin-1 is itself, others are 256, 257, ..."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {chr(byte): byte for byte in printing} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    # Module by module: somebody may train a model of which a part stays in evaluation mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model with the attention that shows its weights; afterwards with its own."""
    before = model.config._attn_implementation or "eager"
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _stacked(layers: Sequence[torch.Tensor] | None, kind: str) -> torch.Tensor:
    """One (1, H, rows, columns) for each layer -> float32 (L, H, rows, columns) on the CPU, sums checked."""
    if not layers or any(layer is None for layer in layers):
        raise ValueError(f"the model returns no weights of its {kind}: it has no eager implementation")
    maps = torch.cat(tuple(layers)).float().cpu()
    # Half precision rounds each weight by up to half its epsilon.
    tolerance = max(1e-5, torch.finfo(layers[0].dtype).eps)
    worst = (maps.double().sum(dim=-1) - 1).abs().max().item()
    if not worst <= tolerance:  # so written, NaN fails too
        raise ValueError(
            f"rows of the {kind} miss the sum 1 by {worst:.3g} (allowed: {tolerance:.1g}); "
            "are there weights in the model that are not finite?"
        )
    return maps
