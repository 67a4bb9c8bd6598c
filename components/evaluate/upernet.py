"""UperNet on a plain ViT: a pyramid from four of its blocks, pooled context, top-down sums, one classifier.

Xiao et al., "Unified perceptual parsing for scene understanding" (arXiv:1807.10221), as BEiT (arXiv:2106.08254) and
iBOT (arXiv:2111.07832) put it on a ViT, with an auxiliary FCN head on the third tap. Sizes are for a grid h x w.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from components.common.vit import TimmModel
from components.evaluate.resampling import pool, upsample
from components.evaluate.taps import tap_maps

POOL_BINS = (1, 2, 3, 6)
AUX_TAP = 2  # of the four, counted from 0


class Pyramid(nn.Module):
    """Four taps (B, D, h, w) to maps of 4h, 2h, h and h/2 (rounded down), all of D channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.four_times = nn.Sequential(double(dim), nn.BatchNorm2d(dim), nn.GELU(), double(dim))
        self.twice = double(dim)
        self.halved = nn.MaxPool2d(2)

    def forward(self, taps: list[Tensor]) -> list[Tensor]:
        return [self.four_times(taps[0]), self.twice(taps[1]), taps[2], self.halved(taps[3])]


class UperHead(nn.Module):
    """Pyramid pooling on the coarsest map, lateral 1x1 and top-down sums, all levels fused at the finest.

    Args:
        dim: channels of each of the four maps.
        channels: channels inside.
        n_classes: classes.
        dropout: share of channels dropped before the classifier.
    """

    def __init__(self, dim: int, channels: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.pooled = nn.ModuleList(conv(dim, channels, 1) for _ in POOL_BINS)
        self.context = conv(dim + len(POOL_BINS) * channels, channels, 3)
        self.laterals = nn.ModuleList(conv(dim, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(conv(channels, channels, 3) for _ in range(3))
        self.fuse = conv(4 * channels, channels, 3)
        self.classify = classifier(channels, n_classes, dropout)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps from fine to coarse -> class scores (B, C, H, W) of the finest one's size."""
        levels = [lateral(level) for lateral, level in zip(self.laterals, maps[:3], strict=True)]
        levels.append(self._context(maps[3]))
        for i in (2, 1, 0):
            levels[i] = levels[i] + upsample(levels[i + 1], size_of(levels[i]))
        fine = [smooth(level) for smooth, level in zip(self.smooth, levels[:3], strict=True)]
        whole = [upsample(level, size_of(fine[0])) for level in [*fine, levels[3]]]
        return self.classify(self.fuse(torch.cat(whole, dim=1)))

    def _context(self, coarse: Tensor) -> Tensor:
        parts = [upsample(one(pool(coarse, b)), size_of(coarse)) for one, b in zip(self.pooled, POOL_BINS, strict=True)]
        return self.context(torch.cat([coarse, *parts], dim=1))


class UperNet(nn.Module):
    """Pyramid, head and auxiliary head over the taps of a backbone, which the caller runs.

    Args:
        dim: channels D of the taps.
        channels, aux_channels: channels inside the head and the auxiliary head.
        n_classes, dropout: see `UperHead`.
    """

    def __init__(self, dim: int, channels: int, aux_channels: int, n_classes: int, dropout: float) -> None:
        super().__init__()
        self.pyramid = Pyramid(dim)
        self.head = UperHead(dim, channels, n_classes, dropout)
        self.aux = nn.Sequential(conv(dim, aux_channels, 3), classifier(aux_channels, n_classes, dropout))

    def forward(self, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Four taps (B, D, h, w) -> class scores (B, C, 4h, 4w), and the auxiliary ones (B, C, h, w)."""
        maps = self.pyramid(taps)
        return self.head(maps), self.aux(maps[AUX_TAP])


def double(dim: int) -> nn.ConvTranspose2d:
    """Twice the size by a learnt 2x2 transposed convolution."""
    return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)


def conv(n_in: int, n_out: int, kernel: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU; Kaiming normal start (mode fan_out)."""
    layer = nn.Conv2d(n_in, n_out, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(n_out), nn.ReLU())


def classifier(dim: int, n_classes: int, dropout: float) -> nn.Sequential:
    """Channel dropout and a 1x1 convolution that starts at a normal of std 0.01 without bias."""
    layer = nn.Conv2d(dim, n_classes, 1)
    nn.init.normal_(layer.weight, std=0.01)
    layer.bias = nn.Parameter(torch.zeros(n_classes))
    return nn.Sequential(nn.Dropout2d(dropout), layer)


def size_of(maps: Tensor) -> tuple[int, int]:
    """(h, w) of (B, C, h, w)."""
    return maps.shape[2], maps.shape[3]


class Segmenter(nn.Module):
    """A ViT (`backbone`, which the layer-wise rates go by) and a head over some of its blocks.

    Args:
        backbone: timm ViT.
        blocks: whose outputs the head reads, from 0.
        norm: take them through the ViT's final norm.
        head: maps (B, D, h, w) of these blocks -> whatever it gives.
    """

    def __init__(self, backbone: TimmModel, blocks: list[int], norm: bool, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.blocks, self.norm, self.head = backbone, blocks, norm, head

    def forward(self, images: Tensor) -> Any:
        return self.head(tap_maps(self.backbone, images, self.blocks, self.norm))
