"""The encoder-decoder Transformer (Vaswani et al., 2017) as an ordinary Hugging Face model.

Shapes: B batch, S source length, T target length, D d_model, H heads, V vocabulary.

Read in this order: masks.py, positions.py, attention.py, feed_forward.py, layers.py, this file, loss.py, heads.py,
dependency_parsing.py.
"""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import math
from copy import deepcopy
from typing import Unpack

import torch
from torch import nn
from transformers import Cache, DynamicCache, EncoderDecoderCache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPastAndCrossAttentions,
    Seq2SeqLMOutput,
    Seq2SeqModelOutput,
)
from transformers.utils.generic import TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention import MultiHeadAttention
from .beam_search import PaperDecoding
from .configuration_vanilla_transformer import FORMAT_VERSION, VanillaTransformerConfig
from .dropout import dropout
from .layers import DecoderLayer, EncoderLayer
from .loss import IGNORED, label_smoothed_cross_entropy, linear_smoothed_cross_entropy
from .masks import source_mask, target_mask
from .pipeline_vanilla_transformer import CUSTOM_PIPELINES
from .positions import LearnedPositions, SinusoidalPositions, position_ids_from_mask, sinusoid_table

# Tensor parallelism: heads and inner units apart on several devices, summed at the end of each sub-layer.
ATTENTION_PLAN = {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "out_proj": "rowwise"}
FEED_FORWARD_PLAN = {"fc1": "colwise", "fc2": "rowwise"}


def layer_plan(**sublayers: dict[str, str]) -> dict[str, str]:
    """`_tp_plan` of a stack: {the name of each linear layer: how transformers may split it over devices}."""
    return {f"layers.*.{name}.{linear}": how for name, plan in sublayers.items() for linear, how in plan.items()}


class VanillaTransformerPreTrainedModel(PreTrainedModel):
    """Initialisation, loading and saving, common to the bare model and every head.

    The paper does not say how weights begin. Here, as in fairseq:

        W^Q, W^K, W^V                   uniform, Xavier's bound sqrt(6 / (fan_in + fan_out)) times sqrt(1/2)
        other projections               uniform, Xavier's bound; biases 0
        embeddings                      normal, deviation D^-0.5 (times sqrt(D): inputs of unit size); padding 0
        layer normalisation             gain 1, bias 0

    Without the sqrt(1/2), post-norm encoders begin with outputs that hardly differ between positions (mean cosine 0.91
    after 4 layers), cross-attention has nothing to choose from, and a small model with dropout may never recover: it
    translates bags of words (docs/experiments.md, 2026-11-21).
    """

    config: VanillaTransformerConfig
    config_class = VanillaTransformerConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["EncoderLayer", "DecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, nn.Linear):
            # The layer carries its gain, because the attention around it is never asked: of custom code, transformers
            # initialises only modules with parameters of their own.
            init.xavier_uniform_(module.weight, gain=getattr(module, "initial_gain", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, mean=0.0, std=self.config.d_model**-0.5)
            # transformers marks what it has loaded, so that it is not drawn again; a slice does not carry the mark.
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, SinusoidalPositions):
            # Not saved, so `from_pretrained` leaves uninitialised memory here until this line.
            init.copy_(module.table, sinusoid_table(*module.table.shape))

    def _resize_token_embeddings(self, new_num_tokens, pad_to_multiple_of=None, mean_resizing=True):
        embeddings = super()._resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        # transformers resizes the matrices of source and output, and leaves the target's to tying.
        decoder = getattr(self.base_model, "decoder", None)
        if decoder is not None and decoder.embed_tokens is not embeddings:
            decoder.embed_tokens = self._get_resized_embeddings(
                decoder.embed_tokens, embeddings.num_embeddings, mean_resizing=mean_resizing
            )
        return embeddings

    def save_pretrained(self, *args, **kwargs):
        """As in transformers; the folder then loads with `trust_remote_code=True` where our package is absent."""
        self.config.format_version = FORMAT_VERSION
        self.config.auto_map = auto_map()
        self.config.custom_pipelines = deepcopy(CUSTOM_PIPELINES) if self.can_generate() else {}
        super().save_pretrained(*args, **kwargs)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        input_ids = torch.tensor([[3, 4, 5, 2]], device=self.device)
        return {"input_ids": input_ids, "decoder_input_ids": input_ids}


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


class VanillaTransformerModel(VanillaTransformerPreTrainedModel):
    """Encoder and decoder, without the last linear layer (figure 1 of the paper)."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self._tied_weights_keys = tied_weights(config)
        self.encoder = VanillaTransformerEncoder(config)
        self.decoder = VanillaTransformerDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqModelOutput:
        """(B, S) source and (B, T) target so far -> last_hidden_state (B, T, D), and the encoder's output.

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), 1 for tokens and 0 for padding, on whichever side.
            decoder_input_ids: (B, T), beginning with `decoder_start_token_id`.
            decoder_attention_mask: (B, T); needed only when targets are padded on the left.
            encoder_outputs: the encoder's output of an earlier call, instead of `input_ids`.
            past_key_values: an EncoderDecoderCache; then `decoder_input_ids` are the new tokens alone.
            inputs_embeds, decoder_inputs_embeds: (B, S, D) and (B, T, D) instead of ids, not yet scaled by sqrt(D).
            position_ids, decoder_position_ids: (B, S) and (B, T); counted from the masks if not given.
            use_cache: whether to return a cache.
        """
        if encoder_outputs is None:
            encoder_outputs = self.encoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                position_ids=position_ids,
                **kwargs,
            )
        elif not isinstance(encoder_outputs, BaseModelOutput):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        decoder_outputs = self.decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoder_outputs.last_hidden_state,
            encoder_attention_mask=attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=decoder_inputs_embeds,
            position_ids=decoder_position_ids,
            use_cache=use_cache,
            **kwargs,
        )
        return Seq2SeqModelOutput(
            last_hidden_state=decoder_outputs.last_hidden_state,
            past_key_values=decoder_outputs.past_key_values,
            decoder_hidden_states=decoder_outputs.hidden_states,
            decoder_attentions=decoder_outputs.attentions,
            cross_attentions=decoder_outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
        )


class VanillaTransformerEncoderModel(VanillaTransformerPreTrainedModel):
    """The encoder alone: for heads that read it (`head_reads`), and for vectors of texts. No decoder is built."""

    _keys_to_ignore_on_load_unexpected = [r"^(model\.)?decoder\.", r"^lm_head\."]

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.encoder = VanillaTransformerEncoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.embed_tokens

    def set_input_embeddings(self, value: nn.Module):
        self.encoder.embed_tokens = value

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """As `VanillaTransformerEncoder.forward`: (B, S) token ids -> last_hidden_state (B, S, D)."""
        return self.encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            position_ids=position_ids,
            **kwargs,
        )

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        return {"input_ids": super().dummy_inputs["input_ids"]}


class VanillaTransformerForConditionalGeneration(VanillaTransformerPreTrainedModel, PaperDecoding, GenerationMixin):
    """The whole of figure 1: the model and the linear layer that turns its output into logits over the vocabulary."""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self._tied_weights_keys = tied_weights(config, prefix="model.", output="lm_head.weight")
        self.model = VanillaTransformerModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()  # draws the weights, and makes those one that `tied_weights` names

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Seq2SeqLMOutput:
        """As `VanillaTransformerModel.forward`, with logits and, if `labels` are given, the label-smoothed loss.

        Args:
            labels: (B, T), the target ending in `</s>`, -100 on padding. Without decoder inputs, these are made from
                the labels by shifting them right.
            num_items_in_batch: what the summed loss is divided by, for example the target tokens of all the
                micro-batches of an update; the labels of this batch that are not -100 if not given.
            logits_to_keep: compute the logits of the last so many positions only, or of the positions of a tensor;
                0 means all.

        Returns:
            loss (float32 scalar, nats a token) and logits (B, T, V). In training mode with labels the logits are None:
            the loss is computed without ever holding them (see loss.py). Use `model.eval()` to have both.
        """
        if labels is not None:
            use_cache = False
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = logits = None
        smoothing = (self.config.label_smoothing, self.config.label_smoothing_kind, self.config.pad_token_id or 0)
        if labels is not None and self._can_fuse_loss():
            loss = linear_smoothed_cross_entropy(hidden_states, self.lm_head, labels, *smoothing)
        else:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states if labels is not None else hidden_states[:, kept])
            if labels is not None:
                loss = label_smoothed_cross_entropy(logits, labels, *smoothing).sum()
        if loss is not None:
            loss = loss / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)
        return Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )

    def _can_fuse_loss(self) -> bool:
        # An adapter or a quantised layer in the place of lm_head computes something else than its weight says, and of a
        # weight that is split over devices there is only a part here.
        plain = type(self.lm_head) is nn.Linear and type(self.lm_head.weight) is nn.Parameter
        return self.training and plain and not torch.compiler.is_compiling()

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Shifted right (section 3.1): `a b </s>` -> `<s> a b`. (B, T) -> (B, T), -100 becomes padding."""
        start = labels.new_full((labels.shape[0], 1), self.config.decoder_start_token_id)
        shifted = torch.cat((start, labels[:, :-1]), dim=1)
        return shifted.masked_fill(shifted == IGNORED, self.config.pad_token_id)


def tied_weights(config: VanillaTransformerConfig, prefix: str = "", output: str | None = None) -> dict[str, str] | None:
    """Which matrices are one (section 3.4), as {parameter: the parameter it is}, by `config.share_embeddings`."""
    source, target = f"{prefix}encoder.embed_tokens.weight", f"{prefix}decoder.embed_tokens.weight"
    tied = {}
    if config.share_embeddings in ("all", "source-target"):
        tied[target] = source
    if output is not None and config.share_embeddings in ("all", "target-output"):
        tied[output] = source if config.share_embeddings == "all" else target
    return tied or None


def auto_map() -> dict[str, str]:
    """{Auto class: the class that it shall load where our package is absent}, for every model's config.json.

    `save_pretrained` by itself would write only the entry of the class that is saved. It writes that one last: the folder
    of an encoder or of a parser, for which transformers has no Auto class of its own, says so under "AutoModel".
    """
    # Here, because heads.py imports this file. By these lines transformers knows which further files belong to a model, so
    # that they lie in every folder.
    from .dependency_parsing import VanillaTransformerForDependencyParsing
    from .heads import VanillaTransformerForSequenceClassification, VanillaTransformerForTokenClassification

    classes = {
        "AutoConfig": VanillaTransformerConfig,
        "AutoModel": VanillaTransformerModel,
        "AutoModelForSeq2SeqLM": VanillaTransformerForConditionalGeneration,
        "AutoModelForSequenceClassification": VanillaTransformerForSequenceClassification,
        "AutoModelForTextEncoding": VanillaTransformerEncoderModel,
        "AutoModelForTokenClassification": VanillaTransformerForTokenClassification,
        # No class of transformers asks for it; get_class_from_dynamic_module may.
        "AutoModelForDependencyParsing": VanillaTransformerForDependencyParsing,
    }
    return {auto: f"{one.__module__.rsplit('.', 1)[-1]}.{one.__name__}" for auto, one in classes.items()}


VanillaTransformerModel.register_for_auto_class("AutoModel")
VanillaTransformerEncoderModel.register_for_auto_class("AutoModel")
VanillaTransformerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "VanillaTransformerDecoder",
    "VanillaTransformerEncoder",
    "VanillaTransformerEncoderModel",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerModel",
    "VanillaTransformerPreTrainedModel",
]
