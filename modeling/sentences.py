"""A long text -> pieces that a model takes: its sentences, one by one, since most models are trained on sentences.

A sentence ends

    before white space       after . ! ? … ؟ ۔ । 。 ｡ ！ ？ (any number of them) and the closing quotes or brackets behind them
    where there is none      after 。 ｡ ！ ？ alike, as Chinese and Japanese are written
    before an empty line     whatever stands there, as after a heading

so "3.5" is one number, and "Mr. Smith" two sentences: the rule knows no language, and is asked only about texts that
are too long. A sentence that is too long by itself is halved at the white space nearest its middle, or in the middle
if it has none, until its parts fit.
"""

import re
from collections.abc import Callable

_WIDE = "。｡！？"
_MARKS = rf".!?…؟۔।{_WIDE}"
_CLOSING = r"""'"’”»›)\]}」』）】》〉］｝"""
_CLOSING_IN_SOME_LANGUAGES = "“‘«‹"  # „German“ and »Danish«; without white space they open what follows

# In a group: the white space behind the sentence. What begins within a run is ruled out first, and runs are taken
# whole ("++"), so that a thousand dots or spaces take a thousand steps and not a million.
_SENTENCE_END = re.compile(
    rf"""
    (?<![{_MARKS}]) [{_MARKS}]++ (?: [{_CLOSING}{_CLOSING_IN_SOME_LANGUAGES}]*+ (\s++) | (?<=[{_WIDE}]) [{_CLOSING}]*+ )
    | (?<!\s) ([^\S\n]*+ \n [^\S\n]*+ \n \s*+)
    """,
    re.VERBOSE,
)


def text_fits(text: str, tokenizer, limit: int) -> bool:
    """Whether a text, the tag of its language included, has `limit` tokens at most, `</s>` counted."""
    # A token has a byte or more, a character four or fewer: most texts need not be encoded to be measured.
    return 4 * len(text) + 2 <= limit or len(tokenizer(text)["input_ids"]) <= limit


def split_text(text: str, fits: Callable[[str], bool]) -> list[str]:
    """White space, piece, white space, piece ... white space: joined they are the text again.

    Args:
        text: not of white space alone.
        fits: whether the model takes a piece. Asked about pieces that neither begin nor end with white space.

    Raises:
        ValueError: not even one character fits.
    """
    before, *rest = sentences(text)
    parts = [before]
    for sentence, behind in zip(rest[::2], rest[1::2], strict=True):
        parts += [*_halved(sentence, fits), behind]
    return parts


def sentences(text: str) -> list[str]:
    """White space, sentence, white space, sentence ... white space, by the rule above: joined they are the text again."""
    bare = text.strip()
    start = text.index(bare)
    parts, begin = [text[:start]], 0
    for end in _SENTENCE_END.finditer(bare):
        gap = end[1] or end[2] or ""
        if end.end() < len(bare):
            parts += [bare[begin : end.end() - len(gap)], gap]
            begin = end.end()
    return [*parts, bare[begin:], text[start + len(bare) :]]


def _halved(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    """Piece, white space, piece ... piece: the sentence alone if it fits."""
    if fits(sentence):
        return [sentence]
    if len(sentence) == 1:
        raise ValueError(f"the character {sentence!r} alone is too long")
    middle = len(sentence) // 2
    gap = min(re.finditer(r"\s+", sentence), key=lambda gap: abs(gap.start() - middle), default=None)
    start, end = gap.span() if gap else (middle, middle)
    return [*_halved(sentence[:start], fits), sentence[start:end], *_halved(sentence[end:], fits)]
