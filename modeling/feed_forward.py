"""The position-wise feed-forward network (section 3.3)."""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_vanilla_transformer import VanillaTransformerConfig
from .dropout import dropout


class FeedForward(nn.Module):
    """Equation 2: FFN(x) = max(0, x W_1 + b_1) W_2 + b_2, the same at every position, different in every layer."""

    def __init__(self, config: VanillaTransformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_ff)
        self.fc2 = nn.Linear(config.d_ff, config.d_model)
        self.activation = ACT2FN[config.activation_function]
        self.activation_dropout = config.activation_dropout

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, T, D)."""
        inner = self.activation(self.fc1(hidden_states))  # (B, T, F)
        inner = dropout(inner, self.activation_dropout, self.training)
        return self.fc2(inner)
