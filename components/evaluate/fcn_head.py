"""The small convolutional head of Leopart's evaluation (arXiv:2204.13101), after FCN (arXiv:1411.4038)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.evaluate.seeds import torch_seeded


class FCNHead(nn.Module):
    """Two 3x3 convolutions, their input beside their output through a third, channel dropout, a 1x1 classifier.

    Args:
        dim: channels of the features.
        channels: channels of the three convolutions, each followed by ReLU.
        n_classes: classes.
        dropout: share of channels dropped before the classifier.
        seed: of the start; convolutions Kaiming normal (fan_out) without bias, the classifier PyTorch's own.
    """

    def __init__(self, dim: int, channels: int, n_classes: int, dropout: float, seed: int) -> None:
        super().__init__()
        with torch_seeded("cpu", seed, 5):
            self.convs = nn.Sequential(_conv(dim, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU())
            self.join = nn.Sequential(_conv(dim + channels, channels), nn.ReLU())
            self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(channels, n_classes, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) -> class scores (B, C, h, w)."""
        return self.classify(self.join(torch.cat([maps, self.convs(maps)], dim=1)))


def _conv(n_in: int, n_out: int) -> nn.Conv2d:
    layer = nn.Conv2d(n_in, n_out, 3, padding=1)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    layer.bias = nn.Parameter(torch.zeros(n_out))
    return layer
