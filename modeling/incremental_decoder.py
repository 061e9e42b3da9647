"""A decoder that writes one token at a time, for several hypotheses of each sentence at once.

Shapes: N sentences, K hypotheses of each, S source length, L keys, D d_model, H heads, V vocabulary.

What makes it fast:

* The keys and values of cross-attention are computed once for a sentence, and its hypotheses are K queries on them.
* Those of self-attention lie in memory that was taken beforehand, in the order in which they were written, K for every
  step but the first, where all hypotheses are one:

        step     1     2       3
        key     <s>  a b c   d e f        (K = 3)

  When hypotheses change places no key is copied. Each hypothesis has a mask of its own over all L keys, and only this
  small mask changes places: the hypothesis that went through b and d sees <s>, b and d.
* One product makes queries, keys and values, as in training.
* Sentences that have finished leave: the last ones move into their places.

`step` computes what `VanillaTransformerDecoder.forward` computes, in another order of sums.
"""

# The configuration fills d_k and d_v, and torch types what a layer holds loosely.
# pyright: reportArgumentType=false, reportOptionalOperand=false, reportOperatorIssue=false, reportCallIssue=false

from collections.abc import Callable

import torch
from torch import nn

from .attention import MultiHeadAttention, is_ordinary
from .layers import AddAndNorm, DecoderLayer

Rows = Callable[[torch.Tensor], torch.Tensor]

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
        self.embed_scale, self.norm, self.output = decoder.embed_scale, decoder.norm, _product(model.lm_head)
        self.sentences, self.hypotheses, self.past = len(states), hypotheses, 0
        self.source_mask = None
        if not source_mask.all():
            self.source_mask = states.new_zeros(source_mask.shape).masked_fill_(source_mask == 0, float("-inf"))
        self.positions = torch.arange(model.config.max_position_embeddings, device=states.device)
        self.room = FIRST_ROOM
        # Added to the scores of self-attention: 0 for a key of the hypothesis, -inf for one of another.
        self.own_mask = states.new_empty(self.sentences, hypotheses, self.room * hypotheses)
        self.nobody_else = states.new_full((hypotheses, hypotheses), float("-inf")).fill_diagonal_(0.0)
        self.layers = [_Layer(layer, states, hypotheses, self.room) for layer in decoder.layers]

    def step(self, tokens: torch.Tensor, origins: torch.Tensor | None = None) -> torch.Tensor:
        """What follows: logits (N, K, V), at the first step (N, 1, V), for all hypotheses begin alike.

        Args:
            tokens: (N, K), the last token of every hypothesis.
            origins: (N, K), which of its sentence's hypotheses each was in the step before; None: itself.
        """
        N, past, keys, seen = self.sentences, self.past, self.keys, None
        K = self.hypotheses if past else 1
        if past == self.room:
            self._double_the_room()
        if K > 1:
            before = self.own_mask[:N, :, :keys]
            if past == 1:
                before.zero_()  # all see <s>
            elif origins is not None:
                before.copy_(before.gather(1, origins[:, :, None].expand_as(before)))
            self.own_mask[:N, :, keys : keys + K] = self.nobody_else
            seen = self.own_mask[:N, None, :, : keys + K]  # (N, 1, K, L)
        source = None if self.source_mask is None else self.source_mask[:N, None, None]  # (N, 1, 1, S)

        x = self.embed_tokens(tokens[:, :K].flatten()) * self.embed_scale
        x = x + self.embed_positions(self.positions[past : past + 1]).to(x.dtype)  # (N K, D)
        for layer in self.layers:
            x = layer(x, N, keys, seen, source)
        self.past += 1
        return self.output(self.norm(x)).view(N, K, -1)

    def source_weights(self) -> torch.Tensor:
        """Where the last step looked in the source: of the last layer, the mean over heads (N, K, S), rows sum to 1.

        After the first step (N, 1, S).
        """
        return self.layers[-1].source_weights()

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        """Sentences at the places `from_` move to the places `to`; then only the first `left` are there."""
        keys = self.keys
        self.own_mask[to, :, :keys] = self.own_mask[from_, :, :keys]
        if self.source_mask is not None:
            self.source_mask[to] = self.source_mask[from_]
        for layer in self.layers:
            layer.move(to, from_, keys)
        self.sentences = left

    @property
    def keys(self) -> int:
        """L: keys that are there."""
        return 1 + (self.past - 1) * self.hypotheses if self.past else 0

    def _double_the_room(self) -> None:
        self.room *= 2
        self.own_mask = torch.cat((self.own_mask, torch.empty_like(self.own_mask)), dim=2)
        for layer in self.layers:
            layer.double_the_room()


class _Layer:
    """One layer with the keys and values it has seen. What it computes is in rows: R = N x K hypotheses.

    Args:
        layer: the model's.
        states: (N, S, D), the encoder's output.
        hypotheses: K.
        room: steps to make room for.
    """

    def __init__(self, layer: DecoderLayer, states: torch.Tensor, hypotheses: int, room: int):
        own, cross, feed_forward = layer.self_attn, layer.cross_attn, layer.feed_forward
        self.norms = [_norm(norm) for norm in (layer.self_attn_norm, layer.cross_attn_norm, layer.feed_forward_norm)]
        self.is_pre_norm = layer.self_attn_norm.is_pre_norm
        self.project_own, self.own_widths = _as_one(own, own.q_proj, own.k_proj, own.v_proj)
        self.project_query, _ = _as_one(cross, cross.q_proj)
        self.own_output, self.cross_output = _product(own.out_proj), _product(cross.out_proj)
        self.inner, self.activation = _product(feed_forward.fc1), feed_forward.activation
        self.outer = _product(feed_forward.fc2)

        project_source, widths = _as_one(cross, cross.k_proj, cross.v_proj)
        N, S = states.shape[:2]
        keys, values = project_source(states.flatten(0, 1)).split(widths, dim=1)
        self.heads, self.d_k, self.d_v = widths[0] // cross.d_k, cross.d_k, cross.d_v
        # Contiguous, because every step reads them.
        self.source_keys = keys.view(N, S, -1, self.d_k).permute(0, 2, 3, 1).reshape(-1, self.d_k, S)  # (N H, d_k, S)
        self.source_values = values.view(N, S, -1, self.d_v).transpose(1, 2).reshape(-1, S, self.d_v)  # (N H, S, d_v)
        self.keys = states.new_empty(N * self.heads, room * hypotheses, self.d_k)
        self.values = states.new_empty(N * self.heads, room * hypotheses, self.d_v)
        self.weights = states.new_empty(0)

    def __call__(
        self, x: torch.Tensor, sentences: int, past: int, seen: torch.Tensor | None, source: torch.Tensor | None
    ) -> torch.Tensor:
        """(R, D) -> (R, D).

        Args:
            x: the newest position of every hypothesis.
            sentences: N.
            past: keys that are there.
            seen: (N, 1, K, L), added to the scores of self-attention.
            source: (N, 1, 1, S), added to those of cross-attention.
        """
        N, H, K = sentences, self.heads, len(x) // sentences
        own_norm, cross_norm, feed_forward_norm = self.norms
        query, key, value = self.project_own(own_norm(x) if self.is_pre_norm else x).split_with_sizes(self.own_widths, dim=1)
        end = past + K
        self.keys[: N * H, past:end].view(N, H, K, -1).copy_(key.view(N, K, H, -1).transpose(1, 2))
        self.values[: N * H, past:end].view(N, H, K, -1).copy_(value.view(N, K, H, -1).transpose(1, 2))
        keys, values = self.keys[: N * H, :end], self.values[: N * H, :end]
        attended, _ = self._attend(self._by_head(query, K, self.d_k), keys.transpose(1, 2), values, seen)
        x = x + self.own_output(attended)
        if not self.is_pre_norm:
            x = own_norm(x)
        query = self._by_head(self.project_query(cross_norm(x) if self.is_pre_norm else x), K, self.d_k)
        attended, self.weights = self._attend(query, self.source_keys[: N * H], self.source_values[: N * H], source)
        x = x + self.cross_output(attended)
        if not self.is_pre_norm:
            x = cross_norm(x)
        x = x + self.outer(self.activation(self.inner(feed_forward_norm(x) if self.is_pre_norm else x)))
        return x if self.is_pre_norm else feed_forward_norm(x)

    def source_weights(self) -> torch.Tensor:
        """Of the last step, the mean over heads: (N, K, S)."""
        return self.weights.unflatten(0, (-1, self.heads)).mean(1)

    def double_the_room(self) -> None:
        self.keys, self.values = (torch.cat((one, torch.empty_like(one)), dim=1) for one in (self.keys, self.values))

    def move(self, to: torch.Tensor, from_: torch.Tensor, keys: int) -> None:
        for kept in (self.keys[:, :keys], self.values[:, :keys], self.source_keys, self.source_values):
            kept = kept.unflatten(0, (-1, self.heads))
            kept[to] = kept[from_]

    def _by_head(self, rows: torch.Tensor, hypotheses: int, width: int) -> torch.Tensor:
        """(R, H width) -> (N H, K, width)."""
        return rows.view(-1, hypotheses, self.heads, width).transpose(1, 2).reshape(-1, hypotheses, width)

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(N H, K, d_k), scaled, on keys (N H, d_k, L) and values (N H, L, d_v) -> (R, H d_v) and weights (N H, K, L).

        Plain products: for a handful of queries torch's kernels for attention are slower, and these show their weights.
        """
        scores = torch.bmm(query, keys)
        if mask is not None:
            scores.view(-1, self.heads, *scores.shape[1:]).add_(mask)
        weights = scores.softmax(dim=-1)
        attended = torch.bmm(weights, values)  # (N H, K, d_v)
        rows = attended.view(-1, self.heads, query.shape[1], self.d_v).transpose(1, 2)
        return rows.reshape(-1, self.heads * self.d_v), weights


# Calling a module costs more than a small product: what does nothing else is called without it.


def _product(layer: nn.Module) -> Rows:
    """Rows through a linear layer."""
    if not is_ordinary(layer):  # an adapter, a quantised layer, a hook
        return layer
    return _matrix_product(layer.weight, layer.bias)


def _matrix_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Rows:
    transposed = weight.t()
    if bias is None:
        return lambda rows: torch.mm(rows, transposed)
    return lambda rows: torch.addmm(bias, rows, transposed)


def _norm(norm: AddAndNorm) -> Rows:
    weight, bias, shape, eps = norm.weight, norm.bias, norm.normalized_shape, norm.eps
    return lambda rows: torch.layer_norm(rows, shape, weight, bias, eps)


def _as_one(attention: MultiHeadAttention, *layers: nn.Linear) -> tuple[Rows, list[int]]:
    """Rows through several linear layers at once, side by side, and how wide each is; the query scaled by 1 / sqrt(d_k)."""
    scales = [attention.scaling if layer is attention.q_proj else 1.0 for layer in layers]
    widths = [layer.out_features for layer in layers]
    if not all(map(is_ordinary, layers)):
        pairs = list(zip(layers, scales, strict=True))
        return lambda rows: torch.cat([layer(rows) * scale for layer, scale in pairs], dim=1), widths
    weight = torch.cat([layer.weight * scale for layer, scale in zip(layers, scales, strict=True)])
    bias = None
    if layers[0].bias is not None:
        bias = torch.cat([layer.bias * scale for layer, scale in zip(layers, scales, strict=True)])
    return _matrix_product(weight, bias), widths
