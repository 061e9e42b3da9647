"""Where the norm stands, and what it is put around."""

from __future__ import annotations

import torch

from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.layers import AddAndNorm, DecoderLayer, EncoderLayer


def config(**fields) -> VanillaTransformerConfig:
    made = VanillaTransformerConfig(**{"d_model": 4, "num_attention_heads": 2, "d_ff": 6, "dropout": 0.0, **fields})
    made._attn_implementation = "eager"
    return made


def test_post_norm_by_hand():
    around = AddAndNorm(config())
    x, sublayer = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0, 5.0]])
    assert around.enter(x) is x
    # x + sublayer = 2, 2, 5, 9: mean 4.5, variance 8.25
    expected = torch.tensor([[-2.5, -2.5, 0.5, 4.5]]) / 8.25**0.5
    torch.testing.assert_close(around.leave(x, sublayer), expected, atol=1e-6, rtol=0)


def test_pre_norm_by_hand():
    around = AddAndNorm(config(norm_position="pre"))
    x, sublayer = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[1.0, 0.0, 2.0, 5.0]])
    torch.testing.assert_close(around.enter(x), torch.tensor([[-1.5, -0.5, 0.5, 1.5]]) / 1.25**0.5, atol=1e-5, rtol=0)
    assert around.leave(x, sublayer).tolist() == [[2.0, 2.0, 5.0, 9.0]]


def test_epsilon_is_inside_the_root():
    around = AddAndNorm(config(layer_norm_eps=1.0))
    out = around.leave(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.zeros(1, 4))
    torch.testing.assert_close(out, torch.tensor([[-1.0, -1.0, 1.0, 1.0]]) / 2**0.5)


def test_dropout_is_on_the_sublayers_output_and_not_on_the_residual():
    around = AddAndNorm(config(norm_position="pre", dropout=0.5)).train()
    torch.manual_seed(0)
    out = around.leave(torch.full((500, 4), 10.0), torch.ones(500, 4))
    assert sorted(out.unique().tolist()) == [10.0, 12.0]
    assert torch.equal(around.eval().leave(torch.ones(1, 4), torch.ones(1, 4)), torch.full((1, 4), 2.0))


def test_the_sublayers_of_an_encoder_layer_in_order():
    torch.manual_seed(0)
    layer, x = EncoderLayer(config(), 0).eval(), torch.randn(1, 3, 4)
    attended = layer.self_attn_norm(x + layer.self_attn(x)[0])
    torch.testing.assert_close(layer(x, None), layer.feed_forward_norm(attended + layer.feed_forward(attended)))


def test_the_sublayers_of_a_decoder_layer_in_order():
    torch.manual_seed(0)
    layer, x, source = DecoderLayer(config(), 0).eval(), torch.randn(1, 3, 4), torch.randn(1, 2, 4)
    mask = torch.ones(3, 3).tril().bool()[None, None]
    y = layer.self_attn_norm(x + layer.self_attn(x, mask)[0])
    y = layer.cross_attn_norm(y + layer.cross_attn(y, None, source)[0])
    y = layer.feed_forward_norm(y + layer.feed_forward(y))
    torch.testing.assert_close(layer(x, mask, source, None), y)


def test_only_decoder_self_attention_is_causal():
    encoder, decoder = EncoderLayer(config(), 0), DecoderLayer(config(), 0)
    assert not encoder.self_attn.is_causal and not decoder.cross_attn.is_causal
    assert decoder.self_attn.is_causal


def test_a_decoder_layer_without_a_source_leaves_cross_attention_out():
    torch.manual_seed(0)
    layer, x = DecoderLayer(config(), 0).eval(), torch.randn(1, 3, 4)
    y = layer.self_attn_norm(x + layer.self_attn(x)[0])
    torch.testing.assert_close(layer(x, None, None, None), layer.feed_forward_norm(y + layer.feed_forward(y)))
