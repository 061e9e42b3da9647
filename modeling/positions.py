"""Positions, added to the embeddings below the first layer of both stacks (section 3.5).

Shapes: B batch, T length, D d_model, P max_position_embeddings.
"""

import torch
from torch import nn


def sinusoid_table(positions: int, d_model: int) -> torch.Tensor:
    """Section 3.5: PE(pos, 2i) = sin(pos / 10000^(2i / D)) and PE(pos, 2i + 1) = cos(the same), interleaved.

    Other toolkits put all sines before all cosines, and some use other frequencies: their checkpoints are silently
    wrong with this table, and this one's with theirs.

    Returns:
        float32 (positions, d_model), computed in float64: at position 1000 a float32 angle is already 3e-5 off.
    """
    frequencies = 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1).float()


class SinusoidalPositions(nn.Module):
    """The fixed table. It is not part of a checkpoint; `_init_weights` of the model fills it again after loading."""

    def __init__(self, max_positions: int, d_model: int):
        super().__init__()
        self.table: torch.Tensor
        self.register_buffer("table", sinusoid_table(max_positions, d_model), persistent=False)

    def forward(self, position_ids: torch.Tensor) -> torch.Tensor:
        """(T,) or (B, T) -> (T, D) or (B, T, D)."""
        return nn.functional.embedding(position_ids, self.table)


class LearnedPositions(nn.Embedding):
    """Row E of Table 3: one trained vector for each position. Same call as the sinusoids."""


def position_ids_from_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions that count tokens only, so that padding on the left moves nothing: (B, T) of 0/1 -> (B, T)."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
