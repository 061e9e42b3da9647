"""The head that finds each word's head in the tree of a sentence (Dozat & Manning, 2017, "Deep Biaffine Attention for
Neural Dependency Parsing").

Shapes: B batch, S length in tokens, D d_model, W words of the longest sentence, A arc_width, K relation_width, R relations
(num_labels). Candidates for a word's head are ROOT and the words, 1 + W: number 0 is ROOT, number j the j-th word.

    states of the words  -->  4 MLPs, each a linear layer and leaky ReLU
    and of ROOT (</s>)
                              arc score of word i and head j:       u_j^T (U v_i + b)                 (equation 6)
                              relation score r of i and j:          u'_j^T U_r v'_i + w_r^T [u'_j; v'_i] + b_r      (3)

where v is made from the dependent's state and u from the head's. u_j^T b says how likely the word j is to have
dependents at all.
"""

# transformers types its configurations, buffers and outputs loosely.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportGeneralTypeIssues=false, reportOptionalOperand=false

from dataclasses import dataclass
from typing import Unpack

import torch
from torch import nn
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout
from .heads import VanillaTransformerHead, per_item
from .loss import IGNORED


@dataclass
class DependencyParserOutput(ModelOutput):
    """What the parser returns. The names of hidden states and attentions tell the stack they are from, where there are two.

    loss: float32 scalar, nats a word: of its head plus of its relation.
    arc_logits: (B, W, 1 + W); what cannot be (padding, a word as its own head) has the least number of its type.
    relation_logits: (B, W, 1 + W, R), or None in training with labels.
    """

    loss: torch.Tensor | None = None
    arc_logits: torch.Tensor | None = None
    relation_logits: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None
    encoder_last_hidden_state: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None


class Biaffine(nn.Module):
    """Scores of arcs and of relations. Made of linear layers alone, so that they are drawn as all others are.

    Xavier's weights, not zeros, which are usual too: with zeros everywhere in a product of three, the MLPs would have no
    gradient in the first step.
    """

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__()
        arc, relation, relations = config.arc_width, config.relation_width, config.num_labels
        self.dropout = config.biaffine_dropout
        self.arc_dependent = nn.Linear(config.d_model, arc)
        self.arc_head = nn.Linear(config.d_model, arc)
        self.relation_dependent = nn.Linear(config.d_model, relation)
        self.relation_head = nn.Linear(config.d_model, relation)
        self.arc_bilinear = nn.Linear(arc, arc)  # U and b
        self.relation_bilinear = nn.Linear(relation, relations * relation, bias=False)  # U_r, one after the other
        self.relation_of_dependent = nn.Linear(relation, relations)  # the half of w_r for v', and b_r
        self.relation_of_head = nn.Linear(relation, relations, bias=False)  # the half for u'

    def mlp(self, layer: nn.Linear, states: torch.Tensor) -> torch.Tensor:
        """(..., D) -> (..., A or K). Slope 0.1 below zero, as in the authors' program; the paper does not say."""
        return dropout(nn.functional.leaky_relu(layer(states), 0.1), self.dropout, self.training)

    def arcs(self, dependents: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """States (B, W, D) and (B, 1 + W, D) -> scores (B, W, 1 + W)."""
        query = self.arc_bilinear(self.mlp(self.arc_dependent, dependents))
        return query @ self.mlp(self.arc_head, candidates).transpose(1, 2)

    def relations(self, dependents: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        """Of every word to every candidate: states (B, W, D) and (B, 1 + W, D) -> scores (B, W, 1 + W, R)."""
        dependents, heads, products = self._relation_parts(dependents, candidates)
        bilinear = torch.einsum("bwrk,bck->bwcr", products, heads)
        return bilinear + self.relation_of_dependent(dependents)[:, :, None] + self.relation_of_head(heads)[:, None]

    def gold_relations(self, dependents: torch.Tensor, candidates: torch.Tensor, gold: torch.Tensor) -> torch.Tensor:
        """Of every word to its gold head alone, a (1 + W)-th of the work: gold (B, W), numbers -> scores (B, W, R)."""
        dependents, heads, products = self._relation_parts(dependents, candidates)
        heads = heads.gather(1, gold[..., None].expand(-1, -1, heads.shape[-1]))
        bilinear = torch.einsum("bwrk,bwk->bwr", products, heads)
        return bilinear + self.relation_of_dependent(dependents) + self.relation_of_head(heads)

    def _relation_parts(
        self, dependents: torch.Tensor, candidates: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        dependents = self.mlp(self.relation_dependent, dependents)  # (B, W, K)
        heads = self.mlp(self.relation_head, candidates)  # (B, 1 + W, K)
        products = self.relation_bilinear(dependents).unflatten(-1, (-1, heads.shape[-1]))  # (B, W, R, K)
        return dependents, heads, products


class VanillaTransformerForDependencyParsing(VanillaTransformerHead):
    """Scores of arcs and relations; which tree they make is for the one who decodes them.

    transformers has no Auto class for parsers: load it with `VanillaTransformerForDependencyParsing.from_pretrained`.
    Where our package is absent, `AutoModel.from_pretrained(folder, trust_remote_code=True)` gives the parser, because its
    folder says so; where it is there, the Auto classes go by the configuration, and `AutoModel` is the bare model.
    """

    HEAD_PREFIXES = ("biaffine.",)

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__(config)
        self.biaffine = Biaffine(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        word_positions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        relations: torch.Tensor | None = None,
        num_items_in_batch: int | torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> DependencyParserOutput:
        """Scores of all arcs and relations; and the loss if `labels` and `relations` are given.

        Args:
            input_ids, attention_mask, inputs_embeds: see `VanillaTransformerHead.read`.
            word_positions: (B, 1 + W), where in the row stand the state of ROOT (the final `</s>`) and then each word's
                first piece; -1 where a sentence has no more words.
            labels: (B, W), the number of each word's head, 0 for ROOT; -100 where there is no word.
            relations: (B, W), the class of the arc to it; -100 has no loss.
            num_items_in_batch: what the summed loss is divided by, for example the words of all the micro-batches of an
                update; the labels of this batch that are not -100 if not given.

        Returns:
            See `DependencyParserOutput`. The loss is the sum of both cross-entropies over the words; 0 without any word.

        Raises:
            ValueError: no `word_positions`; or only one of `labels` and `relations`.
        """
        if word_positions is None:
            raise ValueError(
                "word_positions is missing: where ROOT (</s>) and the first piece of each word stand, (B, 1 + W)"
            )
        if (labels is None) != (relations is None):
            raise ValueError("labels (heads) and relations go together: give both, or neither")
        reading = self.read(input_ids, attention_mask, inputs_embeds, **kwargs)
        exists = word_positions >= 0
        index = word_positions.clamp(min=0)[..., None].expand(-1, -1, reading.states.shape[-1])
        candidates = reading.states.gather(1, index)  # (B, 1 + W, D)
        dependents = candidates[:, 1:]
        arc_logits = self.biaffine.arcs(dependents, candidates)
        # Not -inf: a row of nothing else would be NaN, and spoil the gradient although its loss is not counted.
        arc_logits = arc_logits.masked_fill(~possible_arcs(exists), torch.finfo(arc_logits.dtype).min)
        loss = relation_logits = None
        if labels is None or not self.training:
            relation_logits = self.biaffine.relations(dependents, candidates)
        if labels is not None:
            gold = labels.clamp(min=0)
            if relation_logits is None:
                gold_relation_logits = self.biaffine.gold_relations(dependents, candidates, gold)
            else:
                gold_relation_logits = relation_logits.take_along_dim(gold[..., None, None], dim=2).squeeze(2)
            total = summed_cross_entropy(arc_logits, labels) + summed_cross_entropy(gold_relation_logits, relations)
            loss = per_item(total, (labels != IGNORED).sum(), num_items_in_batch)
        return DependencyParserOutput(
            loss=loss, arc_logits=arc_logits, relation_logits=relation_logits, **reading.recorded
        )


def possible_arcs(exists: torch.Tensor) -> torch.Tensor:
    """Which candidates a word may have as its head: those that exist, without itself. (B, 1 + W) -> (B, W, 1 + W)."""
    numbers = torch.arange(exists.shape[1], device=exists.device)
    return exists[:, None, :] & (numbers[1:, None] != numbers)


def summed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(..., C) and (...) -> float32 scalar; -100 has no loss."""
    return nn.functional.cross_entropy(
        logits.float().flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


# What transformers' Auto classes have for it; see `auto_map`.
VanillaTransformerForDependencyParsing.register_for_auto_class("AutoModel")

__all__ = ["DependencyParserOutput", "VanillaTransformerForDependencyParsing"]
