"""Sinusoids of section 3.5: golden numbers, since a wrong table still trains well."""

from __future__ import annotations

import math

import pytest
import torch

from vanilla_transformer.modeling.positions import (
    LearnedPositions,
    SinusoidalPositions,
    position_ids_from_mask,
    sinusoid_table,
)


def test_the_golden_row_of_four_dimensions():
    table = sinusoid_table(2, 4)
    assert table[0].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert table[1].tolist() == pytest.approx([0.84147098, 0.54030231, 0.00999983, 0.99995000], abs=6e-8)


@pytest.mark.parametrize("position, dimension", [(7, 0), (7, 1), (100, 254), (100, 255), (1000, 510), (1000, 511)])
def test_every_entry_is_the_formula(position, dimension):
    angle = position / 10000 ** ((dimension - dimension % 2) / 512)
    expected = math.sin(angle) if dimension % 2 == 0 else math.cos(angle)
    assert sinusoid_table(1001, 512)[position, dimension].item() == pytest.approx(expected, abs=1e-7)


def test_the_slowest_frequency_is_the_papers():
    # 10000^(-510/512); tensor2tensor and fairseq divide by d/2 - 1 and end at exactly 1e-4.
    assert sinusoid_table(2, 512)[1, 510].item() == pytest.approx(1.036633e-4, rel=1e-6)


def test_far_positions_are_exact_in_float32():
    assert sinusoid_table(20001, 4)[20000, 0].item() == pytest.approx(math.sin(20000.0), abs=1e-7)


def test_a_shift_is_a_rotation():
    """The paper's reason for sinusoids: PE(pos + k) is a linear function of PE(pos), the same at every pos."""
    table = sinusoid_table(60, 8).double()
    for pair in range(4):
        angle = 5 / 10000 ** (2 * pair / 8)
        rotation = torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64
        )
        two = table[:, 2 * pair : 2 * pair + 2]
        torch.testing.assert_close(two[:-5] @ rotation.T, two[5:], atol=2e-7, rtol=0)


def test_the_module_looks_up_rows_and_has_no_parameters():
    positions = SinusoidalPositions(6, 4)
    assert torch.equal(positions(torch.tensor([[2, 0], [5, 5]])), sinusoid_table(6, 4)[torch.tensor([[2, 0], [5, 5]])])
    assert not list(positions.parameters()) and not positions.state_dict()


def test_learned_positions_are_one_vector_each():
    positions = LearnedPositions(6, 4)
    assert torch.equal(positions(torch.tensor([3, 1])), positions.weight[[3, 1]])
    assert positions.padding_idx is None  # position 0 is no padding


def test_positions_count_tokens_only():
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    assert position_ids_from_mask(mask).tolist() == [[0, 1, 2, 2], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 2, 3]]
