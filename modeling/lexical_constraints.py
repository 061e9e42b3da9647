"""Phrases that an output must hold: beam search with banks (Post and Vilar, 2018).

A hypothesis that has written none of the required tokens is likelier than one that has, and would take all beams. So the
beams are dealt out among banks: bank b holds the hypotheses that have written b of the C required tokens, and each bank
has as many beams as the others. What a bank has no use for goes to the best of the rest.

Continuations that are looked at are the best of all, and for every hypothesis each token that brings it further. A
hypothesis that is within a phrase and leaves it loses what it has of it, but for what begins the phrase anew. None may
end before it holds all, and none may be left with less room than it needs.

Shapes: N sentences, K hypotheses of each, P phrases of up to Q tokens, C tokens of all phrases together, M continuations.
"""

from collections.abc import Sequence

import torch

DEAD = float("-inf")


class RequiredPhrases:
    """How far the hypotheses of every sentence have come.

    Args:
        phrases: P lists of ids, the same for all sentences.
        bounds: for each sentence, tokens that its output may have.
        hypotheses: K.
        ends: ids that end an output.
        device: of the search.

    Raises:
        ValueError: a phrase ends an output, or a bound leaves no room for them all.
    """

    def __init__(
        self,
        phrases: Sequence[Sequence[int]],
        bounds: Sequence[int],
        hypotheses: int,
        ends: Sequence[int],
        device: torch.device,
    ):
        self.needed = sum(map(len, phrases))
        if self.needed > min(bounds):
            raise ValueError(
                f"the required phrases have {self.needed} tokens, more than the {min(bounds)} that an output may have: "
                "require less, or raise its bound"
            )
        for phrase in phrases:
            if set(phrase) & set(ends):
                raise ValueError(f"the required phrase {list(phrase)} holds a token that ends an output: leave it out")
        width = max(map(len, phrases))
        # One column more, for phrases that are complete: no token goes on with them.
        rows = [[*phrase, *[-1] * (width + 1 - len(phrase))] for phrase in phrases]
        self.phrases = torch.tensor(rows, device=device)  # (P, Q + 1)
        self.lengths = torch.tensor([len(phrase) for phrase in phrases], device=device)  # (P,)
        # Where a phrase that breaks off may go on: its beginnings that it ends with, the empty one last, then -1.
        self.shorter = torch.full((len(phrases), width + 1, max(1, width)), -1, device=device)  # (P, Q + 1, Q)
        for number, phrase in enumerate(phrases):
            for length in range(len(phrase)):
                written = list(phrase[:length])
                found = [n for n in range(length) if written[:n] == written[length - n :]]
                self.shorter[number, length, : len(found)] = torch.tensor(found[::-1])
        self.ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.bounds = torch.tensor(list(bounds), device=device)[:, None]
        # Tokens of each phrase that stand at the end of the hypothesis; its length once it was complete.
        self.progress = torch.zeros(len(bounds), hypotheses, len(phrases), dtype=torch.long, device=device)

    def forbid_the_end(self, scores: torch.Tensor) -> None:
        """Scores (N, K, V) of `</s>` become -inf, in place, where something is missing."""
        missing = (self.progress[:, : scores.shape[1]] < self.lengths).any(-1)
        scores[:, :, self.ends] = scores[:, :, self.ends].masked_fill(missing[:, :, None], DEAD)

    def continuations(
        self, scores: torch.Tensor, before: torch.Tensor, best: tuple[torch.Tensor, torch.Tensor, torch.Tensor], t: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The continuations to choose from, ordered so that the first K are those that run on.

        Args:
            scores: (N, K, V).
            before: (N, K), to be added.
            best: sums, hypotheses and tokens of the best, each (N, M).
            t: tokens written so far.

        Returns:
            The same, with more columns; a sum of -inf: not to be chosen.
        """
        N, K, V = scores.shape
        further = self._next(self.progress[:, :K])  # (N, K, P), -1: nothing is missing
        hypotheses = torch.arange(K, device=scores.device)[:, None].expand_as(further)
        sums = scores.gather(2, further.clamp(min=0)) + before[:, :, None]
        sums = sums.masked_fill(further < 0, DEAD)
        sums, hypotheses, tokens = (
            torch.cat((one, two.flatten(1)), dim=1)
            for one, two in zip(best, (sums, hypotheses, further.clamp(min=0)), strict=True)
        )
        # The same continuation twice would be two hypotheses for ever.
        place = hypotheses * V + tokens
        earlier = torch.ones(place.shape[1], place.shape[1], dtype=torch.bool, device=place.device).tril(-1)
        alive = sums > DEAD
        twice = ((place[:, :, None] == place[:, None, :]) & alive[:, None, :] & earlier).any(-1)
        written = self._kept(self.after(hypotheses, tokens))
        no_room = t + 1 + self.needed - written > self.bounds
        sums = sums.masked_fill(twice | no_room, DEAD)
        # The rank of each in its bank; better ones first.
        same_bank = written[:, :, None] == written[:, None, :]
        better = (sums[:, None, :] > sums[:, :, None]) | ((sums[:, None, :] == sums[:, :, None]) & earlier)
        rank = (same_bank & better).sum(-1)
        each, over = divmod(self.progress.shape[1], self.needed + 1)
        dealt = each + (written >= self.needed + 1 - over).long()
        first = (rank < dealt) & (sums > DEAD)
        # Those who have a place in their bank, by score; then the rest, by score.
        by_score = sums.argsort(dim=1, descending=True, stable=True)
        order = by_score.gather(1, first.gather(1, by_score).long().argsort(dim=1, descending=True, stable=True))
        return sums.gather(1, order), hypotheses.gather(1, order), tokens.gather(1, order)

    def after(self, hypotheses: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Progress (N, M, P) once these hypotheses (N, M) have gone on with these tokens (N, M)."""
        P = len(self.lengths)
        before = self.progress.gather(1, hypotheses[:, :, None].expand(-1, -1, P))
        goes_on = self._next(before) == tokens[:, :, None]
        columns = torch.arange(P, device=tokens.device)
        shorter = self.shorter[columns, before]  # (N, M, P, Q)
        again = (self.phrases[columns[:, None], shorter] == tokens[:, :, None, None]) & (shorter >= 0)
        begun = ((shorter + 1) * again).amax(-1)
        return torch.where(before == self.lengths, before, torch.where(goes_on, before + 1, begun))

    def choose(self, origins: torch.Tensor, tokens: torch.Tensor) -> None:
        """These (N, K) run on."""
        self.progress = self.after(origins, tokens)

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        for name in ("progress", "bounds"):
            kept = getattr(self, name)
            kept[to] = kept[from_]
            setattr(self, name, kept[:left])

    def _kept(self, progress: torch.Tensor) -> torch.Tensor:
        """(N, M, P) -> (N, M), of the C required tokens: phrases that are complete, and the longest part of one.

        Of two phrases that are written in part, only one can be gone on with.
        """
        complete = progress == self.lengths
        return (progress * complete).sum(-1) + (progress * ~complete).amax(-1)

    def _next(self, progress: torch.Tensor) -> torch.Tensor:
        """(..., P) -> the token that each phrase goes on with, -1 for one that is complete."""
        columns = torch.arange(len(self.lengths), device=progress.device)
        return self.phrases[columns, progress]
