"""Layers as plain functions of rows, for a decoder that computes a handful of rows at a time.

Calling a module costs more than a small product: what does nothing else is called without it.
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


def product(layer: nn.Module) -> Rows:
    """Rows (R, in) through a linear layer: (R, out)."""
    return matrix_product(layer.weight, layer.bias) if is_ordinary(layer) else layer  # an adapter, quantised, a hook


def product_added(layer: nn.Module) -> RowsAdded:
    """Rows (R, in) through a linear layer, and added to others (R, out): (rows, others) -> (R, out)."""
    if not is_ordinary(layer):
        return lambda rows, others: others + layer(rows)
    transposed, bias = layer.weight.t(), layer.bias
    if bias is None:
        return lambda rows, others: torch.addmm(others, rows, transposed)
    return lambda rows, others: torch.addmm(others, rows, transposed).add_(bias)


def matrix_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Rows:
    transposed = weight.t()
    if bias is None:
        return lambda rows: torch.mm(rows, transposed)
    return lambda rows: torch.addmm(bias, rows, transposed)


def norm(layer: nn.LayerNorm) -> Rows:
    weight, bias, shape, eps = layer.weight, layer.bias, layer.normalized_shape, layer.eps
    return lambda rows: torch.layer_norm(rows, shape, weight, bias, eps)


def products_by_head(layers: Sequence[nn.Linear], heads: int, scale: float) -> Rows:
    """Rows through several layers at once, the first one's result scaled: (R, in) -> (R, H width).

    A head's parts lie side by side, in the order of the layers; width is that of a head over all of them.
    """
    if not all(map(is_ordinary, layers)):

        def one_by_one(rows: torch.Tensor) -> torch.Tensor:
            first, *others = (layer(rows).unflatten(1, (heads, -1)) for layer in layers)
            return torch.cat([first * scale, *others], dim=2).flatten(1)

        return one_by_one

    def packed(parts: list[torch.Tensor]) -> torch.Tensor:
        by_head = [part.view(heads, -1, *part.shape[1:]) for part in parts]
        whole = torch.cat(by_head, dim=1)
        whole[:, : by_head[0].shape[1]] *= scale
        return whole.flatten(0, 1)

    bias = None if layers[0].bias is None else packed([layer.bias for layer in layers])
    return matrix_product(packed([layer.weight for layer in layers]), bias)
