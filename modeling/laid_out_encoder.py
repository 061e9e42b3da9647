"""The encoder of one model, laid out for many batches, as `decoder_weights.py` lays out the decoder.

Shapes: N sentences, S source length, D d_model, H heads, d_k width of a head's queries and keys, d_v of its values.
"""

import torch
from torch import nn

from .attention import MultiHeadAttention
from .decoder_weights import SelfAttentionWeights
from .layers import EncoderLayer
from .row_products import norm, product, product_added
from .short_softmax import softmax

# Positions up to which plain products were faster than torch's kernel on a CPU (docs/experiments.md). Beyond, their scores
# would take much memory, too.
SHORT = 32


class LaidOutEncoder:
    """Computes what `VanillaTransformerEncoder.forward` computes. The weights must not change while it is used.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`, in evaluation mode.
        rows: tokens of most batches.
    """

    def __init__(self, model, rows: int):
        encoder = model.model.encoder
        self.embed, self.norm = encoder.embed, encoder.norm
        self.layers = [_Layer(layer, rows) for layer in encoder.layers]

    def __call__(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """States (N, S, D).

        Args:
            input_ids: (N, S), padded on the right.
            mask: (N, S), 1 for tokens and 0 for padding.

        Raises:
            ValueError: more positions than the model has.
        """
        x = self.embed(input_ids, None, None, None)
        N, S = input_ids.shape
        sees = None if mask.all() else mask[:, None, None].bool()  # (N, 1, 1, S)
        x = x.flatten(0, 1)
        for layer in self.layers:
            x = layer(x, N, sees)
        return self.norm(x).view(N, S, -1)


class _Layer:
    def __init__(self, layer: EncoderLayer, rows: int):
        self.attention = _Attention(layer.self_attn, rows)
        self.inner, self.outer = product(layer.feed_forward.fc1, rows), product_added(layer.feed_forward.fc2, rows)
        self.activation = layer.feed_forward.activation
        self.attention_norm, self.feed_forward_norm = norm(layer.self_attn_norm), norm(layer.feed_forward_norm)
        self.is_pre_norm = layer.self_attn_norm.is_pre_norm

    def __call__(self, x: torch.Tensor, sentences: int, sees: torch.Tensor | None) -> torch.Tensor:
        """(N S, D) -> (N S, D)."""
        if self.is_pre_norm:
            x = self.attention(self.attention_norm(x), x, sentences, sees)
            return self.outer(self.activation(self.inner(self.feed_forward_norm(x))), x)
        x = self.attention_norm(self.attention(x, x, sentences, sees))
        return self.feed_forward_norm(self.outer(self.activation(self.inner(x)), x))


class _Attention:
    def __init__(self, attention: MultiHeadAttention, rows: int):
        weights = SelfAttentionWeights(attention, rows)
        self.widths, self.heads = (weights.d_k, weights.d_k, weights.d_v), weights.heads
        self.project, self.output = weights.project, weights.output

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, sentences: int, sees: torch.Tensor | None
    ) -> torch.Tensor:
        """residual + out_proj(attention of x), (N S, D)."""
        made = self.project(x).view(sentences, -1, self.heads, sum(self.widths)).transpose(1, 2)
        query, key, value = made.split_with_sizes(self.widths, dim=3)  # each (N, H, S, its width)
        if x.device.type == "cpu" and made.shape[2] <= SHORT:
            attended = _plain_attention(query, key, value, sees)
        else:
            attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=sees, scale=1.0)
        return self.output(attended.transpose(1, 2).reshape(len(x), -1), residual)


def _plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, sees: torch.Tensor | None
) -> torch.Tensor:
    """softmax(Q K^T) V, (N, H, S, d_v)."""
    shape = query.shape[:2]
    query, key, value = (each.flatten(0, 1) for each in (query, key, value))
    scores = torch.bmm(query, key.mT)
    if sees is not None:
        scores.unflatten(0, shape).masked_fill_(~sees, float("-inf"))
    return torch.bmm(softmax(scores), value).unflatten(0, shape)
