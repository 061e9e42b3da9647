"""Outputs, and how they are compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .length_penalty import length_divisor
from .search_options import SearchOptions


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search.

    Attributes:
        token_ids: what was written, `</s>` among it if it was finished.
        log_probs: ln P of each of these tokens, given the source and those before it: the model's own, before
            temperature, filters and penalties. Of several models, that of the mean.
        score: the sum of these, ln P(output | source).
        normalized_score: as hypotheses are compared: over the length divisor, with the coverage penalty.
        cut: it reached its bound without `</s>`.
    """

    token_ids: list[int]
    log_probs: list[float]
    score: float
    normalized_score: float
    cut: bool


def hypothesis(
    token_ids: list[int], log_probs: list[float], ends: Sequence[int], options: SearchOptions, coverage: float = 0.0
) -> Hypothesis:
    """What was written, with its scores. `coverage`: of `coverage_penalty`.

    Raises:
        ValueError: the scores are no numbers, or nothing of this was allowed.
    """
    score = math.fsum(log_probs) if not any(map(math.isinf, log_probs)) else -math.inf
    if math.isnan(score):
        raise ValueError("the model computes NaN: its weights are broken; load another checkpoint")
    if score == -math.inf:
        raise ValueError("the constraints leave nothing to write: every token is forbidden at some step; take some away")
    divisor = length_divisor(len(token_ids), options.length_penalty, options.length_penalty_kind)
    return Hypothesis(token_ids, log_probs, score, score / divisor + coverage, cut=token_ids[-1] not in ends)


def coverage_penalty(received: torch.Tensor, source_mask: torch.Tensor, beta: float) -> torch.Tensor:
    """beta x the sum over the source of ln(min(1, attention received)), 0 or less (Wu et al., 2016, equation 14).

    Args:
        received: (N, M, S), the attention of all tokens of an output to each of the source, summed.
        source_mask: (N, S), 1 for tokens and 0 for padding.

    Returns:
        (N, M).
    """
    # Some sources get no attention at all: a penalty of -inf would say nothing more about the others.
    least = torch.finfo(received.dtype).tiny
    return beta * received.clamp(min=least, max=1.0).log().masked_fill(source_mask[:, None] == 0, 0.0).sum(-1)
