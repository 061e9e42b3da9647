"""A translation with its attention as HTML and CSS: point at a word of it, and the words it was made from light up.

No script: for each word of the translation one rule (`:has(:hover)`) sets the weights that the source words' backgrounds
are painted with. Every text in it is escaped.

Shapes: T and S target and source tokens, W and U target and source words.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vanilla_transformer.modeling import Translation
from vanilla_transformer.modeling.forced_decoding import evaluation
from vanilla_transformer.training.explanation import eager_attention

MOST_WORDS = 200  # beyond, the view is hundreds of kilobytes, and nobody points at all of it
# Scripts that put no space between words, by the first word of their characters' names.
WITHOUT_SPACES = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN"}

STYLE = """
.vt { font-size: 1.05rem; line-height: 1.9; }
.vt.vt h3 { font-size: .85rem; font-weight: 600; opacity: .7; margin: 1.2rem 0 .2rem; }
.vt.vt style + h3 { margin-top: 0; }
.vt p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.vt .note { font-size: .85rem; line-height: 1.5; opacity: .7; margin-top: .4rem; }
.vt .s, .vt .t { border-radius: .2rem; padding: .15rem 0; }
.vt .t { cursor: default; outline: none; }
.vt .t:hover, .vt .t:focus { background: #f2a33a; color: #1d2733; }
.vt .special { font-size: .75em; opacity: .6; margin: 0 .2rem; }
.vt.vt table { border: none; border-collapse: collapse; width: 100%; font-size: .95rem; line-height: 1.5; }
.vt.vt tr { background: none; border: none; }
.vt.vt td, .vt.vt th { border: none; border-bottom: 1px solid rgba(128, 128, 128, .3); padding: .3rem 0 .3rem 1rem; }
.vt.vt td:first-child, .vt.vt th:first-child { padding-left: 0; }
.vt.vt td { vertical-align: top; }
.vt.vt th { text-align: left; font-weight: 600; opacity: .7; font-size: .85rem; }
.vt.vt .number { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
"""


def words(tokenizer, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Ids -> (text, positions) of each word; the texts together are the text, with a space in front.

    A word is letters in a row with the white space before them. A digit, a sign, `</s>`, `>>de<<`, and in scripts without
    spaces each token are words of their own. The bytes of one character stay together.
    """
    found: list[tuple[str, list[int]]] = []
    for text, positions in _characters(tokenizer, ids):
        before, its_positions = found[-1] if found else ("", [])
        special = ids[positions[0]] in tokenizer.added_tokens_decoder
        if not special and (before.isspace() or _is_letter(before[-1:]) and _is_letter(text[:1])):
            found[-1] = (before + text, its_positions + positions)
        else:
            found.append((text, positions))
    return found


def _characters(tokenizer, ids: Sequence[int]) -> Iterator[tuple[str, list[int]]]:
    """Tokens, each with those behind it that its last character needs to be complete."""
    open_: list[int] = []
    for position in range(len(ids)):
        open_.append(position)
        text = _decoded(tokenizer, [ids[i] for i in open_])
        at_border = position + 1 == len(ids) or ids[position + 1] in tokenizer.added_tokens_decoder
        if at_border or not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text, open_
            open_ = []


def word_weights(weights: torch.Tensor, rows: Sequence[list[int]], columns: Sequence[list[int]]) -> torch.Tensor:
    """(T, S) -> (W, U): the mean over a target word's tokens of the sum over a source word's. Rows still sum to 1."""
    summed = torch.stack([weights[:, positions].sum(dim=1) for positions in columns], dim=1)  # (T, U)
    return torch.stack([summed[positions].mean(dim=0) for positions in rows])


@torch.no_grad()
def cross_attention(model: Any, source_ids: list[int], target_ids: list[int], layer: int) -> torch.Tensor:
    """What was looked at when each token was predicted: (T, S), the mean of one decoder layer's heads; rows sum to 1."""
    inputs = [model.config.decoder_start_token_id, *target_ids[:-1]]
    with evaluation(model), eager_attention(model):
        outputs = model(
            input_ids=torch.tensor([source_ids], device=model.device),
            decoder_input_ids=torch.tensor([inputs], device=model.device),
            output_attentions=True,
            use_cache=False,
        )
    return outputs.cross_attentions[layer][0].float().mean(dim=0).cpu()


def attention_view(model: Any, tokenizer: Any, source: str, translation: Translation) -> str:
    """A translation in one piece and its source, word by word.

    Args:
        source: the text with its language tag, as the model read it.
    """
    source_ids, target_ids = tokenizer(source)["input_ids"], translation.token_ids
    sources, targets = words(tokenizer, source_ids), words(tokenizer, target_ids)
    if len(sources) + len(targets) > MOST_WORDS:
        count = len(sources) + len(targets)
        return plain_view(translation, f"The attention is shown for up to {MOST_WORDS} words; these are {count}.")
    depth = model.config.decoder_layers
    layer = max(depth - 2, 0)  # the last but one aligns best (Garg et al., 2019)
    weights = word_weights(
        cross_attention(model, source_ids, target_ids, layer), [p for _, p in targets], [p for _, p in sources]
    )
    rules = []
    for row, line in enumerate(weights.tolist()):
        # The colour grows with the square root, so that weights spread over a long sentence can still be seen.
        shades = ";".join(f"--s{column}:{weight**0.5:.2f}" for column, weight in enumerate(line) if weight >= 0.005)
        rules.append(f".vt:has(.t{row}:hover),.vt:not(:has(.t:hover)):has(.t{row}:focus){{{shades}}}")
    # ‘--s3’ is inherited by the source words; where no rule sets it, it is 0.
    rules += [f".vt .s{column}{{background:rgba(66,135,245,var(--s{column},0))}}" for column in range(len(sources))]
    readouts = [_readout(line, [text for text, _ in sources]) for line in weights.tolist()]
    shown_targets = "".join(
        _span(word, "t", row, tokenizer, target_ids, f' tabindex="0" title="{html.escape(readouts[row])}"')
        for row, word in enumerate(targets)
    )
    shown_sources = "".join(_span(word, "s", column, tokenizer, source_ids) for column, word in enumerate(sources))
    return (
        f"<style>{''.join(rules)}</style><h3>Translation: point at a word</h3><p><bdi>{shown_targets}</bdi></p>"
        f"<h3>Source: what it was made from</h3><p><bdi>{shown_sources}</bdi></p>"
        + note(f"Cross-attention of decoder layer {layer + 1} of {depth}, mean of its heads.")
    )


def n_best_table(translation: Translation) -> str:
    """The best outputs with their scores, best first."""
    rows, seen = "", set()
    for candidate in translation.n_best:
        marks = " … (cut)" if candidate.cut else ""
        if candidate.text in seen:  # two lists of tokens may spell one text, each with a probability of its own
            marks += " (in other tokens)"
        seen.add(candidate.text)
        rows += (
            f"<tr><td><bdi>{html.escape(candidate.text)}</bdi>{marks}</td>"
            f'<td class="number">{candidate.score:.3f}</td><td class="number">{candidate.normalized_score:.3f}</td></tr>'
        )
    return (
        '<table><thead><tr><th></th><th class="number">ln P</th><th class="number">normalized</th></tr>'
        f"</thead><tbody>{rows}</tbody></table>"
    )


def plain_view(translation: Translation, line: str) -> str:
    """The translation without attention, and why."""
    return f"<h3>Translation</h3><p><bdi>{html.escape(translation.text)}</bdi></p>" + note(line)


def note(line: str) -> str:
    return f'<p class="note">{html.escape(line)}</p>'


def framed(content: str) -> str:
    """A piece of a page that brings its own style."""
    return f'<div class="vt"><style>{STYLE}</style>{content}</div>'


def _decoded(tokenizer, ids: list[int]) -> str:
    # The tokenizer takes a space at the very beginning off; behind a special token it is kept.
    return tokenizer.decode([tokenizer.bos_token_id, *ids], skip_special_tokens=False)[len(tokenizer.bos_token) :]


def _is_letter(character: str) -> bool:
    """Of a script with spaces between words. Marks, which stand on letters, are letters here."""
    if not character or unicodedata.category(character)[0] not in "LM":
        return False
    return unicodedata.name(character, "").split(" ")[0] not in WITHOUT_SPACES


def _span(word: tuple[str, list[int]], kind: str, number: int, tokenizer, ids: Sequence[int], more: str = "") -> str:
    text, positions = word
    bare = text.lstrip() or text
    space = "" if number == 0 else text[: len(text) - len(bare)]  # outside, so that only the word itself is painted
    special = " special" if ids[positions[0]] in tokenizer.added_tokens_decoder else ""
    return f'{space}<span class="{kind} {kind}{number}{special}"{more}>{html.escape(bare)}</span>'


def _readout(line: list[float], sources: list[str]) -> str:
    """The three source words of the greatest weight."""
    best = sorted(zip(line, sources, strict=True), reverse=True)[:3]
    return ", ".join(f"{text.strip() or '␣'} {weight:.2f}" for weight, text in best)
