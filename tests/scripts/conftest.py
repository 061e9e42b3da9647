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
def tiny_model_dir(make_translator, tmp_path_factory) -> Path:
    """A folder as training leaves it: d 16, 1+1 layers, 300 tokens, the tag >>de<<, at most 24 tokens."""
    translator = make_translator(decoder_layers=1)
    folder = tmp_path_factory.mktemp("model")
    translator.model.save_pretrained(folder)
    translator.tokenizer.save_pretrained(folder)
    return folder
