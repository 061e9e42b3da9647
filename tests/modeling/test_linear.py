"""Products by oneDNN: torch's own numbers and gradients, and where they are taken."""

import pytest
import torch
from torch import nn

from vanilla_transformer.modeling import linear as room
from vanilla_transformer.modeling.linear import linear, mkl_is_at_its_best, rows_by_rows, through


@pytest.fixture
def multiplied(monkeypatch) -> list[tuple[int, ...]]:
    """Shapes of what oneDNN multiplied; any number of rows counts as many, on a processor that is not Intel's."""
    shapes, multiply = [], room._multiply
    monkeypatch.setattr(room, "mkl_is_at_its_best", lambda: False)
    monkeypatch.setattr(room, "ONEDNN_PAYS", 5 * 4 * 6 - 1)
    monkeypatch.setattr(room, "_multiply", lambda left, *more: shapes.append(tuple(left.shape)) or multiply(left, *more))
    return shapes


def inputs(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    return torch.randn(5, 2, 4, dtype=dtype, requires_grad=True), nn.Linear(4, 6, dtype=dtype)


@pytest.mark.parametrize("bias", (False, True), ids=("no bias", "bias"))
def test_the_numbers_and_gradients_of_torch(multiplied, bias: bool):
    x, layer = inputs()
    bias_of = layer.bias if bias else None
    wanted = nn.functional.linear(x, layer.weight, bias_of)
    direction = torch.randn_like(wanted)
    parts = (x, layer.weight, layer.bias) if bias else (x, layer.weight)
    wanted_gradients = torch.autograd.grad(wanted, parts, direction)
    found = linear(x, layer.weight, bias_of)
    torch.testing.assert_close(found, wanted)
    for mine, theirs in zip(torch.autograd.grad(found, parts, direction), wanted_gradients, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert multiplied == [(10, 4), (10, 6), (6, 10)]


def test_gradients_of_gradients(multiplied):
    x, layer = inputs()

    def second(product) -> torch.Tensor:
        (first,) = torch.autograd.grad(product(x, layer.weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), layer.weight)[0]

    torch.testing.assert_close(second(linear), second(nn.functional.linear))
    assert multiplied


def test_only_gradients_that_are_asked_for(multiplied):
    x, layer = inputs()
    layer.requires_grad_(False)
    linear(x, layer.weight, layer.bias).sum().backward()
    assert multiplied == [(10, 4), (10, 6)] and layer.weight.grad is None


def test_rows_by_rows(multiplied):
    left, right = torch.randn(8, 4), torch.randn(6, 4)
    torch.testing.assert_close(rows_by_rows(left, right), left @ right.t())
    assert multiplied == [(8, 4)]
    out = torch.empty(2, 6)
    assert rows_by_rows(left[:2], right, out) is out  # too few: torch's own
    torch.testing.assert_close(out, left[:2] @ right.t())
    assert len(multiplied) == 1


@pytest.mark.parametrize("why", ("double", "few", "Intel", "autocast", "no oneDNN", "compiled"))
def test_where_torch_multiplies(multiplied, monkeypatch, why: str):
    x, layer = inputs(torch.float64 if why == "double" else torch.float32)
    if why == "few":
        x = x[:2]
    if why == "Intel":
        monkeypatch.setattr(room, "mkl_is_at_its_best", lambda: True)
    if why == "compiled":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    if why == "no oneDNN":
        monkeypatch.setattr(room, "onednn_multiplies", lambda: False)
    with torch.autocast("cpu", enabled=why == "autocast"):
        found, wanted = linear(x, layer.weight, layer.bias), nn.functional.linear(x, layer.weight, layer.bias)
    assert not multiplied and torch.equal(found, wanted) and found.dtype == wanted.dtype


def test_a_layer_that_does_more_is_called(multiplied):
    x, layer = inputs()
    expected = layer(x)
    torch.testing.assert_close(through(layer, x), expected)
    assert len(multiplied) == 1
    layer.register_forward_hook(lambda module, args, output: output + 1)
    assert torch.equal(through(layer, x), expected + 1) and len(multiplied) == 1


@pytest.mark.parametrize(
    ("described", "best"),
    (({"cpu_name": "Intel Xeon Platinum"}, True), ({"cpu_name": "AMD EPYC"}, False), ({}, True)),
    ids=("Intel", "AMD", "unknown"),
)
def test_where_mkl_is_at_its_best(monkeypatch, described: dict[str, str], best: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: described, raising=False)
    mkl_is_at_its_best.cache_clear()
    assert mkl_is_at_its_best() is best
    mkl_is_at_its_best.cache_clear()


def test_a_model_trains_as_with_torch(make_model, monkeypatch):
    monkeypatch.setattr(room, "ONEDNN_PAYS", 0)
    gradients = {}
    for best in (True, False):
        monkeypatch.setattr(room, "mkl_is_at_its_best", lambda best=best: best)
        model = make_model(attention_bias=True, attn_implementation="sdpa").train()
        ids = torch.arange(3, 21).view(2, 9)
        model(input_ids=ids, labels=ids).loss.backward()
        gradients[best] = {name: parameter.grad for name, parameter in model.named_parameters()}
    for name, wanted in gradients[True].items():
        torch.testing.assert_close(gradients[False][name], wanted, rtol=1e-4, atol=1e-6)
