"""A decoder that writes one token at a time, for several hypotheses of each sentence at once.

Shapes: N sentences, K hypotheses of each, S source length, L keys, D d_model, H heads, V vocabulary.

What makes it fast:

* The keys and values of cross-attention are computed once for a sentence, and its hypotheses are K queries on them.
* Those of self-attention lie in memory that was taken beforehand, K for every step, in the order in which they were
  written:

        step       1       2       3
        key     a b c   d e f   g h i        (K = 3)

  When hypotheses change places no key is copied. Each hypothesis has a mask of its own over all L = K x steps keys, and
  only this small mask changes places: the hypothesis that went through a, e and h sees a, e and h.
* One product makes queries, keys and values, as in training.
* Sentences that have finished leave: the last ones move into their places.

`step` computes what `VanillaTransformerDecoder.forward` computes, in another order of sums.
"""

from collections.abc import Callable

import torch
from torch import nn

from .attention import MultiHeadAttention, is_ordinary
from .layers import DecoderLayer

FIRST_ROOM = 32  # steps; when they are over the room is doubled


class IncrementalDecoder:
    """The decoder of one model, for one batch.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`, in evaluation mode.
        states: (N, S, D), the encoder's output.
        source_mask: (N, S), 1 for tokens and 0 for padding; no row may be all padding.
        hypotheses: K.
    """

    def __init__(self, model, states: torch.Tensor, source_mask: torch.Tensor, hypotheses: int):
        decoder = model.model.decoder
        self.embed_tokens, self.embed_positions = decoder.embed_tokens, decoder.embed_positions
        self.embed_scale, self.norm, self.lm_head = decoder.embed_scale, decoder.norm, model.lm_head
        self.sentences, self.hypotheses, self.past = len(states), hypotheses, 0
        self.source_mask = None
        if not source_mask.all():
            self.source_mask = states.new_zeros(source_mask.shape).masked_fill_(source_mask == 0, float("-inf"))
        self.positions = torch.arange(model.config.max_position_embeddings, device=states.device)
        self.room = FIRST_ROOM
        # Added to the scores of self-attention: 0 for a key of the hypothesis, -inf for one of another.
        self.own_mask = states.new_empty(self.sentences, hypotheses, self.room * hypotheses)
        self.nobody_else = states.new_full((hypotheses, hypotheses), float("-inf")).fill_diagonal_(0.0)
        self.layers = [_Layer(layer, states, hypotheses * self.room) for layer in decoder.layers]

    def step(self, tokens: torch.Tensor, origins: torch.Tensor | None = None) -> torch.Tensor:
        """What follows: logits (N, K, V).

        Args:
            tokens: (N, K), the last token of every hypothesis.
            origins: (N, K), which of its sentence's hypotheses each was in the step before; None: itself.
        """
        N, K, past = self.sentences, self.hypotheses, self.past
        if past == self.room:
            self._double_the_room()
        seen = None
        if K > 1:
            if origins is not None and past:
                before = self.own_mask[:N, :, : past * K]
                before.copy_(before.gather(1, origins[:, :, None].expand_as(before)))
            self.own_mask[:N, :, past * K : (past + 1) * K] = self.nobody_else
            seen = self.own_mask[:N, None, :, : (past + 1) * K]  # (N, 1, K, L)
        source = None if self.source_mask is None else self.source_mask[:N, None, None]  # (N, 1, 1, S)

        x = self.embed_tokens(tokens) * self.embed_scale
        x = x + self.embed_positions(self.positions[past : past + 1]).to(x.dtype)  # (N, K, D)
        for layer in self.layers:
            x = layer(x, past * K, seen, source)
        self.past += 1
        return self.lm_head(self.norm(x))

    def source_weights(self) -> torch.Tensor:
        """Where the last step looked in the source: of the last layer, the mean over heads (N, K, S), rows sum to 1."""
        return self.layers[-1].weights.mean(1)

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        """Sentences at the places `from_` move to the places `to`; then only the first `left` are there."""
        keys = self.past * self.hypotheses
        self.own_mask[to, :, :keys] = self.own_mask[from_, :, :keys]
        if self.source_mask is not None:
            self.source_mask[to] = self.source_mask[from_]
        for layer in self.layers:
            layer.move(to, from_, keys)
        self.sentences = left

    def _double_the_room(self) -> None:
        self.room *= 2
        self.own_mask = _doubled(self.own_mask, dim=2)
        for layer in self.layers:
            layer.keys, layer.values = _doubled(layer.keys, dim=2), _doubled(layer.values, dim=2)


class _Layer:
    """One layer with the keys and values it has seen.

    Args:
        layer: the model's.
        states: (N, S, D), the encoder's output.
        room: keys to make room for.
    """

    def __init__(self, layer: DecoderLayer, states: torch.Tensor, room: int):
        self.layer = layer
        own, cross = layer.self_attn, layer.cross_attn
        self.project_own = _as_one(own, own.q_proj, own.k_proj, own.v_proj)
        self.project_query = _as_one(cross, cross.q_proj)
        source_keys, source_values = _as_one(cross, cross.k_proj, cross.v_proj)(states)
        # Contiguous, because every step reads them.
        self.source_keys = source_keys.transpose(2, 3).contiguous()  # (N, H, d_k, S)
        self.source_values = source_values.contiguous()  # (N, H, S, d_v)
        N, H = self.source_values.shape[:2]
        self.keys = states.new_empty(N, H, room, own.d_k)
        self.values = states.new_empty(N, H, room, own.d_v)
        self.weights = states.new_empty(0)

    def __call__(
        self, x: torch.Tensor, past: int, seen: torch.Tensor | None, source: torch.Tensor | None
    ) -> torch.Tensor:
        """(N, K, D) -> (N, K, D).

        Args:
            x: the newest position of every hypothesis.
            past: keys that are there.
            seen: (N, 1, K, L), added to the scores of self-attention.
            source: (N, 1, 1, S), added to those of cross-attention.
        """
        layer, (N, K) = self.layer, x.shape[:2]
        query, key, value = self.project_own(layer.self_attn_norm.enter(x))
        self.keys[:N, :, past : past + K] = key
        self.values[:N, :, past : past + K] = value
        keys, values = self.keys[:N, :, : past + K], self.values[:N, :, : past + K]
        attended, _ = _attend(query, keys.transpose(2, 3), values, seen)
        x = layer.self_attn_norm.leave(x, layer.self_attn.out_proj(attended))
        (query,) = self.project_query(layer.cross_attn_norm.enter(x))
        attended, self.weights = _attend(query, self.source_keys[:N], self.source_values[:N], source)
        x = layer.cross_attn_norm.leave(x, layer.cross_attn.out_proj(attended))
        return layer.feed_forward_norm.leave(x, layer.feed_forward(layer.feed_forward_norm.enter(x)))

    def move(self, to: torch.Tensor, from_: torch.Tensor, keys: int) -> None:
        for kept in (self.keys, self.values):
            kept[to, :, :keys] = kept[from_, :, :keys]
        for kept in (self.source_keys, self.source_values):
            kept[to] = kept[from_]


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, H, K, d_k), scaled, on keys (N, H, d_k, L) and values (N, H, L, d_v) -> (N, K, H d_v) and weights.

    Plain products: for a handful of queries torch's kernels for attention are slower, and these show their weights.
    """
    scores = torch.matmul(query, keys)  # (N, H, K, L)
    if mask is not None:
        scores += mask
    weights = scores.softmax(dim=-1)
    return torch.matmul(weights, values).transpose(1, 2).flatten(2), weights


def _as_one(attention: MultiHeadAttention, *layers: nn.Linear) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """A function (N, T, D) -> for each layer (N, H, T, its d_k or d_v), the query scaled by 1 / sqrt(d_k)."""
    scales = [attention.scaling if layer is attention.q_proj else 1.0 for layer in layers]
    widths = [attention.d_v if layer is attention.v_proj else attention.d_k for layer in layers]
    if not all(map(is_ordinary, layers)):  # an adapter, a quantised layer, a hook: they must be called

        def one_by_one(states: torch.Tensor) -> list[torch.Tensor]:
            projected = [layer(states) * scale for layer, scale in zip(layers, scales, strict=True)]
            return [each.unflatten(-1, (-1, width)).transpose(1, 2) for each, width in zip(projected, widths, strict=True)]

        return one_by_one
    weight = torch.cat([layer.weight * scale for layer, scale in zip(layers, scales, strict=True)])
    bias = None
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias * scale for layer, scale in zip(layers, scales, strict=True)])
    sizes = [layer.out_features for layer in layers]
    heads = [(size // width, width) for size, width in zip(sizes, widths, strict=True)]

    def at_once(states: torch.Tensor) -> list[torch.Tensor]:
        projected = nn.functional.linear(states, weight, bias).split(sizes, dim=-1)
        return [each.unflatten(-1, head).transpose(1, 2) for each, head in zip(projected, heads, strict=True)]

    return at_once


def _doubled(memory: torch.Tensor, dim: int) -> torch.Tensor:
    return torch.cat((memory, torch.empty_like(memory)), dim=dim)
