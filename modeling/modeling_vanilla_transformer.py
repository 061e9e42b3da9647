"""The encoder-decoder Transformer (Vaswani et al., 2017) as an ordinary Hugging Face model.

Shapes: B batch, S source length, T target length, D d_model, V vocabulary.

Read in this order: masks.py, positions.py, attention.py, feed_forward.py, layers.py, stacks.py, this file, loss.py, heads.py,
dependency_parsing.py; pretrained_model.py tells how weights begin and are saved.
"""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

from typing import Unpack

import torch
from torch import nn
from transformers import Cache, GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .loss import IGNORED, label_smoothed_cross_entropy, linear_smoothed_cross_entropy
from .paper_decoding import PaperDecoding
from .pretrained_model import VanillaTransformerPreTrainedModel
from .stacks import VanillaTransformerDecoder, VanillaTransformerEncoder


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


VanillaTransformerModel.register_for_auto_class("AutoModel")
VanillaTransformerEncoderModel.register_for_auto_class("AutoModel")
VanillaTransformerForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "VanillaTransformerEncoderModel",
    "VanillaTransformerForConditionalGeneration",
    "VanillaTransformerModel",
]
