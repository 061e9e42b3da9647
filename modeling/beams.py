"""Beam search (section 6.1), with the conventions of transformers, so that outputs are the same token for token:

* at every step the best M = 2 K of all K x V continuations are looked at (more, if several tokens end an output);
* of these, the first K finish if they end in `</s>`, and the best K of the others run on;
* a sentence is done when `SearchOptions.early_stopping` says so, and at its bound.

What differs: each sentence leaves as soon as it is done.

Shapes: N sentences that are still being written, K hypotheses of each in G groups of W, t tokens written so far, M
continuations that are looked at, S source length, V vocabulary.
"""

# The tensors of RunningSentences are attributes that are made at run time.
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false

from collections.abc import Sequence

import torch

from .decoder_weights import DecoderWeights
from .forbidden_tokens import ForbiddenTokens
from .hypotheses import Hypothesis, coverage_penalty, hypothesis
from .length_penalty import length_divisor
from .lexical_constraints import RequiredPhrases
from .next_tokens import NextTokens, best_continuations
from .running_sentences import RunningSentences
from .search_options import SearchOptions

DEAD = float("-inf")


class BeamSearch:
    """One batch. See `search` for the arguments.

    Args:
        encoded: as of `NextTokens`.
        bounds: for each source, tokens that an output may have.
        ends: ids that end an output.
        forbidden: what may not be written.
    """

    def __init__(
        self,
        models: Sequence[DecoderWeights],
        encoded: Sequence[tuple[torch.Tensor, torch.Tensor]],
        options: SearchOptions,
        bounds: Sequence[int],
        ends: Sequence[int],
        forbidden: ForbiddenTokens,
    ):
        self.options, self.ends = options, list(ends)
        device, N, K, room = models[0].device, len(bounds), options.num_beams, max(bounds)
        dtype = torch.float64 if models[0].dtype == torch.float64 else torch.float32
        self.width = K // options.num_beam_groups
        # One more for each end: so that always as many run on as there are beams.
        self.looked_at = max(2, 1 + len(ends)) * self.width
        self.end_ids = torch.tensor(self.ends, device=device)
        self.next_tokens = NextTokens(models, encoded, K, forbidden)
        self.required = RequiredPhrases(options.required, bounds, K, ends, device) if options.required else None
        covered = options.coverage_penalty > 0
        source_mask = encoded[0][1]
        self.rows = RunningSentences(
            N,
            [self.next_tokens, forbidden, *([] if self.required is None else [self.required])],
            bounds=torch.tensor(list(bounds), device=device)[:, None],
            greatest_divisors=torch.tensor([[self._divisor(bound)] for bound in bounds], dtype=dtype, device=device),
            tokens=torch.full((N, K), models[0].config.decoder_start_token_id, device=device),
            origins=torch.arange(K, device=device).repeat(N, 1),
            scores=torch.full((N, K), DEAD, dtype=dtype, device=device),
            written=torch.zeros(N, K, room, dtype=torch.long, device=device),
            log_probs=torch.zeros(N, K, room, dtype=dtype, device=device),
            finished_scores=torch.full((N, K), DEAD, dtype=dtype, device=device),
            finished=torch.zeros(N, K, room, dtype=torch.long, device=device),
            finished_log_probs=torch.zeros(N, K, room, dtype=dtype, device=device),
            finished_lengths=torch.zeros(N, K, dtype=torch.long, device=device),
            finished_coverage=torch.zeros(N, K, dtype=dtype, device=device),
            done=torch.zeros(N, options.num_beam_groups, dtype=torch.bool, device=device),
            received=torch.zeros(N, K, source_mask.shape[1], dtype=dtype, device=device) if covered else None,
            source_mask=source_mask.clone() if covered else None,  # rows change places
        )
        # All hypotheses of a group begin alike: only the first lives, or all would write the same.
        self.rows.scores[:, :: self.width] = 0.0

    def run(self) -> list[list[Hypothesis]]:
        """For each source the best hypotheses."""
        results: list[list[Hypothesis]] = [[] for _ in self.rows.numbers]
        for t in range(self.rows.written.shape[2]):
            self._step(t)
            gone = self.rows.done.all(1).nonzero()[:, 0].tolist()
            for row in gone:
                results[self.rows.numbers[row]] = self._best(row)
            if len(gone) == len(self.rows.numbers):
                break
            if gone:
                self.rows.leave(gone)
        return results

    def _step(self, t: int) -> None:
        """One token more for every hypothesis; what ends is put aside."""
        rows, W = self.rows, self.width
        scores, normalizers = self.next_tokens(rows.tokens, rows.origins, rows.written[:, :, :t])
        if rows.received is not None:
            rows.received = rows.received + self.next_tokens.source_weights().to(rows.received.dtype)
        going_on = []
        for group in range(self.options.num_beam_groups):
            beams = slice(group * W, (group + 1) * W)
            rivals = [tokens for _, _, tokens, _ in going_on]
            # At the first step there is one row for all of them.
            mine = beams if t else slice(0, 1)
            going_on.append(self._continue(t, group, beams, scores[:, mine], normalizers[:, mine], rivals))
        rows.scores, rows.origins, rows.tokens, log_probs = (
            column[0] if len(column) == 1 else torch.cat(column, dim=1) for column in zip(*going_on, strict=True)
        )
        parents = rows.origins[:, :, None]
        for history, new in ((rows.written, rows.tokens), (rows.log_probs, log_probs)):
            past = history[:, :, :t]
            past.copy_(past.gather(1, parents.expand_as(past)))
            history[:, :, t] = new
        if rows.received is not None:
            rows.received = rows.received.gather(1, parents.expand_as(rows.received))

    def _continue(
        self,
        t: int,
        group: int,
        beams: slice,
        scores: torch.Tensor,
        normalizers: torch.Tensor,
        rivals: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """One group: scores (N, W or 1, V) -> what runs on: totals, origins, tokens and their ln P, each (N, W).

        `rivals` are the tokens that earlier groups have chosen, each (N, W).
        """
        rows, options, W = self.rows, self.options, self.width
        N, alive, V = scores.shape
        lead = rows.scores[:, beams][:, :alive]
        before = lead - normalizers
        if self.required is not None:
            self.required.forbid_the_end(scores)
        judged = scores
        if rivals:
            taken = torch.cat(rivals, dim=1)
            penalty = scores.new_zeros(N, V).scatter_add_(1, taken, scores.new_ones(taken.shape))
            judged = scores - options.diversity_penalty * penalty[:, None]
        totals, parents, tokens = best_continuations(judged, before, min(self.looked_at, alive * V))  # (N, M)
        if self.required is not None:
            totals, parents, tokens = self.required.continuations(scores, before, (totals, parents, tokens), t)
        log_probs = scores.flatten(1).gather(1, parents * V + tokens) - normalizers.gather(1, parents)
        if rivals:
            totals = lead.gather(1, parents) + log_probs
        ended = torch.isin(tokens, self.end_ids) | (t + 1 >= rows.bounds)
        finishing = ended[:, :W] & (totals[:, :W] > DEAD) & ~rows.done[:, group, None]
        if finishing.any():
            self._finish(t, beams, finishing, totals[:, :W], parents[:, :W], tokens[:, :W], log_probs[:, :W])
        totals, places = self._run_on(totals.masked_fill(ended, DEAD))
        worst = rows.finished_scores[:, beams].amin(1)  # DEAD until there are W
        can_win = totals.amax(1) / self._hoped_for(t)
        done = (t + 1 >= rows.bounds[:, 0]) | ~(can_win > worst)
        if options.early_stopping is True:
            done |= worst > DEAD
        rows.done[:, group] |= done
        origins, tokens = parents.gather(1, places), tokens.gather(1, places)
        if self.required is not None:
            self.required.choose(origins, tokens)
        return totals, beams.start + origins, tokens, log_probs.gather(1, places)

    def _run_on(self, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The first W of (N, M) that live, and their places. They stand in the order in which they were chosen.

        That is not always the order of their totals: not with required phrases, nor where a group pays for its likeness.
        """
        M = totals.shape[1]
        order = torch.arange(M, 0, -1, device=totals.device) + M * (totals > DEAD)
        places = order.topk(self.width)[1]
        return totals.gather(1, places), places

    def _finish(
        self,
        t: int,
        beams: slice,
        finishing: torch.Tensor,
        totals: torch.Tensor,
        parents: torch.Tensor,
        tokens: torch.Tensor,
        log_probs: torch.Tensor,
    ) -> None:
        """Puts outputs (N, W) aside where they are `finishing`, if they are among the W best of their sentence."""
        rows, W = self.rows, self.width
        final = totals / self._divisor(t + 1)
        coverage = torch.zeros_like(final)
        if rows.received is not None:
            received = rows.received[:, beams]
            received = received.gather(1, parents[:, :, None].expand(-1, -1, received.shape[2]))
            coverage = coverage_penalty(received, rows.source_mask, self.options.coverage_penalty)
        final = (final + coverage).masked_fill(~finishing, DEAD)
        best, places = torch.cat((rows.finished_scores[:, beams], final), dim=1).topk(W)
        rows.finished_scores[:, beams] = best
        lengths = torch.full_like(parents, t + 1)
        for kept, new in ((rows.finished_lengths, lengths), (rows.finished_coverage, coverage)):
            kept[:, beams] = torch.cat((kept[:, beams], new), dim=1).gather(1, places)
        for kept, history, new in (
            (rows.finished, rows.written, tokens),
            (rows.finished_log_probs, rows.log_probs, log_probs),
        ):
            past = history[:, beams, :t]
            past = past.gather(1, parents[:, :, None].expand(-1, -1, t))
            outputs = torch.cat((past, new[:, :, None]), dim=2)
            both = torch.cat((kept[:, beams, : t + 1], outputs), dim=1)
            kept[:, beams, : t + 1] = both.gather(1, places[:, :, None].expand(-1, -1, t + 1))

    def _best(self, row: int) -> list[Hypothesis]:
        rows, found = self.rows, {}
        for score, ids, log_probs, length, coverage in zip(
            rows.finished_scores[row].tolist(),
            rows.finished[row].tolist(),
            rows.finished_log_probs[row].tolist(),
            rows.finished_lengths[row].tolist(),
            rows.finished_coverage[row].tolist(),
            strict=True,
        ):
            if score > DEAD:  # groups may have written the same
                found[tuple(ids[:length])] = hypothesis(ids[:length], log_probs[:length], self.ends, self.options, coverage)
        if not found:
            hypothesis([0], [float(rows.scores[row].max())], self.ends, self.options)  # says why
        return sorted(found.values(), key=lambda one: -one.normalized_score)[: self.options.n_best]

    def _divisor(self, length: int) -> float:
        return length_divisor(length, self.options.length_penalty, self.options.length_penalty_kind)

    def _hoped_for(self, t: int) -> torch.Tensor | float:
        """What the best running hypothesis is divided by when it is asked whether it can still win."""
        if self.options.early_stopping == "never" and self.options.length_penalty > 0:
            return self.rows.greatest_divisors[:, 0]
        return self._divisor(t + 1)
