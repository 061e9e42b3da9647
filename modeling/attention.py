"""Scaled dot-product attention and its multi-head form (section 3.2).

Shapes: B batch, T queries, L keys, D d_model, H heads, d_k width of a head's queries and keys, d_v of its values.
"""

# The configuration fills d_k and d_v, and transformers types its configurations and outputs loosely.
# pyright: reportOptionalOperand=false, reportOperatorIssue=false, reportArgumentType=false, reportCallIssue=false

from collections.abc import Callable

import torch
from torch import nn
from transformers import Cache, EncoderDecoderCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout as drop
from .short_attention import is_short, short_attention_forward


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equation 1 as it is printed: softmax(Q K^T / sqrt(d_k)) V. The reference for every faster kernel, which is what
    runs unless `attn_implementation="eager"` is asked for.

    Args:
        module: the attention that calls; it knows whether it is training.
        query: (B, H, T, d_k).
        key: (B, H, L, d_k).
        value: (B, H, L, d_v).
        attention_mask: boolean, broadcastable to (B, H, T, L), True = may attend; None = everything may.
        scaling: 1 / sqrt(d_k).
        dropout: probability with which an attention weight is dropped.

    Returns:
        The output (B, T, H, d_v) and the weights before dropout (B, H, T, L): rows sum to 1, and a query that may
        attend to nothing has a row of zeros.
    """
    scores = torch.matmul(query * scaling, key.transpose(2, 3))  # (B, H, T, L)
    if attention_mask is None:
        weights = scores.softmax(dim=-1)
    else:
        # A row without any key is an average over padding after the softmax; the second fill makes it zeros.
        weights = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min).softmax(dim=-1)
        weights = weights.masked_fill(~attention_mask, 0.0)
    weights = weights.to(value.dtype)
    output = torch.matmul(drop(weights, dropout, module.training), value)  # (B, H, T, d_v)
    return output.transpose(1, 2), weights


class MultiHeadAttention(nn.Module):
    """Section 3.2.2: MultiHead(Q, L, V) = Concat(head_1, ..., head_H) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).

    The H matrices of each kind are stored side by side as one: W^Q and W^K are (D, H d_k), W^V is (D, H d_v) and W^O
    is (H d_v, D). d_k and d_v are free (rows B of Table 3).

    Args:
        config: the model's configuration.
        is_causal: True in decoder self-attention alone. Kernels read it from the module when they get no mask.
        layer_idx: the place of this layer in the cache.
    """

    def __init__(self, config: VanillaTransformerConfig, is_causal: bool = False, layer_idx: int | None = None):
        super().__init__()
        self.config = config
        self.is_causal = is_causal
        self.layer_idx = layer_idx
        self.d_k, self.d_v = config.d_k, config.d_v
        self.scaling = config.d_k**-0.5
        heads, bias = config.num_attention_heads, config.attention_bias
        self.q_proj = nn.Linear(config.d_model, heads * config.d_k, bias=bias)
        self.k_proj = nn.Linear(config.d_model, heads * config.d_k, bias=bias)
        self.v_proj = nn.Linear(config.d_model, heads * config.d_v, bias=bias)
        self.out_proj = nn.Linear(heads * config.d_v, config.d_model, bias=bias)
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            projection.initial_gain = 0.5**0.5  # see `_init_weights` of the model

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        key_value_states: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from `hidden_states` to `key_value_states`, or to itself where that is None.

        Args:
            hidden_states: (B, T, D), the queries.
            attention_mask: what `masks.py` made for this implementation.
            key_value_states: (B, S, D), the encoder's output, in cross-attention.
            past_key_values: keys and values of earlier calls; cross-attention computes its own only once.

        Returns:
            The output (B, T, D), and the weights (B, H, T, L) where the implementation shows them, else None.
        """
        if key_value_states is None and past_key_values is None:
            query, key, value = self.project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
        else:
            (query,) = self.project(hidden_states, self.q_proj)
            key, value = self.keys_and_values(hidden_states, key_value_states, past_key_values)
        output, weights = self.attention_function(query, key, key_value_states is not None)(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )  # (B, T, H, d_v)
        return self.out_proj(output.flatten(2)), weights

    def keys_and_values(
        self, hidden_states: torch.Tensor, key_value_states: torch.Tensor | None, past_key_values: Cache | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, H, L, d_k) and (B, H, L, d_v), with whatever the cache holds in front."""
        is_cross_attention = key_value_states is not None
        cache = past_key_values
        if isinstance(past_key_values, EncoderDecoderCache):
            if is_cross_attention and past_key_values.is_updated.get(self.layer_idx):
                layer = past_key_values.cross_attention_cache.layers[self.layer_idx]
                return layer.keys, layer.values
            cache = (
                past_key_values.cross_attention_cache if is_cross_attention else past_key_values.self_attention_cache
            )

        states = key_value_states if is_cross_attention else hidden_states
        key, value = self.project(states, self.k_proj, self.v_proj)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
            if is_cross_attention and isinstance(past_key_values, EncoderDecoderCache):
                past_key_values.is_updated[self.layer_idx] = True
        return key, value

    def attention_function(self, query: torch.Tensor, key: torch.Tensor, is_cross_attention: bool) -> Callable:
        """The kernel that `attn_implementation` names: transformers' (SDPA, flash, flex, ...), or one of those above."""
        implementation = self.config._attn_implementation
        # transformers' flash attention takes the lengths of the queries from the mask it is given. In cross-attention
        # that mask is the source's, so target tokens beyond the source's length would be dropped without a word.
        if is_cross_attention and "flash_attention" in implementation:
            implementation = "sdpa"
        if implementation == "sdpa" and self.training and not self.config.attention_dropout and is_short(query, key):
            return short_attention_forward
        return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)

    def project(self, states: torch.Tensor, *layers: nn.Linear) -> list[torch.Tensor]:
        """(B, T, D) -> for each layer (B, H, T, its d_k or d_v). In training, one product for all ordinary linear layers.

        One product reads the states once, and under autocast casts them, and their gradient, once.
        """
        if self.training and len(layers) > 1 and all(map(is_ordinary, layers)):
            weight = torch.cat([layer.weight for layer in layers])
            bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
            projected = nn.functional.linear(states, weight, bias).split(
                [layer.out_features for layer in layers], dim=-1
            )
        else:
            projected = [layer(states) for layer in layers]
        widths = [self.d_v if layer is self.v_proj else self.d_k for layer in layers]
        # As many heads as there are: with tensor parallelism some.
        return [each.unflatten(-1, (-1, width)).transpose(1, 2) for each, width in zip(projected, widths, strict=True)]


def is_ordinary(layer: nn.Module) -> bool:
    """Whether a layer does nothing but a product with its weight, so that its weight can be used without it."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter  # not split over devices, nor quantised
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )
