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

import torch

from .decoder_weights import DecoderWeights, LayerWeights
from .incremental_attention import FoldedSourceAttention, IncrementalSelfAttention, SourceAttention

FIRST_ROOM = 32  # steps; when they are over the room is doubled


class IncrementalDecoder:
    """The decoder of one model, for one batch.

    Args:
        weights: of the model.
        states: (N, S, D), the encoder's output.
        source_mask: (N, S), 1 for tokens and 0 for padding; no row may be all padding.
        hypotheses: K.
    """

    def __init__(self, weights: DecoderWeights, states: torch.Tensor, source_mask: torch.Tensor, hypotheses: int):
        self.weights = weights
        self.sentences, self.hypotheses, self.past = len(states), hypotheses, 0
        padding = None
        if not source_mask.all():
            padding = states.new_zeros(source_mask.shape).masked_fill_(source_mask == 0, float("-inf"))
        self.room, self.limit = FIRST_ROOM, weights.config.max_position_embeddings
        self.encodings = self._encodings(states)
        # Added to the scores of self-attention: 0 for a key of the hypothesis, -inf for one of another.
        self.own_mask = states.new_empty(self.sentences, hypotheses, self.room * hypotheses)
        self.nobody_else = states.new_full((hypotheses, hypotheses), float("-inf")).fill_diagonal_(0.0)
        self.layers = [_Layer(layer, states, padding, self.room * hypotheses) for layer in weights.layers]

    def step(self, tokens: torch.Tensor, origins: torch.Tensor | None = None) -> torch.Tensor:
        """What follows: logits (N, K, V), at the first step (N, 1, V), for all hypotheses begin alike.

        Args:
            tokens: (N, K), the last token of every hypothesis.
            origins: (N, K), which of its sentence's hypotheses each was in the step before; None: itself.
        """
        N, past, keys, mask = self.sentences, self.past, self.keys, None
        K = self.hypotheses if past else 1
        if past == self.room:
            self._double_the_room()
        if K > 1:
            before = self.own_mask[:, :, :keys]
            if past == 1:
                before.zero_()  # all see <s>
            elif origins is not None:
                before.copy_(before.gather(1, origins[:, :, None].expand_as(before)))
            self.own_mask[:, :, keys : keys + K] = self.nobody_else
            mask = self.own_mask[:, None, :, : keys + K]  # (N, 1, K, L)

        x = self.weights.embed(tokens[:, :K].flatten()) * self.weights.embed_scale + self.encodings[past]  # (N K, D)
        for layer in self.layers:
            x = layer(x, keys, mask)
        self.past += 1
        return self.weights.output(self.weights.norm(x)).view(N, K, -1)

    def source_weights(self) -> torch.Tensor:
        """Where the last step looked in the source: of the last layer, the mean over heads (N, K, S), rows sum to 1.

        After the first step (N, 1, S).
        """
        return self.layers[-1].source_attention.weights()

    def move(self, to: torch.Tensor, from_: torch.Tensor, left: int) -> None:
        """Sentences at the places `from_` move to the places `to`; then only the first `left` are there."""
        self.own_mask[to, :, : self.keys] = self.own_mask[from_, :, : self.keys]
        self.own_mask = self.own_mask[:left]
        for layer in self.layers:
            layer.own_attention.move(to, from_, left, self.keys)
            layer.source_attention.move(to, from_, left)
        self.sentences = left

    @property
    def keys(self) -> int:
        """L: keys that are there."""
        return 1 + (self.past - 1) * self.hypotheses if self.past else 0

    def _encodings(self, like: torch.Tensor) -> torch.Tensor:
        """(room, D), of every position that there is room for."""
        return self.weights.embed_positions(torch.arange(min(self.room, self.limit), device=like.device)).to(like.dtype)

    def _double_the_room(self) -> None:
        self.room *= 2
        self.encodings = self._encodings(self.encodings)
        self.own_mask = torch.cat((self.own_mask, torch.empty_like(self.own_mask)), dim=2)
        for layer in self.layers:
            layer.own_attention.double_the_room()


class _Layer:
    """One layer, for the newest position of every hypothesis.

    Args:
        weights: of the layer.
        states: (N, S, D), the encoder's output.
        padding: (N, S), -inf where the source is padding and else 0; None where nothing is.
        room: keys to take memory for.
    """

    def __init__(self, weights: LayerWeights, states: torch.Tensor, padding: torch.Tensor | None, room: int):
        self.weights = weights
        self.own_attention = IncrementalSelfAttention(weights.own_attention, states, room)
        folds = FoldedSourceAttention.pays(weights.source_attention, states)
        self.source_attention = (FoldedSourceAttention if folds else SourceAttention)(
            weights.source_attention, states, padding
        )

    def __call__(self, x: torch.Tensor, past: int, mask: torch.Tensor | None) -> torch.Tensor:
        """(R, D) -> (R, D), see `IncrementalSelfAttention`."""
        inner, activation, outer = self.weights.inner, self.weights.activation, self.weights.outer
        own_norm, source_norm, feed_forward_norm = self.weights.norms
        if self.weights.is_pre_norm:
            x = self.own_attention(own_norm(x), x, past, mask)
            x = self.source_attention(source_norm(x), x)
            return outer(activation(inner(feed_forward_norm(x))), x)
        x = own_norm(self.own_attention(x, x, past, mask))
        x = source_norm(self.source_attention(x, x))
        return feed_forward_norm(outer(activation(inner(x)), x))
