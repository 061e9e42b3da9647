"""What one call of a `Translator` is asked for: words become ids, and what our search does not know is for transformers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import torch

from .search_options import SearchOptions

SEARCH_OPTIONS = {field.name for field in fields(SearchOptions)}


@dataclass(frozen=True)
class TranslatorOptions:
    """What `Translator.stream` was asked for.

    Attributes:
        tag: what stands before each text, the blank behind it included; "" for none.
        search: what our search is asked for.
        by_transformers: what `model.generate` of transformers is asked for besides; where there is something, it searches.
        max_tokens, batch_size, chunk_size, split_long: as in `Translator.stream`.
    """

    tag: str
    search: SearchOptions
    by_transformers: dict
    max_tokens: int
    batch_size: int | None
    chunk_size: int
    split_long: bool


def translator_options(
    tokenizer,
    config,
    *,
    target_lang: str | None,
    num_beams: int | None,
    do_sample: bool,
    seed: int | None,
    banned: Sequence[str],
    required: Sequence[str],
    max_tokens: int,
    batch_size: int | None,
    chunk_size: int,
    split_long: bool,
    **options,
) -> TranslatorOptions:
    """The arguments of `Translator.stream`, for a model with this tokenizer and configuration.

    Raises:
        ValueError: a language without a tag, options out of range or in contradiction.
    """
    for name in ("num_return_sequences", "return_dict_in_generate"):
        if name in options:
            raise ValueError(f"{name} is not for here: ask for n_best translations, each with its scores")
    counts = {"max_tokens": max_tokens, "chunk_size": chunk_size}
    if batch_size is not None:
        counts["batch_size"] = batch_size
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1")
    if num_beams is None:
        num_beams = 1 if do_sample else 4
    by_transformers = {name: value for name, value in options.items() if name not in SEARCH_OPTIONS}
    options = {name: value for name, value in options.items() if name in SEARCH_OPTIONS}
    if by_transformers and do_sample and seed is not None:
        raise ValueError(f"seed does not go with {next(iter(by_transformers))}, which is for transformers: torch.manual_seed")
    # Padding and `<s>` are no output. A model that wrote them would make lengths, and so scores, ambiguous.
    no_output = {tokenizer.pad_token_id, config.decoder_start_token_id}
    options |= {
        "num_beams": num_beams,
        "do_sample": do_sample,
        "seed": int(torch.randint(2**31, ())) if do_sample and seed is None else seed or 0,
        "suppress_tokens": tuple(sorted(no_output.union(options.get("suppress_tokens") or ()))),
        "banned": _phrases(tokenizer, "banned", banned),
        "required": _phrases(tokenizer, "required", required),
    }
    return TranslatorOptions(
        tag="" if target_lang is None else f"{tokenizer.language_tag(target_lang)} ",
        search=SearchOptions(**options),
        by_transformers=by_transformers,
        max_tokens=max_tokens,
        batch_size=batch_size,
        chunk_size=chunk_size,
        split_long=split_long,
    )


def target_ids(tokenizer, texts: Iterable[str]) -> list[list[int]]:
    """What stands within an output, without `</s>`: the ids of each text."""
    texts = list(texts)
    return tokenizer(text_target=texts, add_special_tokens=False)["input_ids"] if texts else []


def _phrases(tokenizer, name: str, phrases: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    if isinstance(phrases, str):
        raise ValueError(f"{name}={phrases!r} must be a list of words and phrases: [{phrases!r}]")
    if not all(phrase.strip() for phrase in phrases):
        raise ValueError(f"{name} has an empty phrase: leave it out")
    return tuple(map(tuple, target_ids(tokenizer, phrases)))
