"""The encoder without its modules against the encoder: the same states, by every road through the layers."""

from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import laid_out_encoder
from vanilla_transformer.modeling.laid_out_encoder import SHORT, LaidOutEncoder

MODELS: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "pre-norm": {"norm_position": "pre"},
    "biases, GELU": {"attention_bias": True, "activation_function": "gelu"},
    "values wider than keys, learned positions": {"d_k": 6, "d_v": 10, "position_embedding": "learned"},
}


def batch(length: int, padded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    input_ids, mask = torch.randint(3, 23, (3, length)), torch.ones(3, length, dtype=torch.long)
    if padded:
        input_ids[1, 2:], mask[1, 2:], input_ids[2, -1:], mask[2, -1:] = 0, 0, 0, 0
    return input_ids, mask


@torch.inference_mode()
def check(model, length: int = 5, padded: bool = True, **tolerance: float) -> None:
    input_ids, mask = batch(length, padded)
    states = LaidOutEncoder(model, mask.numel())(input_ids, mask)
    expected = model.model.encoder(input_ids=input_ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(states[mask.bool()], expected[mask.bool()], **tolerance)


@pytest.mark.parametrize("padded", (False, True), ids=("full", "padded"))
@pytest.mark.parametrize("length", (5, SHORT + 1))
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_the_encoder_computes(make_model, name: str, length: int, padded: bool):
    check(make_model(max_position_embeddings=48, **MODELS[name]).double(), length, padded, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", (5, SHORT + 1))
def test_in_bfloat16(make_model, length: int):
    check(make_model(max_position_embeddings=48, attn_implementation="sdpa").bfloat16(), length, rtol=0.05, atol=0.05)


def test_short_sentences_alone_are_multiplied_out(make_model, monkeypatch):
    multiplied = []
    plain = laid_out_encoder._plain_attention
    monkeypatch.setattr(laid_out_encoder, "_plain_attention", lambda *parts: multiplied.append(1) or plain(*parts))
    model = make_model(max_position_embeddings=48)
    check(model, SHORT + 1)
    assert not multiplied
    check(model, SHORT)
    assert len(multiplied) == 2  # layers


def test_layers_with_hooks_are_called(make_model):
    model, called = make_model(attention_bias=True).double(), set()

    def shift(module, inputs, output):
        called.add(module)
        return output + 0.1

    layer = model.model.encoder.layers[1]
    hooked = {layer.self_attn.k_proj, layer.self_attn.out_proj, layer.feed_forward.fc1, layer.feed_forward.fc2}
    for module in (*hooked, model.model.encoder.embed_tokens):
        module.register_forward_hook(shift)
    check(model, rtol=1e-10, atol=1e-10)
    assert hooked < called


def test_more_positions_than_the_model_has(make_model):
    with pytest.raises(ValueError, match="33 tokens is longer than max_position_embeddings=32"):
        LaidOutEncoder(make_model(), 33)(*batch(33, padded=False))
