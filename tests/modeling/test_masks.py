"""The masks, drawn. 1 = may attend."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache, StaticCache

from vanilla_transformer.modeling import VanillaTransformerConfig
from vanilla_transformer.modeling.masks import as_boolean, look_ahead_mask, pad_mask, source_mask, target_mask


def config(implementation: str) -> VanillaTransformerConfig:
    sizes = {"d_model": 8, "num_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 9}
    made = VanillaTransformerConfig(**sizes)
    made._attn_implementation = implementation
    return made


def picture(mask: torch.Tensor | None) -> list[str]:
    """The mask of the first head, a string for each query."""
    assert mask is not None and mask.dtype == torch.bool
    return ["".join("1" if may else "0" for may in row) for row in mask[0, 0].tolist()]


def states(queries: int, batch: int = 1) -> torch.Tensor:
    return torch.zeros(batch, queries, 8)


def filled(cache, tokens: int):
    cache.update(torch.zeros(1, 2, tokens, 4), torch.zeros(1, 2, tokens, 4), 0)
    return cache


def test_pad_mask():
    mask = pad_mask(torch.tensor([[1, 1, 0], [0, 1, 1]]))
    assert mask.shape == (2, 1, 1, 3) and mask.dtype == torch.bool
    assert mask[:, 0, 0].tolist() == [[True, True, False], [False, True, True]]


def test_look_ahead_mask():
    assert picture(look_ahead_mask(4, 4)) == ["1000", "1100", "1110", "1111"]


@pytest.mark.parametrize("past", [3, torch.tensor(3)])
def test_look_ahead_mask_behind_a_cache(past):
    assert picture(look_ahead_mask(2, 5, past)) == ["11110", "11111"]
    assert picture(look_ahead_mask(1, 6, past)) == ["111100"]  # a static cache: two places not yet written


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_target_mask_joins_both(implementation):
    right = target_mask(config(implementation), states(4), torch.tensor([[1, 1, 1, 0]]))
    assert picture(right) == ["1000", "1100", "1110", "1110"]
    left = target_mask(config(implementation), states(4), torch.tensor([[0, 1, 1, 1]]))
    assert picture(left) == ["0000", "0100", "0110", "0111"]


def test_target_mask_without_padding():
    assert target_mask(config("sdpa"), states(4), None) is None  # its causal kernel needs none
    assert target_mask(config("sdpa"), states(4), torch.ones(1, 4)) is None
    assert picture(target_mask(config("eager"), states(3), None)) == ["100", "110", "111"]
    assert picture(target_mask(config("eager"), states(3), torch.ones(1, 3))) == ["100", "110", "111"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_target_mask_behind_a_growing_cache(implementation):
    made = config(implementation)
    cache = filled(DynamicCache(config=made), 2)
    assert picture(target_mask(made, states(3), None, cache)) == ["11100", "11110", "11111"]
    assert picture(target_mask(made, states(2), torch.tensor([[0, 1, 1, 1]]), cache)) == ["0110", "0111"]
    one = target_mask(made, states(1), None, cache)  # a single query sees everything that is there
    assert one is None if implementation == "sdpa" else picture(one) == ["111"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_target_mask_over_a_static_cache(implementation):
    made = config(implementation)
    cache = StaticCache(config=made, max_cache_len=6)
    assert picture(target_mask(made, states(2), None, cache)) in (["10", "11"], ["100000", "110000"])
    cache = filled(cache, 2)
    assert picture(target_mask(made, states(1), None, cache)) == ["111000"]
    assert picture(target_mask(made, states(2), torch.tensor([[0, 1, 1, 1]]), cache)) == ["011000", "011100"]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_source_mask_hides_padding_only(implementation):
    made = config(implementation)
    assert source_mask(made, states(3), None) is None
    assert source_mask(made, states(3), torch.ones(1, 3)) is None
    attention_mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    for keys in (None, states(3, 2)):  # encoder self-attention and cross-attention
        mask = source_mask(made, states(3, 2), attention_mask, keys)
        assert mask is not None and mask.shape == (2, 1, 1, 3)
        assert mask[:, 0, 0].tolist() == [[True, True, False], [False, False, False]]


def test_cross_attention_under_flash_takes_the_boolean_mask():
    # transformers' flash attention would take the lengths of the queries from the source's mask.
    mask = source_mask(config("flash_attention_2"), states(5), torch.tensor([[1, 1, 0]]), states(3))
    assert picture(mask) == ["110"]


def test_masks_made_by_others():
    lowest = torch.finfo(torch.float32).min
    additive = torch.tensor([0.0, -1e4, -1e9, lowest, 2 * lowest, float("-inf")])
    assert as_boolean(additive).tolist() == [True, False, False, False, False, False]
    assert as_boolean(torch.tensor([0.0, torch.finfo(torch.float16).min]).half()).tolist() == [True, False]
    assert as_boolean(torch.tensor([True, False])).tolist() == [True, False]
    assert as_boolean(torch.tensor([1, 0])).tolist() == [True, False]
    four = look_ahead_mask(3, 3)
    assert target_mask(config("sdpa"), states(3), four) is four
    assert source_mask(config("eager"), states(3), four) is four
