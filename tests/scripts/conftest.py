"""A model that is on disk: random, tiny, with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_sizes() -> list[str]:
    """Flags of a model that is trained in milliseconds."""
    sizes = {"d-model": 16, "encoder-layers": 1, "decoder-layers": 1, "num-attention-heads": 2, "d-ff": 32}
    return [part for name, size in sizes.items() for part in (f"--{name}", str(size))]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory) -> Path:
    """A folder as training leaves it: d 16, 1+1 layers, 300 tokens, the tag >>de<<, at most 24 tokens."""
    import torch

    from vanilla_transformer.modeling import VanillaTransformerConfig, VanillaTransformerForConditionalGeneration
    from vanilla_transformer.tokenization import learn_vocabulary

    lines = ["A man sleeps on a bench.", "Two dogs run over the grass.", "Ein Mann schläft.", "Zwei Hunde rennen."]
    tokenizer = learn_vocabulary(lines * 2, 300, languages=["de"])
    config = VanillaTransformerConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        num_attention_heads=2,
        d_ff=32,
        max_position_embeddings=24,
        share_embeddings="none",
        tie_word_embeddings=False,
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    model = VanillaTransformerForConditionalGeneration(config)
    # Drawn here, so that what the tests need of the weights does not hang on how a model begins.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() == 2:
                weight.normal_(std=0.5, generator=generator)
        model.lm_head.weight[2] *= 3  # some outputs end by themselves, some are cut
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
