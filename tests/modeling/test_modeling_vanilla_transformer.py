"""The assembled model: against torch's and Marian's with the same weights, its beginnings, and saving and loading."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    VanillaTransformerModel,
)
from vanilla_transformer.modeling.positions import sinusoid_table

SOURCE = torch.tensor([[5, 6, 7, 8, 9, 2], [11, 4, 3, 2, 0, 0], [3, 12, 5, 7, 2, 0]])
SOURCE_MASK = (SOURCE != 0).long()
LABELS = torch.tensor([[9, 8, 7, 2, -100], [5, 2, -100, -100, -100], [4, 6, 10, 11, 2]])
TARGET = torch.tensor([[1, 9, 8, 7, 2], [1, 5, 2, 0, 0], [1, 4, 6, 10, 11]])


# ---------------------------------------------------------------------------------------------- torch.nn.Transformer


def torch_stacks(model, norm_first: bool) -> tuple[nn.TransformerEncoder, nn.TransformerDecoder, list]:
    """torch's encoder and decoder with our weights, and pairs (their parameter, ours, rows of theirs or None)."""
    config = model.config
    sizes = (config.d_model, config.num_attention_heads, config.d_ff, 0.0)
    options = {"batch_first": True, "norm_first": norm_first, "layer_norm_eps": config.layer_norm_eps}

    def end_norm():
        return nn.LayerNorm(config.d_model, eps=config.layer_norm_eps) if norm_first else None

    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(*sizes, **options), config.encoder_layers, end_norm(), enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(*sizes, **options), config.decoder_layers, end_norm())
    pairs = []

    def attention(theirs: nn.MultiheadAttention, ours) -> None:
        for place, name in enumerate(("q_proj", "k_proj", "v_proj")):
            rows = slice(place * config.d_model, (place + 1) * config.d_model)
            pairs.append((theirs.in_proj_weight, getattr(ours, name).weight, rows))
        pairs.append((theirs.out_proj.weight, ours.out_proj.weight, None))
        nn.init.zeros_(theirs.in_proj_bias)
        nn.init.zeros_(theirs.out_proj.bias)

    def same(theirs: nn.Module, ours: nn.Module) -> None:
        pairs.extend((getattr(theirs, n), getattr(ours, n), None) for n in ("weight", "bias"))

    for theirs, ours in zip(encoder.layers, model.model.encoder.layers, strict=True):
        attention(theirs.self_attn, ours.self_attn)
        same(theirs.norm1, ours.self_attn_norm)
        same(theirs.norm2, ours.feed_forward_norm)
    for theirs, ours in zip(decoder.layers, model.model.decoder.layers, strict=True):
        attention(theirs.self_attn, ours.self_attn)
        attention(theirs.multihead_attn, ours.cross_attn)
        same(theirs.norm1, ours.self_attn_norm)
        same(theirs.norm2, ours.cross_attn_norm)
        same(theirs.norm3, ours.feed_forward_norm)
    for theirs_stack, ours_stack in ((encoder, model.model.encoder), (decoder, model.model.decoder)):
        for theirs, ours in zip(theirs_stack.layers, ours_stack.layers, strict=True):
            same(theirs.linear1, ours.feed_forward.fc1)
            same(theirs.linear2, ours.feed_forward.fc2)
        if norm_first:
            same(theirs_stack.norm, ours_stack.norm)
    with torch.no_grad():
        for theirs, ours, rows in pairs:
            theirs[slice(None) if rows is None else rows].copy_(ours)
    return encoder, decoder, pairs


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("norm_position", ["post", "pre"])
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_same_as_torch_nn_transformer(make_model, implementation, norm_position, padded):
    model = make_model(norm_position=norm_position, attn_implementation=implementation).train()
    encoder, decoder, pairs = torch_stacks(model, norm_position == "pre")
    source = SOURCE if padded else SOURCE[:, :3]
    target = TARGET if padded else TARGET[:, :2]
    source_padding, target_padding = source == 0, target == 0

    embedding = model.model.encoder.embed_tokens.weight.detach().clone().requires_grad_()
    table = sinusoid_table(10, 16)
    x = embedding[source] * 4 + table[: source.shape[1]]  # sqrt(16)
    y = embedding[target] * 4 + table[: target.shape[1]]
    memory = encoder(x, src_key_padding_mask=source_padding)
    look_ahead = torch.ones(target.shape[1], target.shape[1]).triu(1).bool()
    out = decoder(
        y,
        memory,
        tgt_mask=look_ahead,
        tgt_key_padding_mask=target_padding,
        memory_key_padding_mask=source_padding,
    )
    expected = out @ embedding.T

    logits = model(
        input_ids=source,
        attention_mask=(~source_padding).long(),
        decoder_input_ids=target,
        decoder_attention_mask=(~target_padding).long(),
    ).logits
    real = ~target_padding
    torch.testing.assert_close(logits[real], expected[real], atol=2e-5, rtol=1e-4)

    weight = torch.randn(expected[real].shape)
    (expected[real] * weight).sum().backward()
    (logits[real] * weight).sum().backward()
    for theirs, ours, rows in pairs:
        gradient = theirs.grad if rows is None else theirs.grad[rows]
        torch.testing.assert_close(ours.grad, gradient, atol=1e-4, rtol=1e-3)
    # torch.nn.Embedding gives its padding row no gradient through look-ups.
    real_rows = slice(1, None)
    torch.testing.assert_close(model.lm_head.weight.grad[real_rows], embedding.grad[real_rows], atol=2e-4, rtol=1e-3)


# ------------------------------------------------------------------------------------------------------------- Marian


def marian_like(model) -> MarianMTModel:
    """Marian with our weights. Its sinusoids are halves, [sines; cosines]: every axis of width D is permuted so."""
    config = model.config
    marian = MarianMTModel(
        MarianConfig(
            vocab_size=config.vocab_size,
            d_model=config.d_model,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.num_attention_heads,
            decoder_attention_heads=config.num_attention_heads,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            max_position_embeddings=config.max_position_embeddings,
            activation_function="relu",
            scale_embedding=True,
            dropout=0.0,
            pad_token_id=0,
            eos_token_id=2,
            bos_token_id=1,
            decoder_start_token_id=1,
            forced_eos_token_id=None,
            attn_implementation="eager",
        )
    ).eval()
    halves = torch.tensor([*range(0, config.d_model, 2), *range(1, config.d_model, 2)])
    names = {
        "self_attn_norm": "self_attn_layer_norm",
        "cross_attn_norm": "encoder_attn_layer_norm",
        "feed_forward_norm": "final_layer_norm",
        "cross_attn": "encoder_attn",
        "feed_forward.fc1": "fc1",
        "feed_forward.fc2": "fc2",
    }
    ours = dict(model.named_parameters())
    assert not marian.final_logits_bias.any()
    with torch.no_grad():
        marian.model.shared.weight.copy_(ours.pop("model.encoder.embed_tokens.weight")[:, halves])
        for name, parameter in ours.items():
            is_written = any(part in name for part in ("out_proj", "fc2", "norm"))  # its rows are of width D
            permuted = parameter[halves] if is_written else parameter[:, halves] if parameter.dim() == 2 else parameter
            for old, new in names.items():
                name = name.replace(f".{old}.", f".{new}.")
            marian.get_parameter(name).copy_(permuted)
    return marian


def test_same_as_marian(make_model):
    model = make_model(attention_bias=True, layer_norm_eps=1e-5, encoder_layers=1, decoder_layers=3)
    marian = marian_like(model)
    inputs = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET}
    with torch.no_grad():
        expected, actual = marian(**inputs), model(**inputs)
    torch.testing.assert_close(actual.logits, expected.logits, atol=2e-5, rtol=1e-4)
    ids = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "max_new_tokens": 6, "do_sample": False}
    for beams in ({"num_beams": 1}, {"num_beams": 3, "length_penalty": 1.0}):
        assert torch.equal(model.generate(**ids, **beams), marian.generate(**ids, **beams))


# ----------------------------------------------------------------------------------------------------- initialisation


@pytest.mark.parametrize("share", ["all", "source-target", "target-output", "none"])
def test_initialisation(share):
    torch.manual_seed(0)
    config = VanillaTransformerConfig(
        vocab_size=500, d_model=64, encoder_layers=1, decoder_layers=1, d_k=16, d_v=8, d_ff=128, attention_bias=True
    )
    config.share_embeddings = share
    model = VanillaTransformerForConditionalGeneration(config)
    linear = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not (name == "lm_head" and share in ("all", "target-output")):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                bound *= math.sqrt(0.5)
            assert 0.98 * bound < module.weight.abs().max().item() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03), name
            assert module.bias is None or not module.bias.any(), name
            linear += 1
        elif isinstance(module, nn.Embedding):
            assert module.weight[1:].std().item() == pytest.approx(64**-0.5, rel=0.02), name
            assert module.weight[1:].mean().item() == pytest.approx(0.0, abs=0.003), name
            assert not module.weight[0].any(), name
        elif isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all()) and not module.bias.any(), name
    assert linear >= 16


def test_learned_positions_begin_like_embeddings(make_model):
    model = make_model(position_embedding="learned", max_position_embeddings=400)
    for stack in (model.model.encoder, model.model.decoder):
        assert stack.embed_positions.weight.std().item() == pytest.approx(16**-0.5, rel=0.05)
        assert stack.embed_positions.weight[0].any()
    assert model.model.encoder.embed_positions.weight is not model.model.decoder.embed_positions.weight


# --------------------------------------------------------------------------------------------------------- embeddings


def test_input_of_the_first_layer(make_model):
    """Section 3.4 and 3.5: sqrt(D) times the token's vector plus the position's."""
    encoder = make_model().model.encoder
    expected = 4 * encoder.embed_tokens.weight[SOURCE[0]] + sinusoid_table(6, 16)
    torch.testing.assert_close(encoder.embed(SOURCE[:1], None, None, None)[0], expected)
    encoder = make_model(scale_embedding=False).model.encoder
    expected = encoder.embed_tokens.weight[SOURCE[0]] + sinusoid_table(6, 16)
    torch.testing.assert_close(encoder.embed(SOURCE[:1], None, None, None)[0], expected)


def test_dropout_on_the_sum_of_embedding_and_position(make_model):
    encoder = make_model(dropout=0.5).model.encoder
    plain = encoder.embed(SOURCE, None, None, None)
    dropped = encoder.train().embed(SOURCE, None, None, None)
    is_zero = dropped == 0
    assert 0.3 < is_zero.float().mean() < 0.7
    torch.testing.assert_close(dropped[~is_zero], 2 * plain[~is_zero])


def test_inputs_embeds_instead_of_ids(make_model):
    model = make_model()
    rows = model.get_input_embeddings().weight
    by_ids = model(input_ids=SOURCE, attention_mask=SOURCE_MASK, decoder_input_ids=TARGET).logits
    by_rows = model(inputs_embeds=rows[SOURCE], attention_mask=SOURCE_MASK, decoder_inputs_embeds=rows[TARGET]).logits
    assert torch.equal(by_ids, by_rows)
    with pytest.raises(ValueError, match="VanillaTransformerEncoder takes either input_ids or inputs_embeds"):
        model(decoder_input_ids=TARGET)
    with pytest.raises(ValueError, match="VanillaTransformerDecoder takes either .* give exactly one of them"):
        model(input_ids=SOURCE, decoder_input_ids=TARGET, decoder_inputs_embeds=rows[TARGET])


@pytest.mark.parametrize("kind, way_out", [("sinusoidal", "load the model with"), ("learned", "train a model")])
def test_too_long_is_refused(make_model, kind, way_out):
    model = make_model(position_embedding=kind, max_position_embeddings=5)
    message = f"a sequence of 6 tokens is longer than max_position_embeddings=5; .*{way_out}"
    with pytest.raises(ValueError, match=message):
        model(input_ids=SOURCE, decoder_input_ids=TARGET)
    with pytest.raises(ValueError, match=message):
        model(input_ids=SOURCE[:, :5], decoder_input_ids=SOURCE)
    out = model(input_ids=SOURCE[:, :5], decoder_input_ids=TARGET, use_cache=True)
    with pytest.raises(ValueError, match=message):
        model(
            encoder_outputs=(out.encoder_last_hidden_state,),
            decoder_input_ids=TARGET[:, :1],
            past_key_values=out.past_key_values,
        )


def test_a_larger_limit_of_positions_when_loading(make_model, tmp_path):
    model = make_model(max_position_embeddings=6)
    model.save_pretrained(tmp_path)
    longer = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path, max_position_embeddings=40)
    inputs = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
    torch.testing.assert_close(longer(**inputs).logits, model(**inputs).logits)
    assert longer(input_ids=SOURCE.repeat(1, 5), decoder_input_ids=TARGET).logits.shape == (3, 5, 23)


SHARED = {  # which of source, target and output are one matrix
    "all": {("source", "target"), ("source", "output"), ("target", "output")},
    "source-target": {("source", "target")},
    "target-output": {("target", "output")},
    "none": set(),
}


def shared(model) -> set[tuple[str, str]]:
    weights = {
        "source": model.model.encoder.embed_tokens.weight,
        "target": model.model.decoder.embed_tokens.weight,
        "output": model.lm_head.weight,
    }
    names = list(weights)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {(a, b) for a, b in pairs if weights[a].data_ptr() == weights[b].data_ptr() and weights[a] is weights[b]}


@pytest.mark.parametrize("share", SHARED)
def test_which_matrices_are_one(make_model, share, tmp_path):
    model = make_model(share_embeddings=share)
    assert shared(model) == SHARED[share]
    assert (
        sum(p.numel() for p in model.parameters() if p.shape == (23, 16))
        == 23 * 16 * {0: 3, 1: 2, 3: 1}[len(SHARED[share])]
    )
    model.save_pretrained(tmp_path)
    loaded = VanillaTransformerForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert shared(loaded) == SHARED[share]
    inputs = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_tie_word_embeddings_false_means_none(make_model):
    assert shared(make_model(tie_word_embeddings=False)) == set()


@pytest.mark.parametrize("share", SHARED)
def test_more_tokens(make_model, share):
    model = make_model(share_embeddings=share)
    before = model(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    model.resize_token_embeddings(30, mean_resizing=False)
    assert shared(model) == SHARED[share] and model.config.vocab_size == 30
    after = model(input_ids=SOURCE, decoder_input_ids=TARGET).logits
    torch.testing.assert_close(after[..., :23], before)
    last = torch.tensor([[29]])
    assert model(input_ids=last, decoder_input_ids=last).logits.shape == (1, 1, 30)


# -------------------------------------------------------------------------------------------------------------- loss


def test_decoder_inputs_are_the_labels_shifted_right(make_model):
    model = make_model(pad_token_id=3, decoder_start_token_id=7)
    labels = torch.tensor([[9, 8, 2, -100], [5, 2, -100, -100], [4, 4, 4, 2]])
    expected = [[7, 9, 8, 2], [7, 5, 2, 3], [7, 4, 4, 4]]
    assert model.prepare_decoder_input_ids_from_labels(labels).tolist() == expected
    assert labels[0, 3] == -100  # untouched


@pytest.mark.parametrize("kind", ["uniform", "fairseq", "joey"])
def test_loss_in_training_and_in_evaluation(make_model, kind):
    model = make_model(label_smoothing=0.2, label_smoothing_kind=kind)
    inputs = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "labels": LABELS}
    evaluated = model(**inputs)
    trained = model.train()(**inputs)
    assert trained.logits is None and trained.past_key_values is None
    assert trained.loss.dtype == torch.float32
    torch.testing.assert_close(trained.loss, evaluated.loss)
    # By hand: position t of the logits is for label t, and the mean is over the 11 labels that are not ignored.
    log_p = model.eval()(input_ids=SOURCE, attention_mask=SOURCE_MASK, decoder_input_ids=TARGET).logits.log_softmax(-1)
    gold, others, pad = {
        "uniform": (0.8 + 0.2 / 23, 0.2 / 23, 0.2 / 23),
        "fairseq": (0.8, 0.2 / 22, 0.2 / 22),
        "joey": (0.8, 0.2 / 21, 0.0),
    }[kind]
    total = 0.0
    for row, column in (LABELS != -100).nonzero().tolist():
        q = torch.full((23,), others)
        q[0] = pad
        q[LABELS[row, column]] = gold
        total -= (q * log_p[row, column]).sum().item()
    assert evaluated.loss.item() == pytest.approx(total / 11, rel=1e-5)


def test_no_smoothing_is_torchs_cross_entropy(make_model):
    model = make_model(label_smoothing=0.0)
    out = model(input_ids=SOURCE, attention_mask=SOURCE_MASK, labels=LABELS)
    torch.testing.assert_close(out.loss, nn.functional.cross_entropy(out.logits.flatten(0, 1), LABELS.flatten()))


@pytest.mark.parametrize("training", [True, False])
def test_loss_is_float32_under_autocast(make_model, training):
    model = make_model().train(training)
    exact = model(input_ids=SOURCE, attention_mask=SOURCE_MASK, labels=LABELS).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=SOURCE, attention_mask=SOURCE_MASK, labels=LABELS).loss
    assert loss.dtype == torch.float32 and loss != loss.bfloat16()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_logits_to_keep(make_model):
    model = make_model()
    inputs = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
    everything = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, everything[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([0, 3])).logits, everything[:, [0, 3]])


# ----------------------------------------------------------------------------------------------------------- outputs


def test_attentions_and_hidden_states(make_model):
    model = make_model(encoder_layers=1, decoder_layers=3)
    inputs = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET}
    out = model(**inputs, output_attentions=True, output_hidden_states=True)
    for attentions, layers, queries, keys in (
        (out.encoder_attentions, 1, 6, 6),
        (out.decoder_attentions, 3, 5, 5),
        (out.cross_attentions, 3, 5, 6),
    ):
        assert len(attentions) == layers
        for weights in attentions:
            assert weights.shape == (3, 2, queries, keys)
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, queries))
    for weights in (*out.encoder_attentions, *out.cross_attentions):
        assert not weights[1, :, :, 4:].any()  # padding
    for weights in out.decoder_attentions:
        assert not weights.triu(1).any()
    assert not torch.equal(out.decoder_attentions[0], out.decoder_attentions[1])
    assert len(out.encoder_hidden_states) == 2 and len(out.decoder_hidden_states) == 4
    torch.testing.assert_close(out.encoder_hidden_states[0], model.model.encoder.embed(SOURCE, None, SOURCE_MASK, None))
    assert torch.equal(out.encoder_hidden_states[-1], out.encoder_last_hidden_state)
    assert model(**inputs).cross_attentions is None


def test_a_tuple_if_asked(make_model):
    model = make_model()
    inputs = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
    logits, *_ = model(**inputs, return_dict=False)
    assert torch.equal(logits, model(**inputs).logits)


def test_the_encoders_output_of_an_earlier_call(make_model):
    model = make_model()
    inputs = {"attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET}
    out = model(input_ids=SOURCE, **inputs)
    again = model(encoder_outputs=(out.encoder_last_hidden_state,), **inputs)
    assert torch.equal(again.logits, out.logits)


@pytest.mark.parametrize("fields", [{"d_k": 3, "d_v": 10}, {"position_embedding": "learned"}, {"norm_position": "pre"}])
def test_a_model_of_each_kind_learns(make_model, fields):
    """Every parameter gets a gradient, and a few steps on three sentences bring the loss down."""
    model = make_model(label_smoothing=0.0, **fields).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(input_ids=SOURCE, attention_mask=SOURCE_MASK, labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


# ---------------------------------------------------------------------------------------------------- saving, loading


@pytest.fixture
def filled_memory():
    """Memory that nobody filled reads as NaN, not as whatever a freed tensor happened to leave there."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
def test_loaded_is_saved_bit_for_bit(make_model, tmp_path, filled_memory, kind, dtype):
    model = make_model(position_embedding=kind, d_k=6).to(dtype)
    model.save_pretrained(tmp_path)
    inputs = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET}
    expected = model(**inputs).logits
    for loader in (VanillaTransformerForConditionalGeneration, AutoModelForSeq2SeqLM):
        loaded = loader.from_pretrained(tmp_path, dtype=dtype, attn_implementation="eager")
        assert type(loaded) is VanillaTransformerForConditionalGeneration and not loaded.training
        if kind == "sinusoidal":
            assert torch.equal(loaded.model.decoder.embed_positions.table, sinusoid_table(32, 16))
        assert loaded.dtype == dtype
        assert torch.equal(loaded(**inputs).logits, expected)


def test_the_bare_model_loads_from_the_whole_and_the_reverse(make_model, tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "whole")
    bare = AutoModel.from_pretrained(tmp_path / "whole", attn_implementation="eager")
    assert type(bare) is VanillaTransformerModel
    inputs = {"input_ids": SOURCE, "decoder_input_ids": TARGET}
    assert torch.equal(bare(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    bare.save_pretrained(tmp_path / "bare")
    whole = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "bare", attn_implementation="eager")
    assert torch.equal(whole(**inputs).logits, model(**inputs).logits)


def test_the_folder_names_a_class_for_every_auto_class(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {"AutoConfig", "AutoModel", "AutoModelForSeq2SeqLM"} <= set(auto_map)
    for reference in auto_map.values():
        file, name = reference.split(".")
        assert f"class {name}(" in (tmp_path / f"{file}.py").read_text()
    # a model that was loaded brings its code along too
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    code = {file.name for file in tmp_path.glob("*.py")}
    assert {"attention.py", "masks.py", "loss.py", "dropout.py"} <= code
    assert {file.name for file in (tmp_path / "again").glob("*.py")} == code
    assert type(AutoConfig.from_pretrained(tmp_path)) is VanillaTransformerConfig


WITHOUT_OUR_PACKAGE = """
import sys
sys.modules["vanilla_transformer"] = None  # any import of it fails
import torch
torch.use_deterministic_algorithms(True)  # memory that nobody filled reads as NaN
from transformers import AutoModelForSeq2SeqLM
folder, inputs, result = sys.argv[1:]
logits = {}
for dtype in (torch.float32, torch.bfloat16):
    model = AutoModelForSeq2SeqLM.from_pretrained(
        folder, trust_remote_code=True, dtype=dtype, attn_implementation="eager"
    )
    assert type(model).__module__.startswith("transformers_modules."), type(model)
    logits[str(dtype)] = model(**torch.load(inputs, weights_only=True)).logits
torch.save(logits, result)
"""


def test_remote_code_in_an_interpreter_without_our_package(make_model, tmp_path):
    model = make_model(norm_position="pre", share_embeddings="target-output")
    folder, given, result = tmp_path / "model", tmp_path / "inputs.pt", tmp_path / "logits.pt"
    model.save_pretrained(folder)
    inputs = {"input_ids": SOURCE, "attention_mask": SOURCE_MASK, "decoder_input_ids": TARGET}
    torch.save(inputs, given)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_OUR_PACKAGE, str(folder), str(given), str(result)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logits = torch.load(result, weights_only=True)
    assert torch.equal(logits["torch.float32"], model(**inputs).logits)
    assert torch.equal(logits["torch.bfloat16"], model.bfloat16()(**inputs).logits)


def test_no_hub_file_imports_our_package(checkout: Path):
    for file in (checkout / "modeling").glob("*.py"):
        if file.name != "__init__.py":
            assert "from vanilla_transformer" not in file.read_text(), file.name
            assert "import vanilla_transformer" not in file.read_text(), file.name
