"""Learn a vocabulary: byte-level BPE over every text given, all languages jointly (paper, section 5.1).

BPE: Sennrich, Haddow and Birch (2016), "Neural Machine Translation of Rare Words with Subword Units".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .tokenization_vanilla_transformer import (
    LANGUAGE_TAG,
    SPECIAL_TOKENS,
    VanillaTransformerTokenizer,
    space_in_front,
)

BYTES = 256


def learn_vocabulary(
    texts: Iterable[str],
    vocab_size: int,
    *,
    languages: Sequence[str] = (),
    extra_tokens: Sequence[str] = (),
    min_frequency: int = 2,
    split_digits: bool = True,
) -> VanillaTransformerTokenizer:
    r"""Learn a joint vocabulary from a stream of texts.

        >>> with open("train.txt", encoding="utf-8", newline="\n") as lines:
        ...     tokenizer = learn_vocabulary((line.rstrip("\n") for line in lines), vocab_size=10_000)

    Args:
        texts: Any iterable; it is read once, and only the counts of its different words are kept in memory.
        vocab_size: Tokens in all: 5 special ones, the languages, the extra tokens, 256 bytes, and the merges.
        languages: Codes; each becomes a tag that is one token, `"de"` becomes `>>de<<`.
        extra_tokens: Further strings that are one token wherever they stand in a text, e.g. `"<speaker>"`.
        min_frequency: A pair of pieces that occurs less often is not merged.
        split_digits: Every digit is a piece of its own (numbers are copied and read digit by digit).

    Raises:
        ValueError: a vocab_size below the fixed tokens or above what the texts allow; no text at all; a text
            that is no valid Unicode (with its number); a language or extra token that cannot be one.

    The same texts give the same ids, on any machine and with any number of threads.
    """
    added = _added_tokens(languages, extra_tokens)
    fixed = len(SPECIAL_TOKENS) + len(added) + BYTES
    if vocab_size < fixed:
        raise ValueError(
            f"vocab_size: asked for {vocab_size}, but {len(SPECIAL_TOKENS)} special tokens, {len(added)} "
            f"language tags and extra tokens and {BYTES} bytes make {fixed}: ask for at least {fixed}."
        )
    learner = Tokenizer(models.BPE())
    learner.normalizer = space_in_front(added)
    # Tags that stand in the texts are tokens already: no merge may be spent on them.
    tags_out = [pre_tokenizers.Split(Regex("|".join(map(re.escape, added))), "removed")] if added else []
    learner.pre_tokenizer = pre_tokenizers.Sequence(tags_out + _split_into_words(split_digits))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS.values(), *added],  # these get the first ids, in this order
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_checked(texts), trainer)
    allowed = learner.get_vocab_size()
    if allowed < vocab_size:
        raise ValueError(
            f"vocab_size: asked for {vocab_size}, the text allows {allowed}: every pair of pieces that "
            f"occurs {min_frequency} times or more is merged. Ask for at most {allowed}, or give more text."
        )

    backend = Tokenizer(learner.model)
    backend.normalizer = space_in_front(added)
    backend.pre_tokenizer = pre_tokenizers.Sequence(_split_into_words(split_digits))
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    # The trainer marked all of them special, but only the five are: a tag in a text must be found although
    # special tokens are not. normalized=True lets the normaliser see the whole text.
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS.values()])
    backend.add_tokens([AddedToken(token, normalized=True, special=False) for token in added])
    end = SPECIAL_TOKENS["eos_token"]
    backend.post_processor = processors.TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B:1 {end}:1",
        special_tokens=[(end, backend.token_to_id(end))],
    )
    return VanillaTransformerTokenizer(
        tokenizer_object=backend,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **SPECIAL_TOKENS,
    )


def _split_into_words(split_digits: bool) -> list[pre_tokenizers.PreTokenizer]:
    """Words, numbers, punctuation: no merge goes across. A word takes the one space in front of it along.

    Letters keep their combining marks (GPT-2's pattern, the default, cuts Hindi words at their vowel signs).
    """
    number = r"\p{N}" if split_digits else r" ?\p{N}+"
    pattern = rf" ?\p{{L}}[\p{{L}}\p{{M}}]*|{number}| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
    return [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _checked(texts: Iterable[str]) -> Iterator[str]:
    """The texts as they come; ValueError for one that is no text, and at the end if all were empty."""
    seen = False
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise ValueError(f"text {number}: expected a str, found {type(text).__name__}.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text {number}: character {error.start + 1} is half a surrogate pair, which is no Unicode. "
                "Read the text as UTF-8, or remove the character."
            ) from error
        seen = seen or bool(text.strip())
        yield text
    if not seen:
        raise ValueError("no text: there is nothing to learn a vocabulary from, all texts given are empty.")


def _added_tokens(languages: Sequence[str], extra_tokens: Sequence[str]) -> list[str]:
    """The tags and the extra tokens in the order of their ids, checked."""
    for name, value in (("languages", languages), ("extra_tokens", extra_tokens)):
        if isinstance(value, str):
            raise ValueError(f"{name}: expected a list of strings, found the string {value!r}.")
    added = [f">>{language}<<" for language in languages] + list(extra_tokens)
    for language in languages:
        if not LANGUAGE_TAG.fullmatch(f">>{language}<<"):
            raise ValueError(f"languages: {language!r} is no code; use letters, digits, '-' and '_'.")
    for token in extra_tokens:
        if len(token) < 2 or re.search(r"\s", token):
            raise ValueError(f"extra_tokens: {token!r} must have two characters or more, and no white space.")
        if decoders.ByteLevel().decode([token]) != token:
            # Latin-1 letters double as the names of bytes in byte-level BPE.
            raise ValueError(f"extra_tokens: {token!r} would not decode to itself; write it in ASCII.")
    for token, count in Counter([*SPECIAL_TOKENS.values(), *added]).items():
        if count > 1:
            raise ValueError(f"languages, extra_tokens: {token!r} is given twice, or is a special token.")
    return added
