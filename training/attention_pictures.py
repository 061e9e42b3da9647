"""Attention maps as pictures: a PNG for each kind of attention, and one HTML page to browse all of them."""

from __future__ import annotations

import json
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from itertools import groupby
from pathlib import Path

import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from vanilla_transformer.training.explanation import KINDS, AttentionMaps

# What a row and a column of each kind stand for, and a sentence for the reader.
MEANING = {
    "encoder self-attention": (
        "source token",
        "looks at source token",
        "Each row is a source token and shows which source tokens it gathered information from.",
    ),
    "decoder self-attention": (
        "token to be predicted",
        "looks at token read so far",
        "Each row shows which of the tokens read so far the decoder looked at to predict that row's token. "
        "It reads its own output, shifted right and beginning with <s>; later tokens are hidden from it.",
    ),
    "cross-attention": (
        "token to be predicted",
        "looks at source token",
        "Each row shows which source tokens the decoder looked at to predict the token at the row.",
    ),
}
NORM = PowerNorm(0.5, vmin=0, vmax=1)  # a weight of 1/40, spread over a long sentence, shall still be seen
MOST_TOKENS = 300  # beyond, nothing can be read, and the page would be hundreds of megabytes
LONGEST_LABEL = 16  # characters; longer ones end in an ellipsis


def draw_png(maps: AttentionMaps, kind: str, path: str | Path, layers: Sequence[int] | None = None) -> None:
    """Write the maps of one kind as a grid: a line for each layer, a column for each head.

    Characters that no installed font has are written out ("⟨si⟩" for a Hangul syllable, else "⟨U+4E2D⟩"), and
    a line on stderr says which. Readable up to about 40 tokens; beyond, only some of them are labelled.

    Args:
        maps: of one text.
        kind: one of `KINDS`.
        path: of the PNG file.
        layers: those to draw, from 0; all if not given.

    Raises:
        ValueError: source or target have more than 300 tokens.
    """
    _check_length(maps)
    weights, rows, columns = maps.of_kind(kind)
    layers = range(len(weights)) if layers is None else layers
    heads = weights.shape[1]
    families, missing = _fonts_for("".join(rows + columns))
    if missing:
        print(
            f"{path}: no installed font has {' '.join(sorted(missing))}, written out: install one "
            "(Noto Sans CJK, for example), or open the HTML page",
            file=sys.stderr,
        )
    row_labels, column_labels = ([_label(token, missing) for token in tokens] for tokens in (rows, columns))

    # Everything in inches: the panels' size follows from the number of tokens, the margins from the labels.
    longest = max(len(rows), len(columns))
    cell = min(max(0.14, 1.2 / longest), 0.3, 5.5 / longest)
    panel_width, panel_height = cell * len(columns), cell * len(rows)
    left = 0.35 + 0.068 * max(map(_width, row_labels))
    bottom = 0.35 + 0.068 * max(map(_width, column_labels))
    across, down = max(panel_width, 0.95) + 0.15, panel_height + 0.3
    width = max(left + heads * across + 0.7, 6.0)
    sentence = textwrap.wrap(f"{kind.capitalize()}. {MEANING[kind][2]}", int(width * 14))
    top = 0.15 + 0.16 * len(sentence)
    height = top + len(layers) * down + bottom

    figure = Figure(figsize=(width, height))
    figure.text(0.1 / width, 1 - 0.1 / height, "\n".join(sentence), va="top", fontsize=8, parse_math=False)
    for line, layer in enumerate(layers):
        for head in range(heads):
            x, y = left + head * across, bottom + (len(layers) - 1 - line) * down
            axes = figure.add_axes((x / width, y / height, panel_width / width, panel_height / height))
            map_ = weights[layer, head].numpy()
            axes.imshow(map_, cmap="Blues", norm=NORM, aspect="auto", interpolation="nearest")
            axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7, pad=3)
            axes.tick_params(length=1.5, pad=1.5)
            _label_axis(axes, "y", row_labels if head == 0 else [], cell, families)
            _label_axis(axes, "x", column_labels if line == len(layers) - 1 else [], cell, families)
    middle_x, middle_y = left + heads * across / 2, bottom + len(layers) * down / 2
    title = {"fontsize": 8, "ha": "center", "va": "center"}
    figure.text(0.1 / width, middle_y / height, MEANING[kind][0], rotation=90, **title)
    figure.text(middle_x / width, 0.1 / height, MEANING[kind][1], **title)
    x, bar_height = left + heads * across, min(len(layers) * down - 0.3, 2.0)
    bar = figure.add_axes((x / width, bottom / height, 0.1 / width, bar_height / height))
    figure.colorbar(ScalarMappable(NORM, "Blues"), cax=bar, ticks=[0, 0.05, 0.2, 0.5, 1], format="%g")
    bar.tick_params(labelsize=6)
    figure.savefig(path, format="png", dpi=min(120.0, 20_000 / max(width, height)))


def _label_axis(axes: Axes, which: str, labels: list[str], cell: float, families: list[str]) -> None:
    step = int(0.105 / cell) + 1  # as many as fit at 7 points
    places = range(0, len(labels), step)
    set_ticks = axes.set_yticks if which == "y" else axes.set_xticks
    # parse_math: a token with two dollar signs is no formula.
    style = {"fontsize": 7, "fontfamily": families, "parse_math": False}
    set_ticks(places, [labels[place] for place in places], rotation=0 if which == "y" else 90, **style)


def _fonts_for(text: str) -> tuple[list[str], set[str]]:
    """The families that together have the characters of `text`, and the characters which none of them has."""
    families, missing = [], set(text)
    # Upright and regular, as the labels are; of another face of the family matplotlib would complain.
    fonts = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if (entry.style, entry.weight, entry.stretch) == ("normal", 400, "normal")
        and not entry.name.strip(".").startswith(("Last Resort", "LastResort"))  # boxes for every character
    }
    # matplotlib's own first; then those without serifs, to match; then by name, so that pictures repeat.
    for name in sorted(fonts, key=lambda f: (f != "DejaVu Sans", "Sans" not in f and "Gothic" not in f, f)):
        found = missing & _characters(fonts[name]) if missing else set()
        if found:
            families.append(name)
            missing -= found
    return families or ["DejaVu Sans"], missing


@cache
def _characters(font_file: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, font_manager.get_font(font_file).get_charmap()))
    except (OSError, RuntimeError):  # a font that was removed, or of a format which matplotlib cannot draw
        return frozenset()


def _label(token: str, missing: Iterable[str]) -> str:
    """The token, not too long, with a substitute for characters that cannot be drawn."""
    parts = []
    for has_no_glyph, characters in groupby(token, key=lambda character: character in missing):
        text = "".join(characters)
        parts.append(f"⟨{'·'.join(map(_written_out, text))}⟩" if has_no_glyph else text)
    label = "".join(parts)
    return label if len(label) <= LONGEST_LABEL else f"{label[: LONGEST_LABEL - 1]}…"


def _written_out(character: str) -> str:
    # Unicode's names spell Hangul in Latin letters: 시 is HANGUL SYLLABLE SI.
    kind, _, name = unicodedata.name(character, "").rpartition(" ")
    return name.lower() if kind == "HANGUL SYLLABLE" else f"U+{ord(character):04X}"


def _width(label: str) -> float:
    """In letters: a Hangul syllable or Chinese character is as wide as two."""
    return sum(1.7 if unicodedata.east_asian_width(character) in "WF" else 1 for character in label)


def write_html(maps: AttentionMaps, path: str | Path, layer: int | None = None) -> None:
    """Write one page that needs nothing else: choose kind, layer and head; hovering shows weights and tokens.

    Args:
        maps: of one text.
        path: of the HTML file.
        layer: the one shown at first, from 0; if not given the last but one, as in `AttentionMaps.alignment`.

    Raises:
        ValueError: source or target have more than 300 tokens.
    """
    _check_length(maps)
    kinds = []
    for kind in reversed(KINDS):  # what readers come for first
        weights, rows, columns = maps.of_kind(kind)
        row_title, column_title, sentence = MEANING[kind]
        kinds.append(
            {
                "name": kind,
                "rows": rows,
                "columns": columns,
                "rowTitle": row_title,
                "columnTitle": column_title,
                "sentence": sentence,
                # In ten-thousandths: half as many characters as decimals.
                "weights": (weights * 10_000).round().to(torch.int).tolist(),
            }
        )
    layer = max(len(maps.cross) - 2, 0) if layer is None else layer
    page = {"text": maps.text, "output": maps.output, "isCut": maps.is_cut, "layer": layer, "kinds": kinds}
    # Inside a script element "</script>" would end it, and "<!--" hide its end, even in a string.
    data = json.dumps(page, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files("vanilla_transformer.training") / "attention_page.html"
    Path(path).write_text(template.read_text(encoding="utf-8").replace("{{DATA}}", data), encoding="utf-8")


def _check_length(maps: AttentionMaps) -> None:
    for side, tokens in (("source", maps.source_tokens), ("output", maps.target_tokens)):
        if len(tokens) > MOST_TOKENS:
            raise ValueError(f"the {side} has {len(tokens)} tokens, too many for a picture ({MOST_TOKENS}); shorten it")
