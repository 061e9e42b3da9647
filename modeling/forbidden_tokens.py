"""Which tokens a hypothesis may not go on with.

Shapes: N sentences, K hypotheses of each, t tokens written so far, V vocabulary.
"""

from collections.abc import Sequence

import torch

from .search_options import SearchOptions

HIDDEN = float("-inf")


class ForbiddenTokens:
    """Sets the scores of forbidden tokens to -inf. The others keep theirs: nothing is divided by what is left.

    Args:
        options: of the search.
        ends: ids that end an output.
        least: for each sentence, tokens that must be written before `</s>`.
        prefixes: for each sentence, ids that its output begins with; () for none.
        device: of the scores.

    Raises:
        ValueError: a prefix holds what is banned.
    """

    def __init__(
        self,
        options: SearchOptions,
        ends: Sequence[int],
        least: Sequence[int],
        prefixes: Sequence[Sequence[int]],
        device: torch.device,
    ):
        self.ngram = options.no_repeat_ngram_size
        by_length: dict[int, list[tuple[int, ...]]] = {}
        for phrase in options.banned:
            by_length.setdefault(len(phrase), []).append(tuple(phrase))
        never = sorted({*options.suppress_tokens, *(phrase[0] for phrase in by_length.pop(1, []))})
        self.never = torch.tensor(never, dtype=torch.long, device=device)
        self.banned = [torch.tensor(phrases, device=device) for phrases in by_length.values()]  # each (phrases, length)
        self.ends = torch.tensor(list(ends), dtype=torch.long, device=device)
        self.least = torch.tensor(list(least), device=device) if any(least) else None  # (N,)
        self.shortest_least, self.longest_least = min(least, default=0), max(least, default=0)
        self.longest_prefix = max(map(len, prefixes), default=0)
        self.prefixes = None  # (N, longest), -1 behind the end of a prefix
        if self.longest_prefix:
            for prefix in prefixes:
                self._check(list(prefix), options)
            rows = [[*prefix, *[-1] * (self.longest_prefix - len(prefix))] for prefix in prefixes]
            self.prefixes = torch.tensor(rows, device=device)

    def __call__(self, scores: torch.Tensor, written: torch.Tensor) -> None:
        """Changes scores (N, K, V) in place.

        Args:
            scores: of the next token.
            written: (N, K, t), the outputs so far.
        """
        t, N = written.shape[2], len(written)
        rows = None
        if self.prefixes is not None and t < self.longest_prefix:
            # Whoever forces a beginning may repeat himself in it: its scores are put back in the end.
            forced = self.prefixes[:N, t, None]  # (N, 1)
            rows = (forced[:, 0] >= 0).nonzero()[:, 0]
            forced = forced[rows]
            kept = scores[rows].gather(2, forced[:, :, None].expand(-1, scores.shape[1], 1))[..., 0]
        if len(self.never):
            scores.index_fill_(2, self.never, HIDDEN)
        for phrases in self.banned:
            behind = phrases.shape[1] - 1
            if t >= behind:
                tails = written[:, :, None, t - behind :]
                found = (tails == phrases[:, :-1]).all(-1).nonzero()  # (matches, 3): sentence, hypothesis, phrase
                scores[found[:, 0], found[:, 1], phrases[found[:, 2], -1]] = HIDDEN
        if self.ngram and t >= self.ngram:
            windows = written.unfold(2, self.ngram, 1)  # (N, K, t - n + 1, n)
            tails = written[:, :, None, t - self.ngram + 1 :]
            found = (windows[..., :-1] == tails).all(-1).nonzero()
            scores[found[:, 0], found[:, 1], windows[found[:, 0], found[:, 1], found[:, 2], -1]] = HIDDEN
        if t < self.shortest_least:
            scores.index_fill_(2, self.ends, HIDDEN)
        elif self.least is not None and t < self.longest_least:
            early = (t < self.least[:N])[:, None, None]
            scores[:, :, self.ends] = scores[:, :, self.ends].masked_fill(early, HIDDEN)
        if rows is not None:
            scores[rows] = HIDDEN
            scores[rows[:, None], torch.arange(scores.shape[1], device=rows.device), forced] = kept

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        for kept in (self.least, self.prefixes):
            if kept is not None:
                kept[to] = kept[from_]

    def _check(self, prefix: list[int], options: SearchOptions) -> None:
        forbidden = [(token,) for token in options.suppress_tokens] + [tuple(phrase) for phrase in options.banned]
        for phrase in forbidden:
            for start in range(len(prefix) - len(phrase) + 1):
                if tuple(prefix[start : start + len(phrase)]) == phrase:
                    raise ValueError(f"the prefix {prefix} holds the banned tokens {list(phrase)}: choose one")
