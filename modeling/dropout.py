"""Dropout (section 5.4), with masks that cost little to draw."""

import torch
from torch import nn


def dropout(x: torch.Tensor, probability: float, training: bool) -> torch.Tensor:
    """Zero each element with `probability`, and divide the others by 1 - probability. Any shape, same shape.

    On a CPU torch draws one Bernoulli number an element, which took a fifth of a small model's training time. Here one
    64-bit number gives four elements their 16 bits, so the probability is rounded to a multiple of 2^-16.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return nn.functional.dropout(x, probability, training)
    threshold = min(round(probability * 2**16), 2**16 - 1) - 2**15  # 2**15 is no int16: it would keep everything
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    keep = bits.view(torch.int16)[: x.numel()].view(x.shape) >= threshold
    return x * keep.to(x.dtype).mul_(1 / (1 - probability))
