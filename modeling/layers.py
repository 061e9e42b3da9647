"""The layers of both stacks (section 3.1).

Shapes: B batch, S source length, T target length, D d_model.

    post-norm (the paper)                         pre-norm (norm_position="pre")

    x ----+---------------------+                 x ----+---------------------------+
          |                     v                       |                           v
          +--> sub-layer --> dropout --> add            +--> norm --> sub-layer --> dropout --> add
                                          |                                                      |
                                        norm --> out                                            out
"""

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import MultiHeadAttention
from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout
from .feed_forward import FeedForward


class AddAndNorm(nn.LayerNorm):
    """What stands around every sub-layer. Post-norm: LayerNorm(x + Dropout(Sublayer(x))) (sections 3.1 and 5.4).

    Use: `x = add_and_norm.leave(x, sublayer(add_and_norm.enter(x)))`.
    """

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config.d_model, eps=config.layer_norm_eps)
        self.is_pre_norm = config.norm_position == "pre"
        self.dropout = config.dropout

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """What the sub-layer sees."""
        return self(x) if self.is_pre_norm else x

    def leave(self, x: torch.Tensor, sublayer_output: torch.Tensor) -> torch.Tensor:
        """The input of the next sub-layer."""
        x = x + dropout(sublayer_output, self.dropout, self.training)
        return x if self.is_pre_norm else self(x)


class EncoderLayer(GradientCheckpointingLayer):
    """Self-attention, then feed-forward."""

    def __init__(self, config: VanillaTransformerConfig, layer_idx: int):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, layer_idx=layer_idx)
        self.self_attn_norm = AddAndNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = AddAndNorm(config)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs) -> torch.Tensor:
        """(B, S, D) -> (B, S, D)."""
        x = hidden_states
        attended, _ = self.self_attn(self.self_attn_norm.enter(x), attention_mask, **kwargs)
        x = self.self_attn_norm.leave(x, attended)
        return self.feed_forward_norm.leave(x, self.feed_forward(self.feed_forward_norm.enter(x)))


class DecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, then attention to the encoder's output, then feed-forward."""

    def __init__(self, config: VanillaTransformerConfig, layer_idx: int):
        super().__init__()
        self.self_attn = MultiHeadAttention(config, is_causal=True, layer_idx=layer_idx)
        self.self_attn_norm = AddAndNorm(config)
        self.cross_attn = MultiHeadAttention(config, layer_idx=layer_idx)
        self.cross_attn_norm = AddAndNorm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = AddAndNorm(config)

    # Reentrant gradient checkpointing passes gradients to positional arguments only, so the encoder's states are one.
    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None,
        encoder_hidden_states: torch.Tensor | None,
        encoder_attention_mask: torch.Tensor | None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """(B, T, D), with the encoder's output (B, S, D) -> (B, T, D)."""
        x = hidden_states
        attended, _ = self.self_attn(
            self.self_attn_norm.enter(x), attention_mask, past_key_values=past_key_values, **kwargs
        )
        x = self.self_attn_norm.leave(x, attended)
        if encoder_hidden_states is not None:
            attended, _ = self.cross_attn(
                self.cross_attn_norm.enter(x),
                encoder_attention_mask,
                key_value_states=encoder_hidden_states,
                past_key_values=past_key_values,
                **kwargs,
            )
            x = self.cross_attn_norm.leave(x, attended)
        return self.feed_forward_norm.leave(x, self.feed_forward(self.feed_forward_norm.enter(x)))
