"""Layers as plain functions of rows, for a decoder that computes a handful of rows at every step.

Calling a module costs more than a small product: what does nothing else is called without it. And on a CPU a product of few
rows spends much of its time on bringing the weight into the order that the kernel reads it in: since the same weights
multiply at every step, they are brought into it once ("packed"; docs/decoding.md says what that is worth).
"""

# torch types what a layer holds loosely.
# pyright: reportArgumentType=false, reportCallIssue=false, reportOptionalOperand=false

from collections.abc import Callable, Sequence
from functools import cache, partial

import torch
from torch import nn

from .attention import is_ordinary

Rows = Callable[[torch.Tensor], torch.Tensor]
RowsAdded = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

ONEDNN_PAYS = 2**19  # multiplications; for fewer, in float32, a call of oneDNN costs more than it saves


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
    # Not ordinary: an adapter, quantised, a hook.
    return matrix_product(layer.weight, layer.bias, rows) if is_ordinary(layer) else layer


def product_added(layer: nn.Module, rows: int) -> RowsAdded:
    """Rows (R, in) through a linear layer, and added to others (R, out): (rows, others) -> (R, out)."""
    if not is_ordinary(layer):
        return lambda inputs, others: others + layer(inputs)
    transposed, bias = layer.weight.t(), layer.bias

    def plain(inputs: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        added = torch.addmm(others, inputs, transposed)
        return added if bias is None else added.add_(bias)

    packed, least = _packed(layer.weight, bias, rows)
    if packed is None:
        return plain
    return lambda inputs, others: packed(inputs).add_(others) if len(inputs) >= least else plain(inputs, others)


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
    transposed = weight.t()

    def plain(inputs: torch.Tensor) -> torch.Tensor:
        return torch.mm(inputs, transposed) if bias is None else torch.addmm(bias, inputs, transposed)

    packed, least = _packed(weight, bias, rows)
    if packed is None:
        return plain
    return lambda inputs: packed(inputs) if len(inputs) >= least else plain(inputs)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> tuple[Rows | None, int]:
    """A product with this weight packed, and of how many rows it pays; None where it does not, or torch has no kernel."""
    if not rows or weight.device.type != "cpu":
        return None, 0
    if weight.dtype == torch.bfloat16:
        pack, least = _pack_by_onednn if _onednn_has_bfloat16() else None, 1
    elif weight.dtype != torch.float32:
        pack, least = None, 0
    elif _mkl_is_at_its_best():
        # A single row is a product with a vector, which reads the weight once whatever its order.
        pack, least = _pack_by_mkl if _mkl_packs() else None, 2
    else:
        pack, least = _pack_by_onednn if _onednn_packs() else None, ONEDNN_PAYS // weight.numel() + 1
    if pack is None or rows == 1 < least:
        return None, 0
    return pack(weight, bias, rows), least


@cache
def _mkl_is_at_its_best() -> bool:
    """torch multiplies float32 by MKL, which keeps its fastest kernels for Intel's processors."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return "Intel" in known.get("cpu_name", "Intel")


def _mkl_packs() -> bool:
    return torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear")


def _onednn_packs() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn_has_bfloat16() -> bool:
    return _onednn_packs() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _pack_by_mkl(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Rows:
    packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.detach(), rows)
    # The last argument is the number of rows that are there, not that of the packing: what was packed serves any number.
    return lambda inputs: torch.ops.mkl._mkl_linear(inputs, packed, weight, bias, len(inputs))


def _pack_by_onednn(weight: torch.Tensor, bias: torch.Tensor | None, rows: int) -> Rows:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)

    def multiply(inputs: torch.Tensor) -> torch.Tensor:
        R = len(inputs)
        full = _rounded_up(R)
        if full != R:
            filled = inputs.new_zeros(full, inputs.shape[1])
            filled[:R] = inputs
            inputs = filled
        return torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")[:R]

    return multiply


def _rounded_up(rows: int) -> int:
    """To one of four numbers between two powers of two.

    oneDNN writes a kernel for every number of rows and keeps it: over batches of any size memory grew, to twice what it had been
    in 160 of them, and the writing took as long as was saved (docs/experiments.md).
    """
    step = max(1, 2 ** (rows.bit_length() - 3))
    return -(-rows // step) * step
