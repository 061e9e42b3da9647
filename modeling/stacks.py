"""The two stacks of the Transformer: tokens -> embeddings with positions -> layers (section 3.1, figure 1).

Shapes: B batch, S source length, T target length, D d_model.
"""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import math
from typing import Unpack

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions
from transformers.utils.generic import TransformersKwargs, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import MultiHeadAttention
from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout
from .layers import DecoderLayer, EncoderLayer
from .masks import source_mask, target_mask
from .positions import LearnedPositions, SinusoidalPositions, position_ids_from_mask
from .pretrained_model import VanillaTransformerPreTrainedModel

# Tensor parallelism: heads and inner units apart on several devices, summed at the end of each sub-layer.
ATTENTION_PLAN = {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "out_proj": "rowwise"}
FEED_FORWARD_PLAN = {"fc1": "colwise", "fc2": "rowwise"}


def layer_plan(**sublayers: dict[str, str]) -> dict[str, str]:
    """`_tp_plan` of a stack: {the name of each linear layer: how transformers may split it over devices}."""
    return {f"layers.*.{name}.{linear}": how for name, plan in sublayers.items() for linear, how in plan.items()}


class Stack(VanillaTransformerPreTrainedModel):
    """What encoder and decoder share: tokens, made into the input of the first layer (sections 3.4 and 3.5)."""

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model, config.pad_token_id)
        positions = SinusoidalPositions if config.position_embedding == "sinusoidal" else LearnedPositions
        self.embed_positions = positions(config.max_position_embeddings, config.d_model)
        self.embed_scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.gradient_checkpointing = False

    def embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        past: int | torch.Tensor = 0,
    ) -> torch.Tensor:
        """Token embedding times sqrt(D), plus position, then dropout: (B, T) -> (B, T, D)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError(f"{type(self).__name__} takes either input_ids or inputs_embeds: give exactly one of them")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        length = inputs_embeds.shape[1]
        end = length + past if isinstance(past, int) else length
        if end > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence of {end} tokens is longer than max_position_embeddings="
                f"{self.config.max_position_embeddings}; shorten it, or "
                + (
                    "load the model with a larger max_position_embeddings (sinusoids are computed, not learned)"
                    if self.config.position_embedding == "sinusoidal"
                    else "train a model with more positions"
                )
            )
        masked = None if attention_mask is None or attention_mask.dim() != 2 else attention_mask.shape[1]
        if masked is not None and isinstance(past, int) and masked != end:
            raise ValueError(
                f"the attention mask of {type(self).__name__} covers {masked} tokens, but there are {end} "
                f"({past} in the cache, {length} new); give a mask for all of them"
            )
        if position_ids is None:
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = position_ids_from_mask(attention_mask)[:, -length:]
            else:
                position_ids = torch.arange(length, device=inputs_embeds.device) + past
        hidden_states = inputs_embeds * self.embed_scale
        hidden_states = hidden_states + self.embed_positions(position_ids).to(hidden_states.dtype)
        return dropout(hidden_states, self.config.dropout, self.training)


class VanillaTransformerEncoder(Stack):
    """A stack of `encoder_layers` layers, each of which sees the whole source."""

    _tp_plan = layer_plan(self_attn=ATTENTION_PLAN, feed_forward=FEED_FORWARD_PLAN)

    _can_record_outputs = {
        "hidden_states": EncoderLayer,
        "attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="self_attn"),
    }

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(EncoderLayer(config, index) for index in range(config.encoder_layers))
        # Pre-norm leaves the last sum unnormalised; post-norm does not.
        self.norm = (
            nn.LayerNorm(config.d_model, eps=config.layer_norm_eps) if config.norm_position == "pre" else nn.Identity()
        )
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """(B, S) token ids with (B, S) 1 for tokens, 0 for padding -> last_hidden_state (B, S, D)."""
        hidden_states = self.embed(input_ids, inputs_embeds, attention_mask, position_ids)
        mask = source_mask(self.config, hidden_states, attention_mask)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class VanillaTransformerDecoder(Stack):
    """A stack of `decoder_layers` layers, each of which sees the target up to here, and the whole source."""

    _tp_plan = layer_plan(self_attn=ATTENTION_PLAN, cross_attn=ATTENTION_PLAN, feed_forward=FEED_FORWARD_PLAN)

    _can_record_outputs = {
        "hidden_states": DecoderLayer,
        "attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(MultiHeadAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.decoder_layers))
        self.norm = (
            nn.LayerNorm(config.d_model, eps=config.layer_norm_eps) if config.norm_position == "pre" else nn.Identity()
        )
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """(B, T) ids of the target so far and (B, S, D) of the encoder -> last_hidden_state (B, T, D).

        With a cache, `input_ids` are the new tokens alone and `attention_mask`, if given, covers cached and new ones.
        """
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(config=self.config), DynamicCache(config=self.config))
        elif not isinstance(past_key_values, EncoderDecoderCache | None) and encoder_hidden_states is not None:
            # A cache of one part would take the source's keys for the target's: it becomes the part of self-attention.
            past_key_values = EncoderDecoderCache(past_key_values, DynamicCache(config=self.config))
        self_attention_cache = getattr(past_key_values, "self_attention_cache", past_key_values)
        past = 0 if self_attention_cache is None else self_attention_cache.get_seq_length()

        hidden_states = self.embed(input_ids, inputs_embeds, attention_mask, position_ids, past)
        mask = target_mask(self.config, hidden_states, attention_mask, self_attention_cache)
        encoder_mask = None
        if encoder_hidden_states is not None:
            encoder_mask = source_mask(self.config, hidden_states, encoder_attention_mask, encoder_hidden_states)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states, mask, encoder_hidden_states, encoder_mask, past_key_values=past_key_values, **kwargs
            )
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values
        )
