"""A model small enough to be built in every test, with no parameter left at a value that would hide a mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration

MakeModel = Callable[..., Any]


@pytest.fixture
def make_model() -> MakeModel:
    """`make_model(seed=0, kind=class, **config_fields)`: in eval mode, without dropout, unless told otherwise."""

    def make(seed: int = 0, kind: type[Any] = VanillaTransformerForConditionalGeneration, **fields) -> Any:
        sizes = {
            "vocab_size": 23,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "num_attention_heads": 2,
            "d_ff": 24,
            "max_position_embeddings": 32,
            "dropout": 0.0,
        }
        implementation = fields.pop("attn_implementation", "eager")
        torch.manual_seed(seed)
        model = kind(VanillaTransformerConfig(**{**sizes, **fields}))
        model.set_attn_implementation(implementation)
        with torch.no_grad():  # gains of 1 and biases of 0 would make wrong orders look right
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        return model.eval()

    return make
