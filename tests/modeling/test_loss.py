"""Label smoothing: the three targets written out, golden losses, and the fused form against autograd of the plain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vanilla_transformer.modeling.loss import (
    LinearSmoothedCrossEntropy,
    label_smoothed_cross_entropy,
    linear_smoothed_cross_entropy,
    smoothing_weights,
)

KINDS = ("uniform", "fairseq", "joey")
PAD = 0
LOGITS = torch.tensor([0.5, -1.0, 2.0, 0.0, 3.0, 1.0])

# V = 6, epsilon = 0.1, the true class is 2
TARGETS = {
    "uniform": [0.1 / 6, 0.1 / 6, 0.9 + 0.1 / 6, 0.1 / 6, 0.1 / 6, 0.1 / 6],
    "fairseq": [0.02, 0.02, 0.9, 0.02, 0.02, 0.02],
    "joey": [0.0, 0.025, 0.9, 0.025, 0.025, 0.025],
}
GOLDEN = {"uniform": 1.61116858, "fairseq": 1.63283524, "joey": 1.62783524}


@pytest.mark.parametrize("kind", KINDS)
def test_smoothed_targets(kind):
    a, b, c = smoothing_weights(kind, 0.1, 6)
    target = [a * (v == 2) + b + c * (v == PAD) for v in range(6)]
    assert target == pytest.approx(TARGETS[kind], abs=1e-15)
    assert sum(target) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_golden_losses(kind):
    logits, gold = LOGITS[None], torch.tensor([2])
    assert label_smoothed_cross_entropy(logits, gold, 0.1, kind, PAD).item() == pytest.approx(GOLDEN[kind], abs=5e-7)
    assert label_smoothed_cross_entropy(logits, gold, 0.0, kind, PAD).item() == pytest.approx(1.50283524, abs=5e-7)
    layer = nn.Linear(6, 6, bias=False)
    nn.init.eye_(layer.weight)
    fused = linear_smoothed_cross_entropy(logits, layer, gold, 0.1, kind, PAD)
    assert fused.item() == pytest.approx(GOLDEN[kind], abs=5e-7)


def test_uniform_is_torchs():
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 11), torch.randint(11, (3, 5))
    labels[0, 3:] = -100
    options = {"label_smoothing": 0.2, "reduction": "none"}
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), **options)
    torch.testing.assert_close(label_smoothed_cross_entropy(logits, labels, 0.2).flatten(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_logit_is_softmax_minus_target(kind):
    logits = LOGITS.clone().requires_grad_()
    label_smoothed_cross_entropy(logits, torch.tensor(2), 0.1, kind, PAD).backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, LOGITS.softmax(0) - torch.tensor(TARGETS[kind]), atol=1e-6, rtol=0)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="label_smoothing_kind='t2t' must be one of 'uniform', 'fairseq', 'joey'"):
        smoothing_weights("t2t", 0.1, 6)


def material(dtype=torch.float32, ignored: bool = True) -> tuple[torch.Tensor, nn.Linear, torch.Tensor]:
    """hidden (4, 5, D = 8), an output layer to V = 30, labels of which a third are ignored, one whole row too."""
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4, 5, 8, generator=generator).to(dtype).requires_grad_()
    layer = nn.Linear(8, 30, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(30, 8, generator=generator))
    labels = torch.randint(1, 30, (4, 5), generator=generator)
    if ignored:
        labels[1, 3:], labels[2] = -100, -100
    return hidden, layer.to(dtype), labels


def with_gradients(loss: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    """The loss and its gradients. The factor shows whether the incoming gradient is used."""
    return [loss.detach(), *torch.autograd.grad(loss * 0.37, tensors)]


@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_fused_is_plain(kind, epsilon, ignored):
    hidden, layer, labels = material(ignored=ignored)
    plain = label_smoothed_cross_entropy(layer(hidden), labels, epsilon, kind, PAD).sum()
    fused = linear_smoothed_cross_entropy(hidden, layer, labels, epsilon, kind, PAD)
    assert fused.dtype == torch.float32 and fused.shape == ()
    expected, actual = with_gradients(plain, hidden, layer.weight), with_gradients(fused, hidden, layer.weight)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_change_nothing_and_ignored_rows_may_be_inside(kind, chunk):
    """What a GPU does: there ignored rows are not taken out beforehand."""
    hidden, layer, labels = material()
    plain = label_smoothed_cross_entropy(layer(hidden), labels, 0.1, kind, PAD).sum()
    fused = LinearSmoothedCrossEntropy.apply(
        hidden.flatten(0, 1), layer.weight, labels.flatten(), 0.1, kind, PAD, torch.float32, chunk
    )
    expected, actual = with_gradients(plain, hidden, layer.weight), with_gradients(fused, hidden, layer.weight)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(actual[1][2], torch.zeros(5, 8))  # the row that is ignored


@pytest.mark.parametrize("kind", KINDS)
def test_fused_under_autocast_is_float32_and_near(kind):
    """bfloat16 has 8 bits, a relative error of 2^-9 an operand: the loss within 0.5 %, gradients within 2 %."""
    hidden, layer, labels = material()
    exact = with_gradients(
        label_smoothed_cross_entropy(layer(hidden), labels, 0.1, kind, PAD).sum(), hidden, layer.weight
    )
    with torch.autocast("cpu", torch.bfloat16):
        fused = linear_smoothed_cross_entropy(hidden, layer, labels, 0.1, kind, PAD)
    loss, *gradients = with_gradients(fused, hidden, layer.weight)
    assert loss.dtype == torch.float32
    assert loss != loss.bfloat16()  # no number of 8 bits in disguise
    assert loss.item() == pytest.approx(exact[0].item(), rel=5e-3)
    for gradient, reference in zip(gradients, exact[1:], strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).norm() < 0.02 * reference.norm()


def test_fused_of_bfloat16_tensors():
    hidden, layer, labels = material(torch.bfloat16)
    loss = linear_smoothed_cross_entropy(hidden, layer, labels, 0.1)
    gradients = torch.autograd.grad(loss, (hidden, layer.weight))
    assert loss.dtype == torch.float32 and all(gradient.dtype == torch.bfloat16 for gradient in gradients)
    expected = label_smoothed_cross_entropy(hidden.float() @ layer.weight.float().T, labels, 0.1).sum()
    assert loss.item() == pytest.approx(expected.item(), rel=5e-3)


@pytest.mark.parametrize("frozen", ["matrix", "hidden", "both"])
def test_fused_when_something_is_frozen(frozen):
    hidden, layer, labels = material()
    plain = label_smoothed_cross_entropy(layer(hidden), labels, 0.1, "joey", PAD).sum()
    expected = dict(zip(("hidden", "matrix"), torch.autograd.grad(plain, (hidden, layer.weight)), strict=True))
    if frozen in ("matrix", "both"):
        layer.weight.requires_grad_(False)
    if frozen in ("hidden", "both"):
        hidden = hidden.detach()
    fused = linear_smoothed_cross_entropy(hidden, layer, labels, 0.1, "joey", PAD)
    torch.testing.assert_close(fused, plain)
    assert fused.requires_grad == (frozen != "both")
    if frozen == "matrix":
        torch.testing.assert_close(torch.autograd.grad(fused, hidden)[0], expected["hidden"], atol=1e-5, rtol=1e-5)
    if frozen == "hidden":
        actual = torch.autograd.grad(fused, layer.weight)[0]
        torch.testing.assert_close(actual, expected["matrix"], atol=1e-5, rtol=1e-5)


def test_nothing_but_ignored_positions_is_a_loss_of_zero():
    hidden, layer, labels = material()
    loss = linear_smoothed_cross_entropy(hidden, layer, torch.full_like(labels, -100), 0.1)
    assert loss.item() == 0.0
    assert torch.equal(torch.autograd.grad(loss, hidden)[0], torch.zeros_like(hidden))


def test_large_logits_do_not_overflow():
    loss = label_smoothed_cross_entropy(torch.tensor([[3e4, -3e4]]), torch.tensor([0]), 0.1)
    assert loss.item() == pytest.approx(3000.0)  # 0.05 of the mass on a class 60,000 nats away
