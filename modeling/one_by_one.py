"""Greedy search and sampling: outputs that know nothing of each other.

Shapes: N sentences that are still being written, K outputs of each, t tokens written so far, V vocabulary.
"""

# The tensors of RunningSentences are attributes that are made at run time.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

import hashlib
from collections.abc import Sequence

import torch

from .decoder_weights import DecoderWeights
from .forbidden_tokens import ForbiddenTokens
from .hypotheses import Hypothesis, hypothesis
from .next_tokens import NextTokens, best_continuations
from .running_sentences import RunningSentences
from .search_options import SearchOptions

NUCLEUS = 1024  # tokens that are likely to hold the probability of top_p


def write_one_by_one(
    models: Sequence[DecoderWeights],
    encoded: Sequence[tuple[torch.Tensor, torch.Tensor]],
    options: SearchOptions,
    bounds: Sequence[int],
    ends: Sequence[int],
    forbidden: ForbiddenTokens,
    numbers: Sequence[int],
) -> list[list[Hypothesis]]:
    """Of each source `options.n_best` samples, the best first, or the likeliest token every time. See `search`.

    Args:
        encoded: as of `NextTokens`.
        bounds: for each source, tokens that an output may have.
        ends: ids that end an output.
        forbidden: what may not be written.
        numbers: for each source, what its samples are drawn by besides the seed.
    """
    device, N, K = models[0].device, len(bounds), options.n_best if options.do_sample else 1
    dtype = torch.float64 if models[0].dtype == torch.float64 else torch.float32
    next_tokens = NextTokens(models, encoded, K, forbidden)
    room, shortest, end_ids = max(bounds), min(bounds), torch.tensor(list(ends), device=device)
    rows = RunningSentences(
        N,
        [next_tokens, forbidden],
        tokens=torch.full((N, K), models[0].config.decoder_start_token_id, device=device),
        written=torch.zeros(N, K, room, dtype=torch.long, device=device),
        log_probs=torch.zeros(N, K, room, dtype=dtype, device=device),
        running=torch.ones(N, K, dtype=torch.bool, device=device),
        bounds=torch.tensor(list(bounds), device=device)[:, None],
        chances=chances(options.seed, numbers, K, room).to(device) if options.do_sample else None,
    )
    results: list[list[Hypothesis]] = [[] for _ in bounds]
    for t in range(room):
        scores, normalizers = next_tokens(rows.tokens, None, rows.written[:, :, :t])
        if t == 0:  # one row for all
            scores, normalizers = scores.expand(-1, K, -1), normalizers.expand(-1, K)
        if rows.chances is None:
            log_probs, _, rows.tokens = best_continuations(scores, -normalizers, 1)
        else:
            rows.tokens = draw(scores - normalizers[:, :, None], rows.chances[:, :, t, None], options)
            log_probs = scores.gather(2, rows.tokens[:, :, None])[..., 0] - normalizers
        rows.written[:, :, t], rows.log_probs[:, :, t] = rows.tokens, log_probs
        rows.running.masked_fill_(torch.isin(rows.tokens, end_ids), False)
        if t + 1 >= shortest:
            rows.running.masked_fill_(t + 1 >= rows.bounds, False)
        gone = [row for row, runs in enumerate(rows.running.any(1).tolist()) if not runs]
        for row in gone:
            number = rows.numbers[row]
            found = []
            for ids, values in zip(rows.written[row].tolist(), rows.log_probs[row].tolist(), strict=True):
                length = next(
                    (place for place, token in enumerate(ids[: t + 1], start=1) if token in ends), bounds[number]
                )
                found.append(hypothesis(ids[:length], values[:length], ends, options))
            results[number] = sorted(found, key=lambda one: -one.normalized_score)
        if len(gone) == len(rows.numbers):
            break
        if gone:
            rows.leave(gone)
    return results


def chances(seed: int, numbers: Sequence[int], samples: int, steps: int) -> torch.Tensor:
    """Numbers in [0, 1) that every token of every sample is drawn by: float64 (N, samples, steps).

    Those of a sentence depend on the seed and its number alone, and all are drawn beforehand: what else is in the batch,
    and when it leaves, does not matter.
    """
    drawn = []
    for number in numbers:
        # The generator heeds 32 bits of its seed only: a hash, so that near seeds and numbers do not meet.
        digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
        # Step by step: the first ones are the same however many are asked for.
        drawn.append(torch.rand(steps, samples, dtype=torch.float64, generator=generator).T)
    return torch.stack(drawn)


def draw(log_probs: torch.Tensor, chance: torch.Tensor, options: SearchOptions) -> torch.Tensor:
    """A token for each hypothesis: the one in which `chance` falls when the probabilities are laid end to end.

    Args:
        log_probs: (N, K, V).
        chance: (N, K, 1), in [0, 1).

    Returns:
        (N, K).
    """
    log_probs = log_probs.double() / options.temperature
    V = log_probs.shape[2]
    if 0 < options.top_k < V:
        least = log_probs.topk(options.top_k)[0][..., -1:]
        log_probs = log_probs.masked_fill(log_probs < least, float("-inf"))
    if options.top_p < 1:
        probs = log_probs.softmax(-1)
        some, places = probs.topk(min(V, NUCLEUS))  # sorting all of them would take most of the time
        if (some.sum(-1) < options.top_p).any():
            some, places = probs.sort(descending=True)
        inside = some.cumsum(-1) - some < options.top_p
        outside = torch.ones_like(probs, dtype=torch.bool).scatter(2, places, ~inside)
        log_probs = log_probs.masked_fill(outside, float("-inf"))
    heaped = log_probs.softmax(-1).cumsum(-1)
    # To the right: a token of no probability has no room in which a chance could fall.
    return torch.searchsorted(heaped, chance * heaped[..., -1:], right=True)[..., 0].clamp(max=V - 1)
