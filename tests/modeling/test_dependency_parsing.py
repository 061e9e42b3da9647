"""The parser's scores against loops over words, its loss against sums by hand, and what cannot be a head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import leaky_relu

from vanilla_transformer.modeling import VanillaTransformerForDependencyParsing
from vanilla_transformer.modeling.dependency_parsing import possible_arcs

SIZES: dict[str, Any] = {"num_labels": 4, "arc_width": 10, "relation_width": 6, "biaffine_dropout": 0.0}
INPUTS = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 9, 2], [11, 4, 2, 0, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]),
    "word_positions": torch.tensor([[5, 0, 1, 3], [2, 1, -1, -1]]),
}
LABELS = torch.tensor([[2, 0, 1], [0, -100, -100]])
RELATIONS = torch.tensor([[0, 3, 1], [2, -100, -100]])


@pytest.fixture
def parser(make_model) -> Any:
    model = make_model(kind=VanillaTransformerForDependencyParsing, **SIZES)
    with torch.no_grad():
        for name, parameter in model.biaffine.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()  # a bias of 0 would hide that it is missing
    return model


def loops(parser: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Equations 6 and 3 of the paper, word by word, candidate by candidate, relation by relation."""
    b = parser.biaffine
    ids_and_mask = {name: INPUTS[name] for name in ("input_ids", "attention_mask")}
    states = parser.read(**ids_and_mask, inputs_embeds=None).states
    arcs, relations = torch.full((2, 3, 4), torch.nan), torch.full((2, 3, 4, 4), torch.nan)
    for row, positions in enumerate(INPUTS["word_positions"].tolist()):
        for word in range(1, 4):
            for head in range(4):
                if positions[word] < 0 or positions[head] < 0:
                    continue
                dependent, candidate = states[row, positions[word]], states[row, positions[head]]
                v, u = leaky_relu(b.arc_dependent(dependent), 0.1), leaky_relu(b.arc_head(candidate), 0.1)
                arcs[row, word - 1, head] = u @ b.arc_bilinear.weight @ v + u @ b.arc_bilinear.bias
                v, u = leaky_relu(b.relation_dependent(dependent), 0.1), leaky_relu(b.relation_head(candidate), 0.1)
                for r in range(4):
                    matrix = b.relation_bilinear.weight[6 * r : 6 * r + 6]
                    linear = b.relation_of_head.weight[r] @ u + b.relation_of_dependent.weight[r] @ v
                    relations[row, word - 1, head, r] = u @ matrix @ v + linear + b.relation_of_dependent.bias[r]
    return arcs, relations


def test_scores_are_those_of_the_equations(parser):
    arcs, relations = loops(parser)
    output = parser(**INPUTS)
    assert output.loss is None
    exists = ~arcs.isnan()
    assert int(exists.sum()) == 12 + 2
    torch.testing.assert_close(output.relation_logits[exists], relations[exists], atol=1e-5, rtol=1e-4)
    possible = exists & ~torch.eye(4).bool()[1:]
    torch.testing.assert_close(output.arc_logits[possible], arcs[possible], atol=1e-5, rtol=1e-4)
    least = torch.finfo(torch.float32).min
    assert torch.equal(output.arc_logits == least, ~(possible | impossible_rows()))


def impossible_rows() -> torch.Tensor:
    """Rows of padding may point at what exists: nobody asks them."""
    rows = torch.zeros(2, 3, 4, dtype=torch.bool)
    rows[1, 1:, :2] = True
    return rows


def test_what_cannot_be_a_head():
    exists = torch.tensor([[True, True, True, False], [False, False, False, False]])
    expected = [[True, False, True, False], [True, True, False, False], [True, True, True, False]]
    assert possible_arcs(exists)[0].tolist() == expected
    assert not possible_arcs(exists)[1].any()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("items", [None, 10])
def test_loss_is_the_sum_of_both_over_the_words(parser, training, items):
    arcs, relations = loops(parser)
    total = torch.tensor(0.0)
    for row, word in ((0, 0), (0, 1), (0, 2), (1, 0)):
        head, relation = LABELS[row, word], RELATIONS[row, word]
        scores = arcs[row, word].clone()
        scores[word + 1] = -torch.inf
        total = total - scores[~scores.isnan()].log_softmax(0)[int(head)]
        total = total - relations[row, word, head].log_softmax(0)[relation]
    output = parser.train(training)(**INPUTS, labels=LABELS, relations=RELATIONS, num_items_in_batch=items)
    torch.testing.assert_close(output.loss, total / (items or 4), atol=1e-5, rtol=1e-5)
    assert (output.relation_logits is None) is training
    assert parser.train(training)(**INPUTS).relation_logits.shape == (2, 3, 4, 4)


def test_the_gradient_is_one_in_training_and_evaluation(parser):
    """Of the gold heads' relations alone, and of all of them."""
    gradients = []
    for training in (True, False):
        parser.train(training).zero_grad()
        parser(**INPUTS, labels=LABELS, relations=RELATIONS).loss.backward()
        gradients.append({name: p.grad.clone() for name, p in parser.named_parameters()})
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_a_relation_that_is_not_known_has_no_loss_but_its_word_counts(parser):
    known = parser(**INPUTS, labels=LABELS, relations=RELATIONS)
    hidden = RELATIONS.clone()
    hidden[0, 1] = -100
    output = parser(**INPUTS, labels=LABELS, relations=hidden)
    missing = -known.relation_logits[0, 1, 0].log_softmax(0)[3]
    torch.testing.assert_close(output.loss, known.loss - missing / 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("training", [True, False])
def test_a_row_without_words_spoils_nothing(parser, dtype, training):
    """Not even with no ROOT: neither loss nor gradient is NaN, in any type."""
    inputs = {**INPUTS, "word_positions": torch.tensor([[5, 0, 1, 3], [-1, -1, -1, -1]])}
    labels, relations = LABELS.clone(), RELATIONS.clone()
    labels[1] = relations[1] = -100
    model = parser.to(dtype).train(training)
    output = model(**inputs, labels=labels, relations=relations)
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and output.loss.isfinite() and output.arc_logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    alone = {name: value[:1] for name, value in inputs.items()}
    one = model(**alone, labels=labels[:1], relations=relations[:1])
    torch.testing.assert_close(output.loss, one.loss, atol=1e-5 if dtype == torch.float32 else 5e-2, rtol=0)


def test_every_parameter_learns_from_the_first_step_on():
    """Which zeros as a beginning would prevent."""
    from vanilla_transformer.modeling import VanillaTransformerConfig

    torch.manual_seed(0)
    config = VanillaTransformerConfig(vocab_size=23, d_model=16, d_ff=16, encoder_layers=1, decoder_layers=1, **SIZES)
    model = VanillaTransformerForDependencyParsing(config).eval()
    model(**INPUTS, labels=LABELS, relations=RELATIONS).loss.backward()
    assert all(p.grad.any() for p in model.parameters())


def test_dropout_of_the_four_mlps(parser, monkeypatch):
    from vanilla_transformer.modeling import dependency_parsing as file

    rates = []
    monkeypatch.setattr(file, "dropout", lambda x, probability, training: rates.append((probability, training)) or x)
    parser.biaffine.dropout = 0.4
    parser.train()(**INPUTS, labels=LABELS, relations=RELATIONS)
    assert rates == [(0.4, True)] * 4


def test_what_is_missing_is_named(parser):
    with pytest.raises(ValueError, match=r"word_positions is missing: .* \(B, 1 \+ W\)"):
        parser(input_ids=INPUTS["input_ids"])
    with pytest.raises(ValueError, match="give both, or neither"):
        parser(**INPUTS, labels=LABELS)
