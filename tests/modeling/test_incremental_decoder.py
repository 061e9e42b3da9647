"""One token at a time against the whole forward pass: the same numbers, by every road through the layers."""

from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import (
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
    incremental_attention,
    row_products,
)
from vanilla_transformer.modeling.decoder_weights import DecoderWeights, SourceAttentionWeights
from vanilla_transformer.modeling.incremental_attention import FoldedSourceAttention, SourceAttention
from vanilla_transformer.modeling.incremental_decoder import FIRST_ROOM, IncrementalDecoder
from vanilla_transformer.modeling.row_products import product, product_added

N, K, S = 4, 3, 7
STEPS = FIRST_ROOM + 4  # so that the room is doubled
MODELS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "pre-norm": {"norm_position": "pre"},
    "biases": {"attention_bias": True},
    "values wider than keys, learned positions": {
        "d_k": 6,
        "d_v": 10,
        "position_embedding": "learned",
        "attention_bias": True,
    },
}


def model_of(**fields) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 20,
        "d_model": 16,
        "num_attention_heads": 4,
        "d_ff": 24,
        "max_position_embeddings": 48,
    }
    config = VanillaTransformerConfig(**sizes, encoder_layers=1, decoder_layers=2, **fields)
    model: Any = VanillaTransformerForConditionalGeneration(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)  # biases too, which begin as zeros
    return model


def source_mask(padded: bool) -> torch.Tensor:
    mask = torch.ones(N, S, dtype=torch.long)
    if padded:
        mask[1, 3:], mask[3, 5:] = 0, 0
    return mask


@pytest.mark.parametrize("padded", (False, True), ids=("full", "padded"))
@pytest.mark.parametrize("folded", (False, True), ids=("plain", "folded"))
@pytest.mark.parametrize("name", MODELS)
def test_steps_are_the_forward_pass(monkeypatch, name: str, folded: bool, padded: bool):
    monkeypatch.setattr(FoldedSourceAttention, "pays", staticmethod(lambda weights, states: folded))
    check(model_of(**MODELS[name]), source_mask(padded), FoldedSourceAttention if folded else SourceAttention)


@pytest.mark.parametrize("padded", (False, True), ids=("full", "padded"))
def test_steps_of_many_short_sentences(monkeypatch, padded: bool):
    monkeypatch.setattr(incremental_attention, "FEW", 0)
    monkeypatch.setattr(FoldedSourceAttention, "pays", staticmethod(lambda weights, states: False))
    check(model_of(), source_mask(padded), SourceAttention)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("intel", (False, True), ids=("another processor", "Intel"))
@pytest.mark.parametrize("rows", (1, 2, 12))
@pytest.mark.parametrize("bias", (False, True), ids=("no bias", "bias"))
def test_a_packed_weight_multiplies_any_number_of_rows(
    monkeypatch, rows: int, bias: bool, intel: bool, dtype: torch.dtype
):
    monkeypatch.setattr(row_products, "_mkl_is_at_its_best", lambda: intel)
    monkeypatch.setattr(row_products, "ONEDNN_PAYS", 2 * 40 * 24)  # from three rows on
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 24, bias=bias).to(dtype)
    x, others = torch.randn(20, 40).to(dtype), torch.randn(20, 24).to(dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    with torch.inference_mode():
        for R in (1, 2, 3, 9, 12, 17, 20):
            expected = layer(x[:R])
            torch.testing.assert_close(product(layer, rows)(x[:R]), expected, **close)
            torch.testing.assert_close(product_added(layer, rows)(x[:R], others[:R]), expected + others[:R], **close)


def test_few_numbers_of_rows_reach_onednn():
    rounded = [row_products._rounded_up(rows) for rows in range(1, 4097)]
    assert all(rows <= full <= 1.25 * rows for rows, full in enumerate(rounded, start=1))
    assert rounded == sorted(rounded) and len(set(rounded)) == 44


def test_what_is_packed_and_by_whom(monkeypatch):
    single, double, short = (torch.empty(64, 32, dtype=dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16))
    for name in ("mkl", "onednn"):
        monkeypatch.setattr(row_products, f"_pack_by_{name}", lambda weight, bias, rows, name=name: name)
        monkeypatch.setattr(row_products, f"_{name}_packs", lambda: True)
    monkeypatch.setattr(row_products, "_onednn_has_bfloat16", lambda: True)
    monkeypatch.setattr(row_products, "_mkl_is_at_its_best", lambda: True)
    monkeypatch.setattr(row_products, "ONEDNN_PAYS", 3 * 64 * 32)
    packed = row_products._packed
    nothing = (None, 0)
    assert packed(single, None, 2) == ("mkl", 2) and packed(short, None, 1) == ("onednn", 1)
    assert packed(single, None, 1) == nothing  # a vector: there is nothing to gain
    assert packed(single, None, 0) == packed(short, None, 0) == packed(double, None, 64) == nothing
    assert packed(single.to("meta"), None, 64) == nothing

    monkeypatch.setattr(row_products, "_mkl_is_at_its_best", lambda: False)
    assert packed(single, None, 2) == packed(single, None, 64) == ("onednn", 4) and packed(single, None, 1) == nothing
    monkeypatch.setattr(row_products, "ONEDNN_PAYS", 64 * 32 - 1)
    assert packed(single, None, 1) == ("onednn", 1)  # so large a weight pays for one row, too

    for name in ("_onednn_packs", "_onednn_has_bfloat16", "_mkl_packs"):
        monkeypatch.setattr(row_products, name, lambda: False)
    assert packed(single, None, 64) == packed(short, None, 64) == nothing
    monkeypatch.setattr(row_products, "_mkl_is_at_its_best", lambda: True)
    assert packed(single, None, 64) == nothing


@pytest.mark.parametrize(
    ("described", "best"),
    (({"cpu_name": "Intel Xeon Platinum"}, True), ({"cpu_name": "AMD EPYC"}, False), ({}, True)),
    ids=("Intel", "AMD", "unknown"),
)
def test_where_mkl_is_at_its_best(monkeypatch, described: dict[str, str], best: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: described, raising=False)
    row_products._mkl_is_at_its_best.cache_clear()
    assert row_products._mkl_is_at_its_best() is best
    monkeypatch.undo()
    row_products._mkl_is_at_its_best.cache_clear()


def test_layers_with_hooks_are_called():
    model, called = model_of(attention_bias=True), set()

    def shift(module, inputs, output):
        called.add(module)
        return output + 0.1

    layer = model.model.decoder.layers[1]
    own, cross = layer.self_attn, layer.cross_attn
    hooked = {
        own.k_proj,
        own.out_proj,
        cross.q_proj,
        cross.v_proj,
        cross.out_proj,
        layer.feed_forward.fc1,
        layer.feed_forward.fc2,
    }
    for module in (*hooked, model.model.decoder.embed_tokens):
        module.register_forward_hook(shift)
    check(model, source_mask(padded=False), SourceAttention)
    assert hooked < called


def test_folded_where_a_step_reads_less():
    attention = model_of().model.decoder.layers[0].cross_attn  # d_k = 4
    weights = SourceAttentionWeights(attention, 1)
    assert FoldedSourceAttention.pays(weights, torch.empty(1, 8, 16))
    assert not FoldedSourceAttention.pays(weights, torch.empty(1, 9, 16))
    assert not FoldedSourceAttention.pays(weights, torch.empty(2, 8, 16))
    attention.q_proj.register_forward_hook(lambda *_: None)
    assert not FoldedSourceAttention.pays(SourceAttentionWeights(attention, 1), torch.empty(1, 8, 16))


@torch.inference_mode()
def check(model, mask: torch.Tensor, attends: type) -> None:
    """Hypotheses that change places, and sentences that leave."""
    sentences, draws = list(range(N)), torch.Generator().manual_seed(1)
    states = torch.randn(N, S, model.config.d_model, dtype=torch.float64, generator=draws)
    decoder = IncrementalDecoder(DecoderWeights(model, N * K), states, mask, K)
    assert type(decoder.layers[1].source_attention) is attends
    written = torch.full((N, K, 1), model.config.decoder_start_token_id)
    origins = torch.arange(K).repeat(N, 1)
    for t in range(STEPS):
        n = len(sentences)
        logits, weights = decoder.step(written[:, :, -1], origins), decoder.source_weights()
        k = 1 if t == 0 else K
        outputs = model(
            encoder_outputs=(states[sentences].repeat_interleave(k, 0),),
            attention_mask=mask[sentences].repeat_interleave(k, 0),
            decoder_input_ids=written[:, :k].flatten(0, 1),
        )
        torch.testing.assert_close(logits, outputs.logits[:, -1].view(n, k, -1), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(weights.sum(-1), torch.ones(n, k, dtype=torch.float64))
        assert (weights[mask[sentences][:, None].expand_as(weights) == 0] == 0).all()
        origins = torch.randint(0, K, (n, K), generator=draws)
        written = written.gather(1, origins[:, :, None].expand_as(written))
        written = torch.cat((written, torch.randint(3, 20, (n, K, 1), generator=draws)), dim=2)
        if t == 4:  # the second leaves, and the last takes its place
            decoder.move(torch.tensor([1]), torch.tensor([3]), 3)
            sentences, written, origins = [0, 3, 2], written[[0, 3, 2]], origins[[0, 3, 2]]
