"""Our dropout against the definition: shares within five standard deviations, scaling, gradient, seeds."""

from __future__ import annotations

import pytest
import torch

from vanilla_transformer.modeling.dropout import dropout


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.3, 0.5, 0.9])
def test_share_of_zeros(probability):
    torch.manual_seed(0)
    n = 200_003  # not a multiple of the four elements that one random number serves
    share = (dropout(torch.ones(n), probability, True) == 0).double().mean().item()
    assert abs(share - probability) < 5 * (probability * (1 - probability) / n) ** 0.5


def test_what_is_kept_is_scaled():
    torch.manual_seed(0)
    out = dropout(torch.full((1000,), 3.0), 0.25, True)
    assert sorted(out.unique().tolist()) == [0.0, 4.0]
    assert dropout(torch.ones(200_000), 0.1, True).mean().item() == pytest.approx(1.0, abs=0.005)


def test_each_of_the_four_elements_of_a_number_is_drawn_by_itself():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(100_000, 4), 0.3, True) != 0).double()
    assert (kept.mean(0) - 0.7).abs().max() < 0.008
    assert (torch.corrcoef(kept.T) - torch.eye(4)).abs().max() < 0.016  # five deviations of 100,000 draws


def test_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.randn(7, 5, requires_grad=True)
    out = dropout(x, 0.4, True)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, (out != 0).float() / 0.6)
    assert 0 < (out == 0).sum() < 35


def test_identity_in_evaluation_and_at_zero():
    x = torch.randn(5)
    assert dropout(x, 0.5, False) is x
    assert dropout(x, 0.0, True) is x


def test_draws_differ_and_a_seed_repeats_them():
    x = torch.ones(1000)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5, True), dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert not torch.equal(first, second)
    assert torch.equal(first, dropout(x, 0.5, True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (0, 3), (3, 1, 5)])
def test_any_dtype_and_shape(dtype, shape):
    out = dropout(torch.ones(shape, dtype=dtype), 0.5, True)
    assert out.dtype == dtype and out.shape == shape and bool(((out == 0) | (out == 2)).all())


def test_what_is_not_contiguous_keeps_its_places():
    out = dropout(torch.arange(1.0, 13.0).view(3, 4).t(), 0.5, True)
    expected = 2 * torch.arange(1.0, 13.0).view(3, 4).t()
    assert bool(((out == 0) | (out == expected)).all())


def test_nearly_certain_dropout_drops():
    assert (dropout(torch.ones(10_000), 1 - 1e-9, True) != 0).sum() < 10
