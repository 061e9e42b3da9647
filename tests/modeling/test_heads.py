"""The heads: what they read, their losses, how they come from a pretrained checkpoint, and where they travel.

What all three share is tested here on all three; the parser's scores are in test_dependency_parsing.py.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTextEncoding,
    AutoModelForTokenClassification,
)

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerEncoderModel,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerForDependencyParsing,
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerModel,
)

HEADS = [
    VanillaTransformerForSequenceClassification,
    VanillaTransformerForTokenClassification,
    VanillaTransformerForDependencyParsing,
]
heads = pytest.mark.parametrize("kind", HEADS, ids=["classifier", "tagger", "parser"])
readings = pytest.mark.parametrize("reads", ["decoder", "encoder"])
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
SIZES: dict[str, Any] = {"num_labels": 4, "arc_width": 10, "relation_width": 6}

TEXTS = [[5, 6, 7, 8, 9, 2], [11, 4, 2], [3, 2], [12, 3, 20, 21, 22, 13, 2]]
WORDS = [[5, 0, 1, 3], [2, 0, 1], [1, 0], [6, 0, 4, 5]]  # of the parser: ROOT's state, then the words' first pieces
LABELS = {  # of the texts: their classes; tags, piece by piece; heads, word by word, and relations
    VanillaTransformerForSequenceClassification: [3, 0, 2, 1],
    VanillaTransformerForTokenClassification: [
        [1, -100, 2, 0, 3, -100],
        [0, 3, -100],
        [2, -100],
        [1, 1, 0, -100, 2, 3, -100],
    ],
    VanillaTransformerForDependencyParsing: [[2, 0, 1], [0, 1], [0], [3, 3, 0]],
}
RELATIONS = [[0, 3, 1], [2, 2], [1], [3, 0, 2]]


def padded(rows: list[list[int]], side: str, fill: int, width: int) -> torch.Tensor:
    gaps = [[fill] * (width - len(row)) for row in rows]
    return torch.tensor([row + gap if side == "right" else gap + row for row, gap in zip(rows, gaps, strict=True)])


def batch(
    kind: type, rows: list[int], side: str = "right", extra: int = 2, labels: bool = True
) -> dict[str, torch.Tensor]:
    """Those of TEXTS, padded to the longest and `extra` columns more."""
    texts = [TEXTS[row] for row in rows]
    width = max(map(len, texts)) + extra
    inputs = {
        "input_ids": padded(texts, side, 0, width),
        "attention_mask": padded([[1] * len(text) for text in texts], side, 0, width),
    }
    answers: list[Any] = [LABELS[kind][row] for row in rows]
    if kind is VanillaTransformerForDependencyParsing:
        moved = [[p + (width - len(TEXTS[row]) if side == "left" else 0) for p in WORDS[row]] for row in rows]
        words = max(map(len, answers)) + extra
        inputs["word_positions"] = padded(moved, "right", -1, 1 + words)
        answers = padded(answers, "right", -100, words).tolist()
        if labels:
            inputs["relations"] = padded([RELATIONS[row] for row in rows], "right", -100, words)
    elif kind is VanillaTransformerForTokenClassification:
        answers = padded(answers, side, -100, width).tolist()
    return {**inputs, "labels": torch.tensor(answers)} if labels else inputs


def said(kind: type, output: Any, rows: list[int], side: str) -> list[list[torch.Tensor]]:
    """What the head says of each text, padding cut off."""
    found = []
    for index, row in enumerate(rows):
        length, words = len(TEXTS[row]), len(WORDS[row]) - 1
        if kind is VanillaTransformerForSequenceClassification:
            found.append([output.logits[index]])
        elif kind is VanillaTransformerForTokenClassification:
            found.append([output.logits[index][:length] if side == "right" else output.logits[index][-length:]])
        else:
            found.append([x[index, :words, : 1 + words] for x in (output.arc_logits, output.relation_logits)])
    return found


def test_the_defaults_change_nothing():
    config = VanillaTransformerConfig()
    assert (config.head_reads, config.classifier_dropout) == ("decoder", None)
    assert (config.arc_width, config.relation_width, config.biaffine_dropout) == (500, 100, 0.33)
    assert config.deviations_from_paper() == {}
    assert VanillaTransformerConfig(head_reads="encoder", classifier_dropout=0.3).deviations_from_paper() == {}
    for wrong in ({"head_reads": "both"}, {"classifier_dropout": 1.0}, {"arc_width": 0}, {"biaffine_dropout": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            VanillaTransformerConfig(**wrong)


# ------------------------------------------------------------------------------------------------------------- reading


@heads
@readings
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_alone_is_in_a_batch_padded_on_either_side(make_model, kind, reads, side, positions, implementation):
    fields = {**SIZES, "head_reads": reads, "position_embedding": positions}
    one, many = make_model(kind=kind, **fields), make_model(kind=kind, attn_implementation=implementation, **fields)
    everything = list(range(len(TEXTS)))
    with torch.no_grad():
        inputs = batch(kind, everything, side, labels=False)
        together = many(**inputs)
        inputs.pop("attention_mask")
        without_mask = many(**inputs)
        for row in everything:
            alone = said(kind, one(**batch(kind, [row], extra=0, labels=False)), [row], "right")[0]
            for output in (together, without_mask):
                torch.testing.assert_close(said(kind, output, everything, side)[row], alone, **TOLERANCE)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_decoder_reads_the_text_shifted_right(make_model, side):
    model = make_model(kind=VanillaTransformerForTokenClassification, **SIZES)
    inputs = batch(type(model), [0, 1], side, labels=False)
    shifted = padded([[1, 5, 6, 7, 8, 9], [1, 11, 4]], side, 0, 8)
    states = model.model(
        **inputs, decoder_input_ids=shifted, decoder_attention_mask=inputs["attention_mask"]
    ).last_hidden_state
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[real], model.classifier(states)[real], **TOLERANCE)


@readings
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_text_is_classified_by_the_state_of_its_end(make_model, reads, side):
    model = make_model(kind=VanillaTransformerForSequenceClassification, head_reads=reads, **SIZES)
    inputs = batch(type(model), [0, 1], side, labels=False)
    states = model.read(**inputs, inputs_embeds=None).states
    ends = [5, 2] if side == "right" else [7, 7]
    assert inputs["input_ids"][[0, 1], ends].tolist() == [2, 2]
    head = model.classification_head
    expected = head.out_proj(torch.tanh(head.dense(states[[0, 1], ends])))
    torch.testing.assert_close(model(**inputs).logits, expected)


def test_without_mask_and_padding_token_the_last_position_counts(make_model):
    model = make_model(kind=VanillaTransformerForSequenceClassification, pad_token_id=None, **SIZES)
    ids = torch.tensor([[5, 6, 0, 0]])  # an ordinary token here
    expected = model(input_ids=ids, attention_mask=torch.ones(1, 4)).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected)
    torch.testing.assert_close(model(inputs_embeds=model.get_input_embeddings()(ids)).logits, expected)


@heads
@readings
def test_embeddings_instead_of_ids(make_model, kind, reads):
    model = make_model(kind=kind, head_reads=reads, share_embeddings="source-target", **SIZES)
    inputs = batch(kind, [0, 1], "left", labels=False)
    by_ids = said(kind, model(**inputs), [0, 1], "left")
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(said(kind, model(**inputs), [0, 1], "left"), by_ids)
    separate = make_model(kind=kind, head_reads=reads, share_embeddings="none", **SIZES)
    if reads == "encoder":
        separate(**inputs)
    else:
        with pytest.raises(ValueError, match="with share_embeddings='none' the decoder has others; give input_ids"):
            separate(**inputs)


@heads
def test_wrong_inputs_are_refused(make_model, kind):
    model = make_model(kind=kind, **SIZES)
    inputs = batch(kind, [0], labels=False)
    with pytest.raises(ValueError, match=f"{kind.__name__} takes either input_ids or inputs_embeds"):
        model(**{**inputs, "input_ids": None})
    with pytest.raises(ValueError, match=r"attention_mask of shape \(1, 8, 8\): .* needs one number a token, \(1, 8\)"):
        model(**{**inputs, "attention_mask": torch.ones(1, 8, 8)})
    with pytest.raises(ValueError, match="decoder_start_token_id=None"):
        make_model(kind=kind, decoder_start_token_id=None, **SIZES)


@heads
@readings
def test_the_encoder_alone_has_no_decoder_and_shows_its_states(make_model, kind, reads):
    model = make_model(kind=kind, head_reads=reads, **SIZES)
    assert any(".decoder." in name for name, _ in model.named_parameters()) is (reads == "decoder")
    assert type(model.model) is (VanillaTransformerModel if reads == "decoder" else VanillaTransformerEncoderModel)
    output = model(**batch(kind, [0, 1], labels=False), output_hidden_states=True, output_attentions=True)
    names = (
        "decoder_hidden_states",
        "decoder_attentions",
        "cross_attentions",
        "encoder_hidden_states",
        "encoder_attentions",
    )
    shown = {name: value for name in (*names, "hidden_states", "attentions") if (value := getattr(output, name, None))}
    assert set(shown) == (set(names) if reads == "decoder" else {"hidden_states", "attentions"})
    for name, value in shown.items():
        assert len(value) == (3 if name.endswith("hidden_states") else 2), name
    as_tuple = model(**batch(kind, [0, 1], labels=False), return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.is_tensor(as_tuple[0])


@pytest.mark.parametrize(
    "fields, rate", [({}, 0.25), ({"classifier_dropout": 0.5}, 0.5), ({"classifier_dropout": 0.0}, 0.0)]
)
def test_dropout_of_the_classifiers(make_model, monkeypatch, fields, rate):
    from vanilla_transformer.modeling import heads as file

    rates = []
    monkeypatch.setattr(file, "dropout", lambda x, probability, training: rates.append((probability, training)) or x)
    for kind, places in ((HEADS[0], 2), (HEADS[1], 1)):
        model = make_model(kind=kind, dropout=0.25, **fields, **SIZES).train()
        model(**batch(kind, [0]))
        assert rates == [(rate, True)] * places
        rates.clear()


# -------------------------------------------------------------------------------------------------------------- losses


def classifier(make_model, **fields):
    return make_model(kind=VanillaTransformerForSequenceClassification, **{**SIZES, **fields})


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize(
    "problem", ["single_label_classification", "multi_label_classification", "regression", "regression 1"]
)
def test_loss_of_a_text(make_model, problem, named):
    problem, classes = (problem.split()[0], 1 if problem.endswith("1") else 4)
    labels = {
        ("single_label_classification", 4): torch.tensor([3, -100, 1]),
        ("multi_label_classification", 4): torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]]),
        ("regression", 4): torch.randn(3, 4),
        ("regression", 1): torch.tensor([0.5, -100.0, 2]),  # a number like any other
    }[problem, classes]
    if problem == "regression" and classes == 4 and not named:
        pytest.skip("guessed to be several classes, as everywhere")
    model = classifier(make_model, num_labels=classes, problem_type=problem if named else None).train()
    inputs = batch(type(model), [0, 1, 2], labels=False)
    logits = model(**inputs).logits
    expected = {
        "single_label_classification": lambda: functional.cross_entropy(logits[[0, 2]], labels[[0, 2]]),
        "multi_label_classification": lambda: functional.binary_cross_entropy_with_logits(logits, labels),
        "regression": lambda: functional.mse_loss(logits.squeeze(-1), labels),
    }[problem]()
    torch.testing.assert_close(model(**inputs, labels=labels).loss, expected)
    assert model.config.problem_type == problem
    assert model.eval()(**inputs, labels=labels).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    if classes == 1:
        torch.testing.assert_close(model(**inputs, labels=labels[:, None]).loss, expected)


def test_labels_of_another_shape_are_refused(make_model):
    model = classifier(make_model)
    inputs = batch(type(model), [0, 1], labels=False)
    with pytest.raises(ValueError, match=r"labels of shape \(2, 4\): single_label_classification needs \(2,\)"):
        model(**inputs, labels=torch.zeros(2, 4, dtype=torch.long))
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ValueError, match=r"labels of shape \(2,\): multi_label_classification needs \(2, 4\)"):
        model(**inputs, labels=torch.zeros(2))


def test_loss_of_tags(make_model):
    # Heads smooth nothing.
    model = make_model(kind=VanillaTransformerForTokenClassification, label_smoothing=0.3, **SIZES)
    inputs = batch(type(model), [0, 1, 2])
    output = model(**inputs)
    assert output.logits.shape == (3, 8, 4)
    one_by_one = [
        -output.logits[b, s].log_softmax(-1)[label]
        for b, row in enumerate(inputs["labels"].tolist())
        for s, label in enumerate(row)
        if label != -100
    ]
    assert len(one_by_one) == 7
    torch.testing.assert_close(output.loss, torch.stack(one_by_one).mean())


@heads
@readings
def test_micro_batches_make_the_gradient_of_the_whole(make_model, kind, reads):
    model = make_model(kind=kind, head_reads=reads, biaffine_dropout=0.0, **SIZES).train()
    whole = model(**batch(kind, [0, 1, 2, 3])).loss
    whole.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in expected.values())  # of the head's parameters, too
    model.zero_grad()
    parts = [batch(kind, rows) for rows in ([0, 3], [1], [2])]
    items = sum((part["labels"] != -100).sum() for part in parts)
    assert items == (batch(kind, [0, 1, 2, 3])["labels"] != -100).sum()
    losses = []
    for part in parts:
        losses.append(model(**part, num_items_in_batch=items).loss)
        losses[-1].backward()
    torch.testing.assert_close(sum(losses), whole)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)
    same = model(**parts[0], num_items_in_batch=int(items)).loss
    torch.testing.assert_close(same, losses[0])


@heads
@pytest.mark.parametrize("items", [None, 0, torch.tensor(0), 5])
def test_a_batch_without_labels_has_loss_zero(make_model, kind, items):
    model = make_model(kind=kind, **SIZES).train()
    inputs = batch(kind, [0, 1])
    model.config.problem_type = "single_label_classification"
    for name in ("labels", "relations"):
        if name in inputs:
            inputs[name] = torch.full_like(inputs[name], -100)
    loss = model(**inputs, num_items_in_batch=items).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# ------------------------------------------------------------------------------------------------ from a pretrained one


@heads
@readings
@pytest.mark.parametrize("share", ["all", "none"])
@pytest.mark.parametrize("source", ["whole", "bare", "encoder"])
def test_from_a_pretrained_checkpoint_only_the_head_is_new(make_model, tmp_path, caplog, kind, reads, share, source):
    pretrained = make_model(share_embeddings=share)
    saved = {"whole": pretrained, "bare": pretrained.model}.get(source)
    if saved is None:
        if reads == "decoder":
            pytest.skip("an encoder has no decoder")
        saved = make_model(kind=VanillaTransformerEncoderModel, share_embeddings=share)
        saved.encoder.load_state_dict(pretrained.model.encoder.state_dict())
    saved.save_pretrained(tmp_path)
    fields = {**SIZES, "head_reads": reads, "attn_implementation": "eager"}
    model, info = kind.from_pretrained(tmp_path, output_loading_info=True, **fields)
    new = {name for name in model.state_dict() if name.startswith(kind.HEAD_PREFIXES)}
    assert new and set(info["missing_keys"]) == new
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    assert "UNEXPECTED" not in caplog.text
    assert model.config.num_labels == 4
    ours, theirs = model.state_dict(), pretrained.state_dict()
    assert {name for name in ours if name not in theirs} == new
    for name in ours.keys() - new:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_checkpoint_without_its_decoder_shows(make_model, tmp_path):
    make_model(kind=VanillaTransformerEncoderModel).save_pretrained(tmp_path)
    kind = VanillaTransformerForTokenClassification
    _, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert any(name.startswith("model.decoder.layers") for name in info["missing_keys"])
    _, info = kind.from_pretrained(tmp_path, output_loading_info=True, head_reads="encoder")
    assert all(name.startswith(kind.HEAD_PREFIXES) for name in info["missing_keys"])


@heads
@readings
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_it_is_the_same(make_model, tmp_path, kind, reads, dtype):
    names = ["O", "B-PER", "I-PER", "B-LOC"]
    fields = {**SIZES, "id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    model = make_model(kind=kind, head_reads=reads, **fields).to(dtype)
    model.save_pretrained(tmp_path)
    loaded, info = kind.from_pretrained(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.dtype == dtype and loaded.config.id2label == fields["id2label"] and loaded.config.head_reads == reads
    inputs = batch(kind, [0, 1], labels=False)
    for ours, theirs in zip(loaded(**inputs).to_tuple(), model(**inputs).to_tuple(), strict=True):
        assert torch.equal(ours, theirs)


def test_auto_classes(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "whole")
    assert type(AutoModelForSequenceClassification.from_pretrained(tmp_path / "whole")) is HEADS[0]
    assert type(AutoModelForTokenClassification.from_pretrained(tmp_path / "whole")) is HEADS[1]
    assert type(AutoModelForTextEncoding.from_pretrained(tmp_path / "whole")) is VanillaTransformerEncoderModel
    assert type(AutoModel.from_pretrained(tmp_path / "whole")) is VanillaTransformerModel
    make_model(kind=HEADS[0], **SIZES).save_pretrained(tmp_path / "classifier")
    assert (
        type(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "classifier"))
        is VanillaTransformerForConditionalGeneration
    )


def test_the_encoder_alone(make_model, tmp_path):
    whole = make_model(norm_position="pre", share_embeddings="none")
    whole.save_pretrained(tmp_path)
    model, info = VanillaTransformerEncoderModel.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert all(name.startswith("encoder.") for name in model.state_dict())
    inputs = batch(HEADS[0], [0, 1, 3], "left", labels=False)
    expected = whole.model.encoder(**inputs).last_hidden_state
    assert torch.equal(model(**inputs).last_hidden_state, expected)
    rows = model.get_input_embeddings()(inputs.pop("input_ids"))
    output = model(**inputs, inputs_embeds=rows, output_hidden_states=True, output_attentions=True)
    assert torch.equal(output.last_hidden_state, expected)
    assert len(output.hidden_states) == 3 and len(output.attentions) == 2
    model.resize_token_embeddings(30)
    assert model.encoder.embed_tokens.weight.shape == (30, 16) and not model.can_generate()


# ------------------------------------------------------------------------------------------------- like any other model


@heads
@readings
def test_more_tokens(make_model, kind, reads):
    model = make_model(kind=kind, head_reads=reads, **SIZES)
    inputs = batch(kind, [0, 1], labels=False)
    before = model(**inputs)
    model.resize_token_embeddings(30, mean_resizing=False)
    stacks = [model.model.encoder, *([model.model.decoder] if reads == "decoder" else [])]
    assert all(stack.embed_tokens.weight.shape == (30, 16) for stack in stacks)
    assert len({stack.embed_tokens.weight.data_ptr() for stack in stacks}) == 1
    torch.testing.assert_close(model(**inputs).to_tuple(), before.to_tuple())


@pytest.mark.parametrize(
    "share, one", [("all", True), ("source-target", True), ("target-output", False), ("none", False)]
)
def test_which_embeddings_are_one(make_model, tmp_path, share, one):
    model = make_model(kind=HEADS[1], share_embeddings=share, **SIZES)
    model.save_pretrained(tmp_path)
    for tested in (model, HEADS[1].from_pretrained(tmp_path)):
        source, target = tested.model.encoder.embed_tokens.weight, tested.model.decoder.embed_tokens.weight
        assert (source is target) is one


@heads
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
def test_gradient_checkpointing(make_model, kind):
    gradients = []
    for enabled in (False, True):
        model = make_model(kind=kind, biaffine_dropout=0.0, **SIZES).train()
        if enabled:
            model.gradient_checkpointing_enable()
        model(**batch(kind, [0, 1, 3])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0])


@heads
@readings
def test_torch_export(make_model, kind, reads):
    """One graph for every batch and every length."""
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    model = make_model(kind=kind, head_reads=reads, attn_implementation="sdpa", **layers, **SIZES)
    size = torch.export.Dim.DYNAMIC
    inputs = batch(kind, [0, 1, 3], labels=False)
    program = torch.export.export(model, (), inputs, dynamic_shapes={name: {0: size, 1: size} for name in inputs})
    for given in (inputs, batch(kind, [1, 2], "left", labels=False)):
        torch.testing.assert_close(program.module()(**given).to_tuple(), model(**given).to_tuple(), **TOLERANCE)


@heads
@readings
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch.compile itself
def test_a_training_step_is_one_graph(make_model, kind, reads):
    torch._dynamo.reset()
    layers = {"encoder_layers": 1, "decoder_layers": 1}
    model = make_model(
        kind=kind, head_reads=reads, attn_implementation="sdpa", biaffine_dropout=0.0, **layers, **SIZES
    ).train()
    inputs = batch(kind, [0, 1, 3])
    results = []
    for called in (model, torch.compile(model, fullgraph=True, backend="eager")):
        model.zero_grad()
        loss = called(**inputs).loss
        loss.backward()
        results.append((loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(results[1], results[0], **TOLERANCE)
    torch._dynamo.reset()


@heads
@readings
def test_the_plan_of_tensor_parallelism_names_layers_of_the_model(make_model, kind, reads):
    model = make_model(kind=kind, head_reads=reads, **SIZES)
    layers = {name.replace(".0.", ".*.") for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    planned = {name for name in model.tp_plan if name.rsplit(".", 1)[-1] != "embed_tokens"}
    assert planned and planned <= layers
    stacks = ("model.encoder.", "model.decoder.") if reads == "decoder" else ("model.encoder.",)
    assert {name for name in layers if name.startswith(stacks)} - {n for n in layers if ".1." in n} <= planned


@heads
def test_initialisation(kind):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(
        vocab_size=50, d_model=64, encoder_layers=1, decoder_layers=1, d_ff=64, num_labels=70
    )
    model = kind(config)
    seen = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.startswith(kind.HEAD_PREFIXES) or name == "classifier":
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert 0.95 * bound < module.weight.abs().max().item() <= bound, name
            assert module.bias is None or not module.bias.any(), name
            seen += 1
    assert seen == {HEADS[0]: 2, HEADS[1]: 1, HEADS[2]: 8}[kind]


# --------------------------------------------------------------------------------------------------------- remote code

WITHOUT_OUR_PACKAGE = """
import sys
sys.modules["vanilla_transformer"] = None  # any import of it fails
import torch
torch.use_deterministic_algorithms(True)  # memory that nobody filled reads as NaN
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTextEncoding, AutoModelForTokenClassification
folder, again = sys.argv[1:]
autos = {"classifier": AutoModelForSequenceClassification, "tagger": AutoModelForTokenClassification, "parser": AutoModel}
out = {}
for name, auto in autos.items():
    options = {"trust_remote_code": True, "attn_implementation": "eager"}
    model = auto.from_pretrained(f"{folder}/{name}", **options)
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    model.save_pretrained(f"{again}/{name}")  # and once more, of what was loaded so
    model = auto.from_pretrained(f"{again}/{name}", **options)
    out[name] = model(**torch.load(f"{folder}/{name}.pt", weights_only=True)).to_tuple()
# Heads that the folder has no weights for.
for auto in list(autos.values())[:2]:
    model, info = auto.from_pretrained(f"{folder}/whole", **options, num_labels=3, output_loading_info=True)
    assert info["missing_keys"] and all(n.startswith(model.HEAD_PREFIXES) for n in info["missing_keys"]), info
    assert not info["unexpected_keys"], info
_, info = AutoModelForTextEncoding.from_pretrained(f"{folder}/whole", **options, output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"], info
torch.save(out, f"{folder}/out.pt")
"""


def test_remote_code_in_an_interpreter_without_our_package(make_model, tmp_path):
    folder = tmp_path / "models"
    make_model().save_pretrained(folder / "whole")
    expected = {}
    for name, kind in zip(("classifier", "tagger", "parser"), HEADS, strict=True):
        model = make_model(kind=kind, head_reads="encoder" if name == "tagger" else "decoder", **SIZES)
        model.save_pretrained(folder / name)
        inputs = batch(kind, [0, 1], labels=False)
        torch.save(inputs, folder / f"{name}.pt")
        expected[name] = model(**inputs).to_tuple()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    script = [sys.executable, "-c", WITHOUT_OUR_PACKAGE, str(folder), str(tmp_path / "again")]
    done = subprocess.run(script, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = torch.load(folder / "out.pt", weights_only=True)
    for name, outputs in expected.items():
        assert len(outputs) == len(found[name]) and all(map(torch.equal, outputs, found[name])), name


@pytest.mark.parametrize(
    "kind",
    [VanillaTransformerForConditionalGeneration, VanillaTransformerModel, VanillaTransformerEncoderModel, *HEADS],
)
def test_every_folder_holds_every_class(make_model, tmp_path, kind):
    make_model(kind=kind, **SIZES).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for reference in config["auto_map"].values():
        file, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{file}.py").read_text()
    own = kind if kind in (VanillaTransformerEncoderModel, HEADS[2]) else VanillaTransformerModel
    assert config["auto_map"]["AutoModel"].endswith(f".{own.__name__}")
    assert config["auto_map"]["AutoModelForTokenClassification"] == "heads.VanillaTransformerForTokenClassification"
    assert bool(config.get("custom_pipelines")) is (kind is VanillaTransformerForConditionalGeneration)
