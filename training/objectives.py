"""What a model is pretrained on, by name: one noise, several one after the other, or one drawn for each text.

    --objective text-infilling                                    BART's noise with the greatest part in its success
    --objective sentence-permutation text-infilling               both, one after the other: BART's final model
    --objective text-infilling span-corruption --mix 3 1          three texts in four infilled, one with spans taken out
    --objective sentence-permutation+text-infilling span-corruption --mix 3 1

The noises themselves: `noising.py`, `reordering.py`, `span_corruption.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal

import numpy as np

from vanilla_transformer.training.arguments import refuse_flags_of_others
from vanilla_transformer.training.borders import Borders
from vanilla_transformer.training.noising import Noise, Starts, TextInfilling, TokenDeletion, TokenMasking
from vanilla_transformer.training.reordering import DocumentRotation, SentencePermutation
from vanilla_transformer.training.span_corruption import SpanCorruption, sentinels

# The objectives, and the flags that each of them alone knows; to the others they would say nothing.
OWN_FLAGS: dict[str, tuple[str, ...]] = {
    "text-infilling": ("mask_share", "poisson_lambda"),
    "token-masking": ("token_masking_share",),
    "token-deletion": ("token_deletion_share",),
    "sentence-permutation": (),
    "document-rotation": (),
    "span-corruption": ("span_corruption_share", "mean_span"),
}
OBJECTIVES = tuple(OWN_FLAGS)
# Flags that pretraining shares its dataclasses with, and has no use for.
FINETUNING_FLAGS = (
    *("source_lang", "target_lang", "target_tag", "validation_languages", "test_languages"),
    *("eval_num_beams", "test_num_beams"),
)


def _flag(help: str, default: Any) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class NoiseArguments:
    """What the model must undo, and what counts as one text."""

    objective: list[str] = field(
        default_factory=lambda: ["text-infilling"],
        metadata={
            "help": f"what is pretrained: {', '.join(OBJECTIVES)}; several are applied one after the other, or, with --mix, "
            "one of them is drawn for each text, where a+b means a and then b; all but span-corruption ask for the whole text"
        },
    )
    mix: list[float] = field(
        default_factory=list,
        metadata={"help": "draw one objective for each text, in these proportions, one number for each: 3 1"},
    )
    mask_share: float = _flag("text-infilling: share of the tokens that is masked; BART: 0.3", 0.3)
    poisson_lambda: float = _flag("text-infilling: mean length of a hole, in tokens; BART: 3", 3.0)
    token_masking_share: float = _flag(
        "token-masking: share of the tokens chosen, of which 80 % are masked, 10 % replaced, 10 % left; BERT: 0.15",
        0.15,
    )
    token_deletion_share: float = _flag("token-deletion: share of the tokens removed; BART names none", 0.15)
    span_corruption_share: float = _flag("span-corruption: share of the tokens taken out; T5: 0.15", 0.15)
    mean_span: float = _flag("span-corruption: mean length of a span, in tokens; T5: 3", 3.0)
    whole_word: bool = _flag("noise begins and ends where words do: shares and lengths above are then of words", False)
    documents: Literal["cut", "pack", "as-is"] = _flag(
        "texts longer than --max-source-length: cut them, at the ends of sentences where possible (nothing is lost); pack: "
        "also join neighbouring texts while they fit; as-is: leave them out, and say how many",
        "cut",
    )

    def __post_init__(self):
        if not self.objective:
            raise ValueError(f"objective is empty; name one or several of {', '.join(OBJECTIVES)}")
        chains = [entry.split("+") for entry in self.objective]
        for name in (name for chain in chains for name in chain):
            if name not in OBJECTIVES:
                raise ValueError(f"objective {name!r} is unknown; choose of {', '.join(OBJECTIVES)}")
        if self.mix and len(self.mix) != len(self.objective):
            raise ValueError(f"mix has {len(self.mix)} numbers for {len(self.objective)} objectives; give one for each")
        if any(not 0 < share < float("inf") for share in self.mix):
            raise ValueError(
                f"mix={self.mix} must all be greater than 0; leave out the objective that shall not be drawn"
            )
        for together in chains if self.mix else [sum(chains, [])]:
            twice = next((name for name in together if together.count(name) > 1), None)
            if twice:
                raise ValueError(f"objective {twice} is named twice; leave one out, or raise its share")
            if "span-corruption" in together and len(together) > 1:
                others = ", ".join(name for name in together if name != "span-corruption")
                raise ValueError(
                    f"objective span-corruption asks for its spans and not for the whole text, so it cannot be applied together "
                    f"with {others}; draw one of them for each text with --mix"
                )
        chosen = list(dict.fromkeys(sum(chains, [])))
        refuse_flags_of_others(OWN_FLAGS, chosen, [self], f"the objective is {' and '.join(chosen)}")

    @classmethod
    def of_run(cls, flags: dict[str, Any]) -> NoiseArguments:
        """As a run's training.yaml tells them. ValueError if it tells of no noise.

        A run older than the objectives had text infilling, and left out what was too long. One that was given numbers of
        objectives that it had not made nothing of them.
        """
        if not {"mask_share", "poisson_lambda"} <= flags.keys():
            raise ValueError("training.yaml does not tell the noise of the pretraining (mask_share, poisson_lambda)")
        known: dict[str, Any] = {"documents": "as-is", "objective": ["text-infilling"]} | flags
        chosen = [name for entry in known["objective"] for name in entry.split("+")]
        unused = {name for objective, names in OWN_FLAGS.items() if objective not in chosen for name in names}
        return cls(**{f.name: known[f.name] for f in fields(cls) if f.name in known and f.name not in unused})


class InTurn(Noise):
    """Several noises, each applied to what the one before has left; the text as it was is asked for."""

    def __init__(self, noises: Sequence[Noise]) -> None:
        super().__init__()
        self.noises = noises

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        for noise in self.noises:
            ids = noise(ids, rng)
        return list(ids)


class OneOf(Noise):
    """One noise drawn for each text, in the proportions of `shares`, none of which is 0."""

    def __init__(self, noises: Sequence[Noise], shares: Sequence[float]) -> None:
        super().__init__()
        self.noises = noises
        self.sums = np.cumsum(shares) / np.sum(shares)

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        return self.pair(ids, rng)[0]

    def pair(self, ids: Sequence[int], rng: np.random.Generator) -> tuple[list[int], list[int]]:
        return self.noises[int(np.searchsorted(self.sums, rng.random(), side="right"))].pair(ids, rng)

    def bounds(self, lengths: np.ndarray) -> np.ndarray:
        return np.max([noise.bounds(lengths) for noise in self.noises], axis=0)


def make_noise(flags: NoiseArguments, tokenizer: Any) -> Noise:
    """The noise that the flags name, for texts that end with `</s>`.

    Raises:
        ValueError: a number is out of its range, or the tokenizer lacks what an objective needs.
    """
    maker = _Maker(flags, tokenizer)
    if flags.mix:
        return OneOf([_chain([maker.make(name) for name in entry.split("+")]) for entry in flags.objective], flags.mix)
    return _chain([maker.make(name) for entry in flags.objective for name in entry.split("+")])


def _chain(noises: list[Noise]) -> Noise:
    return noises[0] if len(noises) == 1 else InTurn(noises)


class _Maker:
    """Names -> noises. What only some of them need is looked for when it is needed."""

    def __init__(self, flags: NoiseArguments, tokenizer: Any):
        self.flags, self.tokenizer = flags, tokenizer

    @cached_property
    def borders(self) -> Borders:
        return Borders(self.tokenizer)

    @property
    def words(self) -> Starts | None:
        return self.borders.word_starts if self.flags.whole_word else None

    @property
    def mask(self) -> int:
        if self.tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token, so there is nothing to put into the holes")
        return int(self.tokenizer.mask_token_id)

    def make(self, name: str) -> Noise:
        flags, words = self.flags, self.words
        makers: dict[str, Callable[[], Noise]] = {
            "text-infilling": lambda: TextInfilling(
                self.mask, flags.mask_share, flags.poisson_lambda, word_starts=words
            ),
            "token-masking": lambda: TokenMasking(
                self.mask, self._pieces(), flags.token_masking_share, word_starts=words
            ),
            "token-deletion": lambda: TokenDeletion(flags.token_deletion_share, word_starts=words),
            "sentence-permutation": lambda: SentencePermutation(self.borders.sentence_starts),
            "document-rotation": lambda: DocumentRotation(word_starts=words),
            "span-corruption": lambda: SpanCorruption(
                sentinels(self.tokenizer), flags.span_corruption_share, flags.mean_span, word_starts=words
            ),
        }
        return makers[name]()

    def _pieces(self) -> list[int]:
        """The ids of pieces of text: no special tokens, tags or sentinels."""
        return sorted(set(self.tokenizer.get_vocab().values()) - self.tokenizer.added_tokens_decoder.keys())
