"""The softmax of short rows on a CPU, and its gradient.

torch's vectorised kernels work on 16 float32 or 32 bfloat16 at once and take a shorter row's elements one by one: a row of 15
takes thirteen times as long as one of 16 (2.13, docs/experiments.md). Sentences are short: these are most rows of
attention. Written out, every operation runs over all rows at once.
"""

import torch

FEW = 512  # scores: below, the calls of torch take more time than what they compute


def softmax(scores: torch.Tensor) -> torch.Tensor:
    """Over the last dimension. May write into its argument. A row of -inf alone gives NaN, as in torch."""
    if not _is_short(scores):
        return scores.softmax(-1)
    weights = scores.float() if scores.dtype == torch.bfloat16 else scores
    weights = weights.sub_(weights.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True)).to(scores.dtype)


def softmax_gradient(of_weights: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of the scores: P * (P' - rowsum(P * P')), given P' and P. May write into P'."""
    if not _is_short(weights):
        return torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
    product = of_weights.mul_(weights)
    return product.sub_(weights * product.sum(-1, keepdim=True))


def _is_short(rows: torch.Tensor) -> bool:
    width = 32 if rows.dtype == torch.bfloat16 else 16
    return rows.shape[-1] < width and rows.device.type == "cpu" and rows.numel() >= FEW
