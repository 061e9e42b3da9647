"""Equation 2."""

from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.feed_forward import FeedForward


def small(**fields) -> FeedForward:
    return FeedForward(VanillaTransformerConfig(d_model=2, num_attention_heads=1, d_ff=3, **fields))


def set_weights(layer: FeedForward) -> None:
    with torch.no_grad():
        layer.fc1.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
        layer.fc1.bias.copy_(torch.tensor([0.0, -1.0, 0.5]))
        layer.fc2.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0]]))
        layer.fc2.bias.copy_(torch.tensor([10.0, 20.0]))


def test_by_hand():
    layer = small()
    set_weights(layer)
    # (1, 3): inner = relu(1, 2, -3.5) = (1, 2, 0); out = (1 + 4 + 10, -2 + 20)
    # (-1, 0): inner = relu(-1, -1, 1.5) = (0, 0, 1.5); out = (4.5 + 10, 1.5 + 20)
    assert layer(torch.tensor([[[1.0, 3.0], [-1.0, 0.0]]])).tolist() == [[[15.0, 18.0], [14.5, 21.5]]]


@pytest.mark.parametrize("name", ["relu", "gelu", "silu"])
def test_activations_by_name(name):
    layer = small(activation_function=name)
    x = torch.randn(4, 2)
    expected = layer.fc2(getattr(torch.nn.functional, name)(layer.fc1(x)))
    torch.testing.assert_close(layer(x), expected)


def test_activation_dropout_is_off_as_in_the_paper_and_in_evaluation():
    x = torch.randn(4, 2)
    plain, dropping = small(dropout=0.9), small(activation_dropout=0.9)
    set_weights(plain)
    set_weights(dropping)
    assert torch.equal(plain.train()(x), plain.eval()(x))
    assert torch.equal(dropping.eval()(x), plain(x))
    torch.manual_seed(0)
    assert not torch.equal(dropping.train()(x), plain(x))
