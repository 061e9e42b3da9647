"""A paragraph -> its sentences, by the rules of its language, and the white space around them.

The rules are those of sentencex (Wikimedia; about 300 languages, with the abbreviations of many), an extra:
pip install 'vanilla-transformer[sentences]'. Unlike modeling/sentences.py, which knows no language and is asked only about
texts that are too long for a model, it leaves "Mr. Smith" in one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from vanilla_transformer.modeling.sentences import sentences

# sentencex 1.0.32 steps back one byte, not one character, over such white space between an initial and a full stop
# ("I\u00a0."), and fails. It is shown blanks in their place; only the lengths of what it finds are used.
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]")


def sentence_splitter(language: str) -> Callable[[str], list[str]]:
    """Text -> [white space, sentence, white space, ..., sentence, white space]: joined they are the text again.

    Args:
        language: code of the text's language, as "en"; one that sentencex does not know is split as English is.

    Raises:
        ValueError: sentencex is not installed.
    """
    try:
        from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]  # it is a compiled module
    except ImportError:
        raise ValueError(
            "sentencex, which splits sentences, is not installed: pip install 'vanilla-transformer[sentences]'"
        ) from None

    def split(text: str) -> list[str]:
        try:
            lengths = [len(part) for part in segment(language, _WIDE_SPACE.sub(" ", text))]
        except BaseException as error:
            # A fault in its Rust code is no Exception. A line in must give a line out: the simple rule will do.
            if type(error).__name__ != "PanicException":
                raise
            return sentences(text)
        if sum(lengths) != len(text):
            return sentences(text)
        return _around_white_space(text, lengths)

    return split


def _around_white_space(text: str, lengths: list[int]) -> list[str]:
    """Segments of these lengths -> as above. A segment of white space alone belongs to what stands before it."""
    parts, end = [""], 0
    for length in lengths:
        segment = text[end : end + length]
        end += length
        if bare := segment.strip():
            start = segment.index(bare)
            parts[-1] += segment[:start]
            parts += [bare, segment[start + len(bare) :]]
        else:
            parts[-1] += segment
    return parts
