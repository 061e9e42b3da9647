"""A translator with random weights, for what does not hang on them."""

from __future__ import annotations

import pytest

from vanilla_transformer.modeling import Translator


@pytest.fixture(scope="session")
def tiny_translator() -> Translator:
    """d 16, 1+2 layers, 290 tokens, the tag >>de<<, at most 24 tokens."""
    import torch

    from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
    from vanilla_transformer.tokenization import learn_vocabulary

    lines = ["A man sleeps on a bench.", "Two dogs run over the grass.", "Ein Mann schläft.", "Zwei Hunde rennen."]
    tokenizer = learn_vocabulary(lines * 2, 300, languages=["de"])
    torch.manual_seed(0)
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        d_ff=32,
        max_position_embeddings=24,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    return Translator(VanillaTransformerForConditionalGeneration(config).eval(), tokenizer)
