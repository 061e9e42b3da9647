"""A translator with random weights, for what does not hang on them; and models whose weights hide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vanilla_transformer.modeling import (
    Translator,
    VanillaTransformerConfig,
    VanillaTransformerForConditionalGeneration,
)


@pytest.fixture(scope="session")
def tiny_translator(make_translator) -> Translator:
    """d 16, 1+2 layers, 290 tokens, the tag >>de<<, at most 24 tokens."""
    return make_translator(std=None)


@pytest.fixture(scope="session")
def make_noisy_model(tiny_translator) -> Callable[..., Any]:
    """`make_noisy_model(noise=0.3, seed=0, **config_fields)`, for the tokenizer of `tiny_translator`.

    Weights are so large, and norms so far from 1 and 0, that attention looks somewhere, outputs hang on the source, and nothing
    can hide. Unless told otherwise d 16, 2+2 layers, at most 24 tokens.
    """

    def make(noise: float = 0.3, seed: int = 0, **fields: Any) -> Any:
        sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "num_attention_heads": 2, "d_ff": 24}
        others = {"vocab_size": len(tiny_translator.tokenizer), "max_position_embeddings": 24}
        torch.manual_seed(seed)
        model = VanillaTransformerForConditionalGeneration(VanillaTransformerConfig(**{**sizes, **others, **fields}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * noise)
        return model.eval()

    return make
