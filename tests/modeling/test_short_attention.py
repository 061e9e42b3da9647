"""The products for short sequences in bfloat16: what SDPA computes, and where they are taken."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.attention import MultiHeadAttention
from vanilla_transformer.modeling.masks import look_ahead_mask, pad_mask
from vanilla_transformer.modeling.short_attention import ShortAttention, short_attention_forward
from vanilla_transformer.modeling.short_softmax import softmax, softmax_gradient

B, H, T, L, K = 3, 2, 5, 7, 4
PAD = pad_mask(torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 1]]))
MASKS = {"none": None, "pad": PAD, "look-ahead": look_ahead_mask(T, L), "both": look_ahead_mask(T, L) & PAD}


def inputs(dtype: torch.dtype = torch.float32, keys: int = L) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(B, H, n, K, dtype=dtype, requires_grad=True) for n in (T, keys, keys)]


@pytest.mark.parametrize("name", MASKS)
def test_it_is_sdpa_with_its_gradients(name):
    mask, scaling = MASKS[name], 0.3
    mine, theirs = inputs(torch.float64), inputs(torch.float64)
    module: Any = SimpleNamespace()
    output, weights = short_attention_forward(module, mine[0], mine[1], mine[2], mask, scaling)
    expected = torch.nn.functional.scaled_dot_product_attention(*theirs, attn_mask=mask, scale=scaling).transpose(1, 2)
    torch.testing.assert_close(output, expected)
    assert weights is None
    direction = torch.randn_like(output)
    output.backward(direction)
    expected.backward(direction)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_causal_module_without_a_mask_looks_at_nothing_ahead():
    q, k, v = inputs(keys=T)
    causal: Any = SimpleNamespace(is_causal=True)
    output, _ = short_attention_forward(causal, q, k, v, None, 1.0)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
    torch.testing.assert_close(output, expected.transpose(1, 2))


def test_a_query_that_may_see_nothing_gets_zeros_and_gives_no_gradient():
    q, k, v = inputs()
    mask = PAD.clone()
    mask[1] = False
    output = ShortAttention.apply(q, k, v, mask, 1.0)
    assert output[1].eq(0).all() and output[0].ne(0).all()
    output.sum().backward()
    for each in (q, k, v):
        assert each.grad is not None and each.grad[1].eq(0).all() and each.grad.isfinite().all()
    assert v.grad is not None and v.grad[0].ne(0).all()


def layer(**fields: Any) -> MultiHeadAttention:
    torch.manual_seed(1)
    config = VanillaTransformerConfig(vocab_size=16, d_model=8, num_attention_heads=H, **fields)
    config._attn_implementation = "sdpa"
    return MultiHeadAttention(config)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_it_is_taken_in_training_in_bfloat16_where_no_weight_is_dropped(training, dropout, dtype):
    attention = layer(attention_dropout=dropout).train(training)
    query = torch.zeros(1, H, 3, 4, dtype=dtype)
    taken = attention.attention_function(query, query, False) is short_attention_forward
    assert taken == (training and dropout == 0.0 and dtype == torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 2, 15, 16, 31, 32, 40])
@pytest.mark.parametrize("rows", [1, 700])
def test_the_softmax_of_short_rows_and_its_gradient(rows, length, dtype):
    torch.manual_seed(0)
    scores, direction = 100 + 9 * torch.randn(2, rows, length), torch.randn(2, rows, length)  # e^100 is no float32
    scores[:, :, 1 + rows % length :] = float("-inf")  # padding
    scores, direction = scores.to(dtype), direction.to(dtype)
    expected = scores.softmax(-1)
    gradient = torch.ops.aten._softmax_backward_data(direction, expected, -1, dtype)
    weights = softmax(scores.clone())
    close = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(weights, expected, **close)
    assert (weights[scores == float("-inf")] == 0).all()
    torch.testing.assert_close(softmax_gradient(direction.clone(), expected), gradient, **close)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_one_product_for_all_projections_is_each_of_them(bias, crossed):
    x, states = torch.randn(2, T, 8), torch.randn(2, L, 8) if crossed else None
    found = []
    for hooked in (False, True):  # whoever looks at one layer gets each by itself
        attention = layer(attention_bias=bias, d_k=6, d_v=5).train()
        calls: list[int] = []
        if hooked:
            attention.v_proj.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        output, _ = attention(x, key_value_states=states)
        output.pow(2).sum().backward()
        assert len(calls) == hooked
        found.append([output.detach(), *(parameter.grad for parameter in attention.parameters())])
    assert len(found[0]) == (9 if bias else 5)
    for one, each in zip(*found, strict=True):
        torch.testing.assert_close(one, each)
