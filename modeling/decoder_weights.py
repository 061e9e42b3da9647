"""The decoder of one model, laid out for writing one token at a time.

What depends on the weights alone is made here, once for any number of batches: matrices side by side that multiply the same
rows, and packed ones (`row_products.py`). The weights must not change while it is used: what was copied would be stale.
"""

# The configuration fills d_k and d_v, and torch types what a layer holds loosely.
# pyright: reportArgumentType=false

import torch

from .attention import MultiHeadAttention, is_ordinary
from .layers import DecoderLayer
from .row_products import lookup, norm, product, product_added, products_by_head


class DecoderWeights:
    """Of one model.

    Args:
        model: a `VanillaTransformerForConditionalGeneration`, in evaluation mode.
        rows: of how many hypotheses most steps will be.
    """

    def __init__(self, model, rows: int):
        decoder = model.model.decoder
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.embed, self.embed_scale, self.embed_positions = (
            lookup(decoder.embed_tokens),
            decoder.embed_scale,
            decoder.embed_positions,
        )
        self.layers = [LayerWeights(layer, rows) for layer in decoder.layers]
        self.norm, self.output = decoder.norm, product(model.lm_head, rows)


class LayerWeights:
    """Of one layer; `rows` as above."""

    def __init__(self, layer: DecoderLayer, rows: int):
        self.own_attention = SelfAttentionWeights(layer.self_attn, rows)
        self.source_attention = SourceAttentionWeights(layer.cross_attn, rows)
        self.inner, self.outer = product(layer.feed_forward.fc1, rows), product_added(layer.feed_forward.fc2, rows)
        self.activation = layer.feed_forward.activation
        self.norms = norm(layer.self_attn_norm), norm(layer.cross_attn_norm), norm(layer.feed_forward_norm)
        self.is_pre_norm = layer.self_attn_norm.is_pre_norm


class SelfAttentionWeights:
    """Rows (R, D) to queries, keys and values of all heads at once, and what was attended back to rows."""

    def __init__(self, attention: MultiHeadAttention, rows: int):
        self.d_k, self.d_v = int(attention.d_k), int(attention.d_v)
        self.heads = attention.q_proj.out_features // self.d_k
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.project = products_by_head(layers, self.heads, attention.scaling, rows)
        self.output = product_added(attention.out_proj, rows)


class SourceAttentionWeights:
    """Of cross-attention."""

    def __init__(self, attention: MultiHeadAttention, rows: int):
        self.d_k, self.d_v, self.scaling = int(attention.d_k), int(attention.d_v), attention.scaling
        self.query, self.output = product(attention.q_proj, rows), product_added(attention.out_proj, rows)
        self._keys, self._values = product(attention.k_proj), product(attention.v_proj)
        self.folds = is_ordinary(attention.q_proj) and is_ordinary(attention.out_proj)
        self.query_layer, self.output_layer = attention.q_proj, attention.out_proj

    def keys_and_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the encoder's output (N, S, D): (N, H, S, d_k), scaled by 1 / sqrt(d_k), and (N, H, S, d_v)."""
        N, S = states.shape[:2]
        rows = states.flatten(0, 1)
        keys, values = self._keys(rows) * self.scaling, self._values(rows)
        return keys.view(N, S, -1, self.d_k).transpose(1, 2), values.view(N, S, -1, self.d_v).transpose(1, 2)
