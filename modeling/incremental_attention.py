"""Attention of the newest position of every hypothesis, on the positions before it and on the source.

Shapes: N sentences, K hypotheses of each, R = N K rows, S source length, L keys, D d_model, H heads, d_k width of a head's
queries and keys, d_v of its values.

Plain products: for a handful of queries torch's kernels for attention are slower, and these show their weights. Every class
gives residual + out_proj(attention), for the sum is free inside a product.
"""

import math

import torch

from .decoder_weights import SelfAttentionWeights, SourceAttentionWeights
from .short_softmax import FEW, softmax


class IncrementalSelfAttention:
    """Self-attention, and the keys and values it has made.

    Args:
        weights: of the layer.
        states: any tensor (N, ...) of the model's type.
        room: keys to take memory for.
    """

    def __init__(self, weights: SelfAttentionWeights, states: torch.Tensor, room: int):
        self.widths, self.project, self.output = (
            (weights.d_k, weights.d_k, weights.d_v),
            weights.project,
            weights.output,
        )
        shape = len(states), weights.heads, room
        self.keys, self.values = states.new_empty(*shape, weights.d_k), states.new_empty(*shape, weights.d_v)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor, past: int, mask: torch.Tensor | None) -> torch.Tensor:
        """(R, D).

        Args:
            x: (R, D), what attends.
            residual: (R, D), what the result is added to.
            past: keys that are there.
            mask: (N, 1, K, L), added to the scores; None: each row sees everything of its sentence.
        """
        N, H = self.keys.shape[:2]
        K = len(x) // N
        end = past + K
        made = self.project(x).view(N, K, H, -1).transpose(1, 2)  # (N, H, K, 2 d_k + d_v)
        query, self.keys[:, :, past:end], self.values[:, :, past:end] = made.split_with_sizes(self.widths, dim=3)
        keys, values = self.keys[:, :, :end].flatten(0, 1), self.values[:, :, :end].flatten(0, 1)
        scores = torch.bmm(query.reshape(N * H, K, -1), keys.transpose(1, 2))  # (N H, K, L)
        if mask is not None:
            scores.view(N, H, K, end).add_(mask)
        attended = _weighted_sums(softmax(scores), values)  # (N H, K, d_v)
        return self.output(attended.view(N, H, K, -1).transpose(1, 2).reshape(N * K, -1), residual)

    def double_the_room(self) -> None:
        self.keys, self.values = (torch.cat((one, torch.empty_like(one)), dim=2) for one in (self.keys, self.values))

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int, keys: int) -> None:
        """Sentences at the places `from_` move to the places `to`; then only the first `left` are there, of `keys` keys."""
        for one in (self.keys, self.values):
            _move(one[:, :, :keys], to, from_, left)
        self.keys, self.values = self.keys[:left], self.values[:left]


class SourceAttention:
    """Cross-attention: the keys and values of a sentence are made once, and its hypotheses are K queries on them.

    Args:
        weights: of the layer.
        states: (N, S, D), the encoder's output.
        padding: (N, S), -inf where the source is padding and else 0; None where nothing is.
    """

    def __init__(self, weights: SourceAttentionWeights, states: torch.Tensor, padding: torch.Tensor | None):
        keys, values = weights.keys_and_values(states)
        # Contiguous, because every step reads them, in the order in which they are read. Keys are (N, H, d_k, S).
        by_number = _number_by_number(1, keys.shape[2], keys.shape[3])
        self.keys = keys.contiguous().transpose(2, 3) if by_number else keys.transpose(2, 3).contiguous()
        self.values = values.contiguous()  # (N, H, S, d_v)
        # Added to the scores, for each head again because a product can only add what has its shape: (N, H, 1, S).
        self.mask = None if padding is None else padding[:, None, None].repeat(1, self.keys.shape[1], 1, 1)
        self.project, self.output = weights.query, weights.output
        self._weights = states.new_empty(0)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """(R, D): what attends, and what the result is added to -> (R, D)."""
        N, H = self.keys.shape[:2]
        K = len(x) // N
        query = self.project(x).view(N, K, H, -1).transpose(1, 2).reshape(N * H, K, -1)
        if self.mask is None:
            scores = torch.bmm(query, self.keys.flatten(0, 1))  # (N H, K, S)
        else:
            scores = torch.baddbmm(self.mask.flatten(0, 1), query, self.keys.flatten(0, 1))
        self._weights = softmax(scores)
        attended = _weighted_sums(self._weights, self.values.flatten(0, 1)).view(N, H, K, -1)
        return self.output(attended.transpose(1, 2).reshape(N * K, -1), residual)

    def weights(self) -> torch.Tensor:
        """Of the last call, the mean over heads: (N, K, S), rows sum to 1."""
        return self._weights.unflatten(0, self.keys.shape[:2]).mean(1)

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        self.keys, self.values = _move(self.keys, to, from_, left), _move(self.values, to, from_, left)
        self.mask = None if self.mask is None else _move(self.mask, to, from_, left)


class FoldedSourceAttention:
    """Cross-attention of a sentence whose keys and values hold the projections W^Q and W^O of their head.

    q k = (x W^Q) k = x (W^Q k), and (sum of w v) W^O = sum of w (v W^O): a step needs two products and a softmax instead of
    four products. Each key and value is D wide instead of d_k: good for few and short sentences (`pays`).

    Args and use: as of `SourceAttention`.
    """

    def __init__(self, weights: SourceAttentionWeights, states: torch.Tensor, padding: torch.Tensor | None):
        query_layer, output_layer = weights.query_layer, weights.output_layer
        keys, values = weights.keys_and_values(states)
        N, H, S = keys.shape[:3]
        query_weight = query_layer.weight.unflatten(0, (H, -1))  # (H, d_k, D)
        output_weight = output_layer.weight.t().unflatten(0, (H, -1))  # (H, d_v, D)
        self.keys = (keys @ query_weight).view(N, H * S, -1)
        self.values = (values @ output_weight).view(N, H * S, -1)
        # Added to the scores: (N, 1, H S), the padding and the queries' bias.
        self.mask = None if padding is None else padding.repeat(1, H)[:, None]
        if query_layer.bias is not None:
            bias = (keys @ query_layer.bias.view(H, -1, 1)).view(N, 1, -1)
            self.mask = bias if self.mask is None else self.mask + bias
        if output_layer.bias is not None:
            self.values += output_layer.bias / H  # the weights of a head sum to 1
        self.heads = H
        self._weights = states.new_empty(0)

    @staticmethod
    def pays(weights: SourceAttentionWeights, states: torch.Tensor) -> bool:
        """Whether these are few enough sentences that a step reads less so, and the weights are there to be read."""
        return weights.folds and states.shape[0] * states.shape[1] <= 2 * weights.d_k

    def __call__(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        N, H = len(self.keys), self.heads
        K = len(x) // N
        x, keys = x.view(N, K, -1), self.keys.transpose(1, 2)
        scores = torch.bmm(x, keys) if self.mask is None else torch.baddbmm(self.mask, x, keys)  # (N, K, H S)
        self._weights = softmax(scores.view(N, K, H, -1))
        return torch.baddbmm(residual.view(N, K, -1), self._weights.view(N, K, -1), self.values).view(N * K, -1)

    def weights(self) -> torch.Tensor:
        return self._weights.mean(2)

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        self.keys, self.values = _move(self.keys, to, from_, left), _move(self.values, to, from_, left)
        self.mask = None if self.mask is None else _move(self.mask, to, from_, left)


def _weighted_sums(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(B, K, L) and (B, L, d) -> (B, K, d)."""
    K, L = weights.shape[1:]
    # What is next to each other in `values` is not what is summed, so number by number takes three times as long.
    if K == 1 and weights.numel() >= FEW and _number_by_number(1, L, values.shape[2]):
        return (weights.transpose(1, 2) * values).sum(1, keepdim=True)
    return torch.bmm(weights, values)


def _number_by_number(*sizes: int) -> bool:
    """Whether torch's bmm on a CPU takes products of these three sizes one number at a time: the smallest ones (2.13)."""
    return math.prod(sizes) < 400


def _move(kept: torch.Tensor, to: torch.Tensor, from_: torch.Tensor, left: int) -> torch.Tensor:
    """The first `left` rows, after those at the places `from_` have taken the places `to`."""
    kept[to] = kept[from_]
    return kept[:left]
