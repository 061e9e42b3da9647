"""Heads that say something about a text instead of writing one: a class of the whole text, a class of each token.

Shapes: B batch, S length in tokens, D d_model, C classes (num_labels).

The text is read by the pretrained model, whole, in one of two ways (`config.head_reads`):

    "decoder"  BART's (Lewis et al., 2020, section 3): the text goes into the encoder and, shifted right, into the decoder
               as well; the head reads the decoder's top states. All that was pretrained is used.

                   encoder:   a    b   </s>          decoder:   <s>   a    b
                                                                 |    |    |
                                                     states of:  a    b   </s>      (each has seen the whole text)

    "encoder"  the head reads the encoder's top states, and no decoder is built: half the parameters, half the time.

Padding may stand on either side and moves nothing: a text alone gives what it gives in a batch.
"""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportOptionalMemberAccess=false

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Unpack

import torch
from torch import nn
from transformers.modeling_outputs import (
    Seq2SeqSequenceClassifierOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout
from .loss import IGNORED
from .modeling_vanilla_transformer import VanillaTransformerEncoderModel, VanillaTransformerModel
from .pretrained_model import VanillaTransformerPreTrainedModel


class Reading(NamedTuple):
    """A text that was read."""

    states: torch.Tensor  # (B, S, D)
    attention_mask: torch.Tensor  # (B, S), 1 for tokens and 0 for padding
    recorded: dict[str, Any]  # hidden states and attentions, under the names of the stacks they are from


class VanillaTransformerHead(VanillaTransformerPreTrainedModel):
    """What all heads share: the model that reads the text.

    `HEAD_PREFIXES` begin the names of the parameters which no pretrained checkpoint has. A checkpoint that lacks these is
    one to start from; one that lacks others is broken.
    """

    HEAD_PREFIXES: ClassVar[tuple[str, ...]] = ()
    # An output layer of its own (`share_embeddings`) is what a head replaces.
    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.reads_decoder = config.head_reads == "decoder"
        if self.reads_decoder and config.decoder_start_token_id is None:
            raise ValueError(
                "decoder_start_token_id=None, but the decoder reads a text that begins with it; name a token, or set "
                "head_reads='encoder'"
            )
        self.model = VanillaTransformerModel(config) if self.reads_decoder else VanillaTransformerEncoderModel(config)

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        return {"input_ids": super().dummy_inputs["input_ids"]}

    def read(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Reading:
        """The state of each token, in the light of the whole text.

        Args:
            input_ids: (B, S), texts that end in `</s>`.
            attention_mask: (B, S), 1 for tokens and 0 for padding, on whichever side. If not given, padding is what equals
                `pad_token_id`.
            inputs_embeds: (B, S, D) instead of ids, not yet scaled by sqrt(D); without a mask there is no padding.

        Raises:
            ValueError: a mask of another shape; or embeddings, where the decoder has others than the encoder.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError(f"{type(self).__name__} takes either input_ids or inputs_embeds: give exactly one of them")
        if attention_mask is None:
            pad = self.config.pad_token_id if input_ids is not None else None
            attention_mask = given.new_ones(given.shape[:2], dtype=torch.long) if pad is None else (given != pad).long()
        elif attention_mask.shape != given.shape[:2]:
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)}: {type(self).__name__} needs one number a token, "
                f"{tuple(given.shape[:2])}"
            )
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        if self.reads_decoder:
            inputs |= self._shifted_right(input_ids, inputs_embeds, attention_mask.bool())
            inputs |= {"decoder_attention_mask": attention_mask, "use_cache": False}
        outputs = self.model(**inputs, return_dict=True, **kwargs)
        recorded = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return Reading(outputs.last_hidden_state, attention_mask, recorded)

    def _shifted_right(
        self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None, is_token: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        # Where padding stands to the left of a text, its first token is not the first of the row.
        follows_token = nn.functional.pad(is_token[:, :-1], (1, 0), value=False)
        start = self.config.decoder_start_token_id
        if input_ids is not None:
            shifted = torch.where(follows_token, input_ids.roll(1, dims=1), start)
            return {"decoder_input_ids": shifted.masked_fill(~is_token, self.config.pad_token_id or 0)}
        if "decoder.embed_tokens.weight" not in self.model.all_tied_weights_keys:
            raise ValueError(
                f"inputs_embeds are the encoder's, and with share_embeddings={self.config.share_embeddings!r} the decoder "
                "has others; give input_ids, or set head_reads='encoder'"
            )
        first = self.get_input_embeddings().weight[start].to(inputs_embeds.dtype)
        return {"decoder_inputs_embeds": torch.where(follows_token[..., None], inputs_embeds.roll(1, dims=1), first)}


class ClassificationHead(nn.Module):
    """BART's: dropout, a dense layer, tanh, dropout, a linear layer."""

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__()
        self.dropout = classifier_dropout(config)
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(B, D) -> (B, C)."""
        states = self.dense(dropout(states, self.dropout, self.training)).tanh()
        return self.out_proj(dropout(states, self.dropout, self.training))


class VanillaTransformerForSequenceClassification(VanillaTransformerHead):
    """One of several classes for a text, several at once, or numbers: `config.problem_type`."""

    HEAD_PREFIXES = ("classification_head.",)

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.classification_head = ClassificationHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput | Seq2SeqSequenceClassifierOutput:
        """Logits (B, C) from the state of each text's last token, its `</s>`; and the loss if `labels` are given.

        Args:
            input_ids, attention_mask, inputs_embeds: see `VanillaTransformerHead.read`.
            labels: by `config.problem_type`, which is guessed from them if it is None, as everywhere in transformers:
                "single_label_classification": (B,) classes, -100 has no loss; cross-entropy.
                "multi_label_classification": (B, C) of 0 and 1; binary cross-entropy.
                "regression" (guessed if C = 1): (B,) or (B, C) numbers; squared error.
            num_items_in_batch: what the summed loss is divided by, for example the labels of all the micro-batches of an
                update; the labels of this batch, without those that are -100, if not given.

        Returns:
            loss (float32 scalar; 0 if there is no label at all), logits, and whatever was asked for besides.
        """
        reading = self.read(input_ids, attention_mask, inputs_embeds, **kwargs)
        positions = torch.arange(reading.states.shape[1], device=reading.states.device)
        last = (reading.attention_mask.bool() * positions).amax(dim=1)
        index = last[:, None, None].expand(-1, 1, reading.states.shape[-1])
        logits = self.classification_head(reading.states.gather(1, index).squeeze(1))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self._problem_type(labels), num_items_in_batch)
        output = Seq2SeqSequenceClassifierOutput if self.reads_decoder else SequenceClassifierOutput
        return output(loss=loss, logits=logits, **reading.recorded)

    def _problem_type(self, labels: torch.Tensor) -> str:
        if self.config.problem_type is not None:
            return self.config.problem_type
        if self.config.num_labels == 1:
            guessed = "regression"
        else:
            guessed = "multi" if labels.is_floating_point() else "single"
            guessed = f"{guessed}_label_classification"
        if not torch.compiler.is_compiling():
            self.config.problem_type = guessed  # the pipeline asks it which function makes probabilities of the logits
        return guessed


@dataclass
class Seq2SeqTokenClassifierOutput(Seq2SeqSequenceClassifierOutput):
    """The same with logits (B, S, C), of which transformers has none."""


class VanillaTransformerForTokenClassification(VanillaTransformerHead):
    """A class for each token: dropout and a linear layer on its state."""

    HEAD_PREFIXES = ("classifier.",)

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.dropout = classifier_dropout(config)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput | Seq2SeqTokenClassifierOutput:
        """Logits (B, S, C), and the cross-entropy if `labels` are given.

        Args:
            input_ids, attention_mask, inputs_embeds: see `VanillaTransformerHead.read`.
            labels: (B, S) classes; -100, on padding and on all but the first piece of a word, has no loss.
            num_items_in_batch: what the summed loss is divided by; the labels of this batch that are not -100 if not given.

        Returns:
            loss (float32 scalar; 0 if there is no label at all), logits, and whatever was asked for besides.
        """
        reading = self.read(input_ids, attention_mask, inputs_embeds, **kwargs)
        logits = self.classifier(dropout(reading.states, self.dropout, self.training))
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, "single_label_classification", num_items_in_batch)
        output = Seq2SeqTokenClassifierOutput if self.reads_decoder else TokenClassifierOutput
        return output(loss=loss, logits=logits, **reading.recorded)


def classifier_dropout(config: VanillaTransformerConfig) -> float:
    return config.dropout if config.classifier_dropout is None else config.classifier_dropout


def classification_loss(
    logits: torch.Tensor, labels: torch.Tensor, problem_type: str, num_items_in_batch: int | torch.Tensor | None
) -> torch.Tensor:
    """float32 scalar, in nats (squared units in regression): summed, then divided by the labels there are.

    Args:
        logits: (..., C).
        labels: (...) classes, or (..., C) numbers.
        problem_type: see `VanillaTransformerForSequenceClassification.forward`.
        num_items_in_batch: what to divide by instead.

    Raises:
        ValueError: labels of another shape than these.
    """
    is_one_class = problem_type == "single_label_classification"
    wanted = logits.shape[:-1] if is_one_class else logits.shape
    # With one number a text, both (B,) and (B, 1) are usual.
    if labels.shape != wanted and not (logits.shape[-1] == 1 and labels.shape == logits.shape[:-1]):
        raise ValueError(f"labels of shape {tuple(labels.shape)}: {problem_type} needs {tuple(wanted)}")
    scores = logits.float().flatten(0, -2)
    if is_one_class:
        total = nn.functional.cross_entropy(scores, labels.flatten(), ignore_index=IGNORED, reduction="sum")
        return per_item(total, (labels != IGNORED).sum(), num_items_in_batch)
    function = (
        nn.functional.mse_loss if problem_type == "regression" else nn.functional.binary_cross_entropy_with_logits
    )
    total = function(scores, labels.to(scores.dtype).reshape(scores.shape), reduction="sum")
    return per_item(total, labels.numel(), num_items_in_batch)


def per_item(total: torch.Tensor, counted: int | torch.Tensor, given: int | torch.Tensor | None) -> torch.Tensor:
    """`total` divided by the items of this batch, or of the whole update if these are given.

    A batch without any item has loss 0 and gradient 0, not 0 / 0: among many micro-batches it must not spoil the others.
    """
    items = counted if given is None else given
    return total / (items.clamp(min=1) if torch.is_tensor(items) else max(items, 1))


VanillaTransformerForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
VanillaTransformerForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")

__all__ = [
    "VanillaTransformerForSequenceClassification",
    "VanillaTransformerForTokenClassification",
    "VanillaTransformerHead",
]
