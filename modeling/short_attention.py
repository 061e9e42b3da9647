"""Attention as plain products of matrices, with its gradient, for short sequences in bfloat16 on a CPU.

torch's CPU kernel of SDPA takes 3 to 9 times as long there, nearly all of it in backward (2.13, docs/experiments.md). In
float32 nothing is gained.

Shapes: B batch, H heads, T queries, L keys, d_k width of queries and keys, d_v of values.
"""

from typing import Any

import torch
from torch import nn

from .masks import look_ahead_mask
from .short_softmax import softmax, softmax_gradient

# Queries x keys up to which this was measured to be faster; beyond, the weights that are kept for backward are large, too.
SHORT = 512 * 512


def is_short(query: torch.Tensor, key: torch.Tensor) -> bool:
    """Whether these, (B, H, T, d_k) and (B, H, L, d_k), are what this file is for."""
    return query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[2] * key.shape[2] <= SHORT


def short_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What SDPA computes: the same arguments and result, and no mask means the same. It drops no attention weights."""
    queries, keys = query.shape[2], key.shape[2]
    if attention_mask is None and getattr(module, "is_causal", False) and queries > 1:
        attention_mask = look_ahead_mask(queries, keys, device=query.device)
    return ShortAttention.apply(query, key, value, attention_mask, scaling).transpose(1, 2), None


class ShortAttention(torch.autograd.Function):
    """P = softmax(scaling Q K^T), O = P V; and with G = dO, P' = G V^T, S' = P * (P' - rowsum(P * P')):

    dV = P^T G, dQ = scaling S' K, dK = scaling S'^T Q.
    """

    @staticmethod
    def forward(ctx, query, key, value, mask, scaling):  # noqa: D102
        shape = query.shape[:2]
        query, key, value = (each.flatten(0, 1) for each in (query, key, value))
        if mask is None:
            scores = torch.bmm(query * scaling, key.mT)  # (B H, T, L)
        else:
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, torch.finfo(query.dtype).min)
            scores = bias.expand(*shape, query.shape[1], key.shape[1]).reshape(-1, query.shape[1], key.shape[1])
            scores = torch.baddbmm(scores, query, key.mT, alpha=scaling)
        weights = softmax(scores)
        if mask is not None and not (sees := mask.any(-1, keepdim=True)).all():
            weights.unflatten(0, shape).masked_fill_(~sees, 0.0)
        ctx.save_for_backward(query, key, value, weights)
        ctx.shape, ctx.scaling = shape, scaling
        return torch.bmm(weights, value).unflatten(0, shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):  # noqa: D102
        query, key, value, weights = ctx.saved_tensors
        gradient = gradient.flatten(0, 1)
        of_weights = torch.bmm(gradient, value.mT)
        of_scores = softmax_gradient(of_weights, weights).mul_(ctx.scaling)
        found = torch.bmm(of_scores, key), torch.bmm(of_scores.mT, query), torch.bmm(weights.mT, gradient)
        return *(each.unflatten(0, ctx.shape) for each in found), None, None
