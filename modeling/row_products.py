"""Layers as plain functions of rows, for a decoder that computes a handful of rows at every step.

Calling a module costs more than a small product: what does nothing else is called without it. And on a CPU a product of few
rows spends much of its time on bringing the weight into the order that the kernel reads it in: since the same weights
multiply at every step, they are brought into it once ("packed"; docs/decoding.md says what that is worth).
"""

# torch types what a layer holds loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from .attention import is_ordinary

Rows = Callable[[torch.Tensor], torch.Tensor]
RowsAdded = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def lookup(embedding: nn.Module) -> Rows:
    """Ids (R) to their rows (R, D)."""
    ordinary = type(embedding) is nn.Embedding and not embedding._forward_hooks and not embedding._forward_pre_hooks
    return partial(torch.index_select, embedding.weight, 0) if ordinary else embedding


def norm(layer: nn.LayerNorm) -> Rows:
    """Rows (R, D), normalised."""
    weight, bias, shape, eps = layer.weight, layer.bias, layer.normalized_shape, layer.eps
    return lambda rows: torch.layer_norm(rows, shape, weight, bias, eps)


def product(layer: nn.Module, rows: int = 0) -> Rows:
    """Rows (R, in) through a linear layer: (R, out). `rows`: R of most of many calls; 0 for a single call."""
    return (
        matrix_product(layer.weight, layer.bias, rows) if is_ordinary(layer) else layer
    )  # an adapter, quantised, a hook


def product_added(layer: nn.Module, rows: int) -> RowsAdded:
    """Rows (R, in) through a linear layer, and added to others (R, out): (rows, others) -> (R, out)."""
    if not is_ordinary(layer):
        return lambda inputs, others: others + layer(inputs)
    if _packs(layer.weight, rows):
        multiply = matrix_product(layer.weight, layer.bias, rows)
        return lambda inputs, others: multiply(inputs).add_(others)
    transposed, bias = layer.weight.t(), layer.bias
    if bias is None:
        return lambda inputs, others: torch.addmm(others, inputs, transposed)
    return lambda inputs, others: torch.addmm(others, inputs, transposed).add_(bias)


def products_by_head(layers: Sequence[nn.Linear], heads: int, scale: float, rows: int) -> Rows:
    """Rows through several layers at once, the first one's result scaled: (R, in) -> (R, H width).

    A head's parts lie side by side, in the order of the layers; width is that of a head over all of them.
    """
    if not all(map(is_ordinary, layers)):

        def one_by_one(inputs: torch.Tensor) -> torch.Tensor:
            first, *others = (layer(inputs).unflatten(1, (heads, -1)) for layer in layers)
            return torch.cat([first * scale, *others], dim=2).flatten(1)

        return one_by_one

    def joined(parts: list[torch.Tensor]) -> torch.Tensor:
        by_head = [part.view(heads, -1, *part.shape[1:]) for part in parts]
        whole = torch.cat(by_head, dim=1)
        whole[:, : by_head[0].shape[1]] *= scale
        return whole.flatten(0, 1)

    bias = None if layers[0].bias is None else joined([layer.bias for layer in layers])
    return matrix_product(joined([layer.weight for layer in layers]), bias, rows)


def matrix_product(weight: torch.Tensor, bias: torch.Tensor | None, rows: int = 0) -> Rows:
    """rows @ weight.T + bias. `rows`: as of `product`."""
    if _packs(weight, rows):
        return (_packed_by_mkl if weight.dtype == torch.float32 else _packed_by_onednn)(weight, bias, rows)
    transposed = weight.t()
    if bias is None:
        return lambda inputs: torch.mm(inputs, transposed)
    return lambda inputs: torch.addmm(bias, inputs, transposed)


def _packs(weight: torch.Tensor, rows: int) -> bool:
    """Whether packing this weight pays within an output's steps, and torch's kernels for it are there."""
    if weight.device.type != "cpu":
        return False
    if weight.dtype == torch.float32:
        return rows > 1 and torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")
    return weight.dtype == torch.bfloat16 and rows > 0 and _onednn_has_bfloat16()


def _onednn_has_bfloat16() -> bool:
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _packed_by_mkl(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Rows:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), rows)
    plain = matrix_product(weight, bias)
    # The last argument is the number of rows that are there, not that of the packing: what was packed serves any number.
    # A single row is a product with a vector, which reads the weight once whatever its order.
    return lambda inputs: (
        torch.ops.mkl._mkl_linear(inputs, packed, weight, bias, len(inputs)) if len(inputs) > 1 else plain(inputs)
    )


def _packed_by_onednn(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Rows:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return lambda inputs: torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
