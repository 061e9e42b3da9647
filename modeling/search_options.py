"""What a search is asked for."""

import math
from dataclasses import dataclass

from .length_penalty import length_divisor

MOST_REQUIRED = 64  # phrases; what they take grows with the square


@dataclass(frozen=True)
class SearchOptions:
    """How to write. The defaults are the paper's (section 6.1).

    Which hypothesis is best:
        num_beams: hypotheses kept at every step; 1 is greedy search.
        length_penalty, length_penalty_kind: see `length_penalty.py`.
        coverage_penalty: beta of Wu et al. (2016), equation 14: adds beta times the sum over the source's tokens of
            ln(min(1, attention received)), where attention is the mean over the heads of the last layer's
            cross-attention. 0: none.
        early_stopping: when a sentence is done, as in transformers. False: when no running hypothesis, at its present
            length, beats the worst of `num_beams` finished ones; "never": not even at its greatest length; True: as
            soon as `num_beams` have finished.
        num_beam_groups, diversity_penalty: diverse beam search (Vijayakumar et al., 2018): the beams in so many groups;
            a token that an earlier group has chosen at this step costs a group so much. Scores are true all the same.

    How many:
        n_best: outputs of each source, best first; at most `num_beams`, unless sampling.

    How long, in tokens:
        max_new_tokens: at most, with `</s>`.
        max_new_tokens_beyond_source: at most as many as the source has, and so many more; None: no such bound.
        max_length_ratio: at most so many times as many as the source has.
        min_new_tokens, min_length_ratio: at least, without `</s>`.

    By chance:
        do_sample: draw every token from the model's distribution.
        temperature: the logits are divided by it.
        top_k: only from the so many likeliest tokens; 0: from all.
        top_p: only from the fewest tokens that have so much of the probability together (Holtzman et al., 2020).
        seed: with it and with a sentence's number its output is always the same, whatever else is in its batch.

    What may not be written, and what must:
        no_repeat_ngram_size: no n tokens twice in an output; 0: they may.
        suppress_tokens: ids that are never written.
        banned: sequences of ids that are never written.
        required: sequences of ids that an output must hold, in any order; see `lexical_constraints.py`.

    Raises:
        ValueError: a number out of range or not a number, or options that contradict each other.
    """

    num_beams: int = 4
    n_best: int = 1
    length_penalty: float = 0.6
    length_penalty_kind: str = "paper"
    coverage_penalty: float = 0.0
    early_stopping: bool | str = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    max_new_tokens: int | None = None
    max_new_tokens_beyond_source: int | None = 50
    max_length_ratio: float | None = None
    min_new_tokens: int = 0
    min_length_ratio: float | None = None
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    no_repeat_ngram_size: int = 0
    suppress_tokens: tuple[int, ...] = ()
    banned: tuple[tuple[int, ...], ...] = ()
    required: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self):
        for name in ("num_beams", "n_best", "num_beam_groups"):
            self._at_least(name, 1)
        for name in ("min_new_tokens", "top_k", "no_repeat_ngram_size"):
            self._at_least(name, 0)
        for name, least in (("max_new_tokens", 1), ("max_new_tokens_beyond_source", 0)):
            if getattr(self, name) is not None:
                self._at_least(name, least)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed={self.seed!r} must be a whole number")
        length_divisor(1, self.length_penalty, self.length_penalty_kind)  # refuses nonsense
        for name in ("coverage_penalty", "diversity_penalty"):
            self._in_range(name, 0, math.inf)
        self._in_range("temperature", 0, math.inf, "; for the likeliest token leave out do_sample", open_below=True)
        self._in_range("top_p", 0, 1, open_below=True)
        for name in ("max_length_ratio", "min_length_ratio"):
            if getattr(self, name) is not None:
                self._in_range(name, 0, 1000, open_below=True)
        if self.early_stopping not in (False, True, "never"):
            raise ValueError(f"early_stopping={self.early_stopping!r} must be False, True or 'never'")
        for name in ("banned", "required"):
            if not all(len(phrase) for phrase in getattr(self, name)):
                raise ValueError(f"{name} has a phrase without tokens: leave it out")
        self._check_together()

    def _check_together(self) -> None:
        for name, default in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0)):
            if not self.do_sample and getattr(self, name) != default:
                raise ValueError(f"{name}={getattr(self, name)} is for sampling: set do_sample=True, or leave it out")
        if self.do_sample and self.num_beams != 1:
            raise ValueError(f"num_beams={self.num_beams} with do_sample: sampling needs no beams, set num_beams=1")
        if not self.do_sample and self.n_best > self.num_beams:
            raise ValueError(f"n_best={self.n_best} is more than num_beams={self.num_beams}: raise num_beams or lower n_best")
        if self.num_beams % self.num_beam_groups:
            raise ValueError(f"num_beam_groups={self.num_beam_groups} does not divide num_beams={self.num_beams}")
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise ValueError(f"diversity_penalty={self.diversity_penalty} needs num_beam_groups of 2 or more")
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}")
        least, most = self.min_length_ratio, self.max_length_ratio
        if least is not None and most is not None and least > most:
            raise ValueError(f"min_length_ratio={least} is more than max_length_ratio={most}")
        if len(self.required) > MOST_REQUIRED:
            raise ValueError(f"{len(self.required)} required phrases are more than {MOST_REQUIRED}: require less of an output")
        if self.required and (self.num_beams == 1 or self.num_beam_groups > 1):
            raise ValueError("required phrases need a beam search in one group: num_beams of 2 or more, num_beam_groups=1")
        forbidden = {(token,) for token in self.suppress_tokens} | set(map(tuple, self.banned))
        for phrase in self.required:
            for length in range(1, len(phrase) + 1):
                for start in range(len(phrase) - length + 1):
                    part = tuple(phrase[start : start + length])
                    if part in forbidden:
                        raise ValueError(f"the tokens {list(part)} are required (in {list(phrase)}) and banned: choose one")

    def most(self, source_length: int, limit: int) -> int:
        """Tokens that the output of a source may have.

        Args:
            source_length: the source's tokens.
            limit: positions that the model has.
        """
        bounds = [limit - 1]  # `<s>` takes one
        if self.max_new_tokens is not None:
            bounds.append(self.max_new_tokens)
        if self.max_new_tokens_beyond_source is not None:
            bounds.append(source_length + self.max_new_tokens_beyond_source)
        if self.max_length_ratio is not None:
            bounds.append(max(1, math.floor(self.max_length_ratio * source_length)))
        return min(bounds)

    def least(self, source_length: int) -> int:
        """Tokens that must be written before `</s>`."""
        ratio = 0 if self.min_length_ratio is None else math.ceil(self.min_length_ratio * source_length)
        return max(self.min_new_tokens, ratio)

    def _at_least(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name}={value!r} must be at least {least}")

    def _in_range(self, name: str, low: float, high: float, way_out: str = "", open_below: bool = False) -> None:
        value = getattr(self, name)
        inside = isinstance(value, int | float) and low <= value <= high and math.isfinite(value)
        if not inside or (open_below and value == low):
            above = f"greater than {low}" if open_below else f"{low} or more"
            below = "" if high == math.inf else f" and at most {high}"
            raise ValueError(f"{name}={value!r} must be {above}{below}{way_out}")
