"""Linear layers of many rows in float32, on processors for which torch's products are not the fastest that it has.

torch multiplies float32 by MKL, which keeps its fastest kernels for Intel's processors; on others those of oneDNN, which torch
has as well, are two to four times as fast (docs/experiments.md).

Shapes: R rows.
"""

# torch types what a layer holds loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportPrivateImportUsage=false

from functools import cache

import torch
from torch import nn

ONEDNN_PAYS = 2**19  # multiplications; for fewer, in float32, a call of oneDNN costs more than it saves


def linear(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """inputs weight^T + bias, as `nn.functional.linear`: (..., in), (out, in) and (out,) -> (..., out)."""
    if not _pays(inputs, weight):
        return nn.functional.linear(inputs, weight, bias)
    return _Linear.apply(inputs.flatten(0, -2), weight, bias).view(*inputs.shape[:-1], len(weight))


def through(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """inputs (..., in) through a linear layer: (..., out)."""
    if is_ordinary(layer) and _pays(inputs, layer.weight):
        return linear(inputs, layer.weight, layer.bias)
    return layer(inputs)


def is_ordinary(layer: nn.Module) -> bool:
    """Whether a layer does nothing but a product with its weight, so that its weight can be used without it."""
    return (
        type(layer) is nn.Linear
        and type(layer.weight) is nn.Parameter  # not split over devices, nor quantised
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )


def rows_by_rows(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """left right^T: (R, in) and (out, in) -> (R, out), which may be written into `out`. Knows no gradient."""
    return _multiply(left, right) if _pays(left, right) else torch.mm(left, right.t(), out=out)


@cache
def mkl_is_at_its_best() -> bool:
    """Whether this is one of Intel's processors, or torch does not say."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "Intel" in known.get("cpu_name", "Intel")


def onednn_multiplies() -> bool:
    """Whether torch has oneDNN's products as an operator of their own."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _pays(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.device.type == "cpu"
        and left.dtype == right.dtype == torch.float32
        and left.numel() * len(right) > ONEDNN_PAYS
        and not mkl_is_at_its_best()
        and onednn_multiplies()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def _multiply(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """Y = X W^T + b; with G = dY: dX = G W, dW = G^T X, db = the sum of G's rows. Each is such a product again."""

    @staticmethod
    def forward(ctx, inputs, weight, bias):  # noqa: D102
        ctx.save_for_backward(inputs, weight)
        return _multiply(inputs, weight, bias)

    @staticmethod
    def backward(ctx, gradient):  # noqa: D102
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _Linear.apply(gradient, weight.t(), None) if needs_inputs else None,
            _Linear.apply(gradient.t(), inputs.t(), None) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )
