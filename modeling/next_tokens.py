"""What may follow a hypothesis, and the best of it.

Shapes: N sentences, K hypotheses of each, S source length, V vocabulary, C chunks of a vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import torch

from .decoder_weights import DecoderWeights
from .incremental_decoder import IncrementalDecoder

CHUNK = 128  # tokens
LOG2_E = math.log2(math.e)


class NextTokens:
    """One model, or several as an ensemble, on one batch of sources.

    Args:
        models: with one vocabulary.
        encoded: of each model the states (N, S, D) of its encoder, and (N, S) 1 for tokens and 0 for padding.
        hypotheses: K.
        forbid: changes scores (N, K, V), given the outputs so far (N, K, t), in place.
    """

    def __init__(
        self,
        models: Sequence[DecoderWeights],
        encoded: Sequence[tuple[torch.Tensor, torch.Tensor]],
        hypotheses: int,
        forbid: Callable[[torch.Tensor, torch.Tensor], object],
    ):
        self.forbid = forbid
        self.decoders = [
            IncrementalDecoder(model, states, source_mask, hypotheses)
            for model, (states, source_mask) in zip(models, encoded, strict=True)
        ]
        self.buffer = torch.empty(0)

    def __call__(
        self, tokens: torch.Tensor, origins: torch.Tensor | None, written: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N, K, V) and their normalisers (N, K): ln P is one less the other. -inf: forbidden.

        At the first step (N, 1, V) and (N, 1), for all hypotheses begin alike.

        Several models are averaged: P is the mean of theirs.

        Args:
            tokens, origins: as in `IncrementalDecoder.step`.
            written: (N, K, t), the outputs so far.
        """
        logits = [_at_least_float32(decoder.step(tokens, origins)) for decoder in self.decoders]
        if len(logits) == 1:
            (scores,) = logits
            normalizers = self._log_sum_exp(scores)
        else:
            log_probs = torch.stack([each.log_softmax(-1) for each in logits])
            scores = log_probs.logsumexp(0) - math.log(len(logits))
            normalizers = scores.new_zeros(scores.shape[:2])
        self.forbid(scores, written[:, : scores.shape[1]])
        return scores, normalizers

    def source_weights(self) -> torch.Tensor:
        """(N, K, S), of the mean over the models."""
        return torch.stack([decoder.source_weights().float() for decoder in self.decoders]).mean(0)

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        for decoder in self.decoders:
            decoder.move(to, from_, left)

    def _log_sum_exp(self, logits: torch.Tensor) -> torch.Tensor:
        if logits.device.type != "cpu":
            return logits.logsumexp(-1)  # to look whether the sums are in range, a GPU would have to wait
        # Without looking for the greatest one first, which takes as long as the rest: ordinary logits do not need it.
        # In one piece of memory, since the size of an allocation decides whether the system has to clear it.
        fits = self.buffer.shape[1:] == logits.shape[1:] and len(self.buffer) >= len(logits)
        if not fits or self.buffer.dtype != logits.dtype:
            self.buffer = torch.empty_like(logits)
        # As a power of two: e^x of torch is MKL's and takes up to four times as long as 2^x.
        sums = torch.mul(logits, LOG2_E, out=self.buffer[: len(logits)]).exp2_().sum(-1)
        low, high = (extreme.item() for extreme in sums.aminmax())
        return sums.log() if low > 1e-30 and high < 1e30 else logits.logsumexp(-1)


def best_continuations(
    scores: torch.Tensor, before: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The best of all K x V continuations of each sentence.

    The greatest score of each chunk of the vocabulary says in which chunks the best can be; only these are looked
    through. So no log-probability is ever written, and nothing of length V is sorted.

    Args:
        scores: (N, K, V).
        before: (N, K), to be added to the scores of each hypothesis.
        count: M, at most K x V.

    Returns:
        Sums, hypotheses and tokens, each (N, M), best first.
    """
    N, K, V = scores.shape
    if count == K == 1 and N < CHUNK // 8:
        best, tokens = scores.max(-1)
        return best + before, torch.zeros_like(tokens), tokens
    if V < 4 * CHUNK:
        best, places = (scores + before[:, :, None]).flatten(1).topk(count)
        return best, places // V, places % V
    whole = V // CHUNK
    greatest = scores[:, :, : whole * CHUNK].unflatten(2, (whole, CHUNK)).amax(-1)  # (N, K, C)
    if V % CHUNK:
        greatest = torch.cat((greatest, scores[:, :, whole * CHUNK :].amax(-1, keepdim=True)), dim=2)
    C = greatest.shape[2]
    chunks = (greatest + before[:, :, None]).flatten(1).topk(min(count, K * C))[1]  # (N, M)
    hypotheses = chunks // C
    tokens = (chunks % C * CHUNK)[:, :, None] + torch.arange(CHUNK, device=scores.device)  # (N, M, CHUNK)
    places = (hypotheses * V)[:, :, None] + tokens.clamp(max=V - 1)
    looked_at = scores.flatten(1).gather(1, places.flatten(1)).view_as(places) + before.gather(1, hypotheses)[:, :, None]
    looked_at.masked_fill_(tokens >= V, float("-inf"))
    best, inside = looked_at.flatten(1).topk(count)
    place = places.flatten(1).gather(1, inside)
    return best, place // V, place % V


def _at_least_float32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
