"""Equation 1 by hand, and the multi-head form head by head."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.attention import MultiHeadAttention, eager_attention_forward

IMPLEMENTATIONS = ["eager", "sdpa"]


def attention(implementation: str = "eager", is_causal: bool = False, **fields) -> MultiHeadAttention:
    torch.manual_seed(0)
    config = VanillaTransformerConfig(**{"d_model": 12, "num_attention_heads": 3, **fields})
    config._attn_implementation = implementation
    return MultiHeadAttention(config, is_causal=is_causal, layer_idx=0).eval()


def test_equation_one_by_hand():
    # d_k = 4, so scores are halved: (2 ln 3) / 2 = ln 3 against 0 is 3 : 1.
    query = torch.tensor([2 * math.log(3.0), 0.0, 0.0, 0.0]).view(1, 1, 1, 4)
    key = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]]).view(1, 1, 2, 4)
    value = torch.tensor([[8.0, 0.0], [0.0, 4.0]]).view(1, 1, 2, 2)
    output, weights = eager_attention_forward(nn.Module(), query, key, value, None, scaling=4**-0.5)
    assert weights.flatten().tolist() == pytest.approx([0.75, 0.25])
    assert output.flatten().tolist() == pytest.approx([6.0, 1.0])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", [{}, {"d_k": 5, "d_v": 2}, {"d_k": 2, "d_v": 7, "attention_bias": True}])
def test_head_by_head(implementation, sizes):
    """MultiHead(Q, K, V) = Concat(head_i) W^O with head_i = softmax(Q W_i^Q (K W_i^K)^T / sqrt(d_k)) V W_i^V."""
    layer = attention(implementation, **sizes)
    d_k, d_v = layer.d_k, layer.d_v
    x, source = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()[:, None, None]
    heads = []
    for h in range(3):
        q = layer.q_proj(x)[..., h * d_k : (h + 1) * d_k]
        k = layer.k_proj(source)[..., h * d_k : (h + 1) * d_k]
        v = layer.v_proj(source)[..., h * d_v : (h + 1) * d_v]
        scores = (q @ k.transpose(1, 2) / d_k**0.5).masked_fill(~mask[:, 0], float("-inf"))
        heads.append(scores.softmax(-1) @ v)
    expected = layer.out_proj(torch.cat(heads, -1))
    torch.testing.assert_close(layer(x, mask, source)[0], expected, atol=1e-6, rtol=1e-5)


def test_weights_are_shown_by_eager_and_are_those_before_dropout():
    layer = attention(attention_dropout=0.5).train()
    mask = torch.tensor([1, 1, 0]).bool()[None, None, None]
    _, weights = layer(torch.randn(1, 3, 12), mask)
    assert weights.shape == (1, 3, 3, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3, 3))
    assert torch.equal(weights[..., 2], torch.zeros(1, 3, 3))


def test_attention_dropout_is_applied_in_training_only():
    layer, x = attention(attention_dropout=0.5), torch.randn(1, 3, 12)
    plain = layer(x)[0]
    assert torch.equal(layer(x)[0], plain)
    assert not torch.equal(layer.train()(x)[0], plain)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_query_that_sees_nothing_gets_zeros_and_no_nan_in_the_gradient(implementation):
    layer = attention(implementation).train()
    x = torch.randn(2, 3, 12, requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()[:, None, None]
    output, _ = layer(x, mask)
    assert torch.equal(output[1], torch.zeros(3, 12))
    assert output[0].abs().min() > 0
    output.square().sum().backward()
    for tensor in (x, *layer.parameters()):
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all())
    assert x.grad is not None
    assert torch.equal(x.grad[1], torch.zeros(3, 12)) and x.grad[0].abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_the_same_in_half_precision(implementation, dtype):
    layer = attention(implementation).to(dtype)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]]).bool()[:, None, None]
    output, _ = layer(torch.randn(2, 3, 12, dtype=dtype), mask)
    assert bool(output.isfinite().all()) and torch.equal(output[1], torch.zeros(3, 12, dtype=dtype))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_without_a_mask_the_encoder_sees_what_follows(implementation):
    """SDPA takes a module that does not say otherwise for causal."""
    layer, x = attention(implementation), torch.randn(1, 3, 12)
    changed = x.clone()
    changed[0, 2] += 1
    assert (layer(x)[0][0, 0] - layer(changed)[0][0, 0]).abs().max() > 1e-3


def test_without_a_mask_sdpa_in_the_decoder_does_not():
    layer, x = attention("sdpa", is_causal=True), torch.randn(1, 3, 12)
    changed = x.clone()
    changed[0, 2] += 1
    torch.testing.assert_close(layer(x)[0][0, :2], layer(changed)[0][0, :2], atol=1e-6, rtol=0)


def test_keys_of_the_source_are_computed_once_and_kept():
    layer = attention()
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    source = torch.randn(1, 4, 12)
    calls = []
    layer.k_proj.register_forward_hook(lambda *_: calls.append(1))
    first = layer(torch.randn(1, 1, 12), None, source, cache)[0]
    x = torch.randn(1, 1, 12)
    again = layer(x, None, source, cache)[0]
    assert len(calls) == 1 and cache.cross_attention_cache.get_seq_length() == 4
    assert cache.self_attention_cache.get_seq_length() == 0
    torch.testing.assert_close(again, layer(x, None, source)[0])
    assert not torch.allclose(first, again)


def test_a_growing_cache_is_attended_to():
    layer, x = attention(), torch.randn(1, 3, 12)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    layer(x[:, :2], None, None, cache)
    torch.testing.assert_close(layer(x[:, 2:], None, None, cache)[0], layer(x)[0][:, 2:])
