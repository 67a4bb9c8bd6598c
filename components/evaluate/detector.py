"""A detector on a plain ViT: pyramid of features, region proposals, and heads of `cascade.py`.

Two pyramids from the one grid of a ViT, which has patches of 8, 14, 16 or 32 pixels:

- `taps` (iBOT, arXiv:2111.07832, appendix; 49.4 box AP with ViT-S/16): four blocks give the strides 4, 8, 16, 32 by
  deconvolution, as they are, or by pooling; a feature pyramid network joins them from coarse to fine.
- `last` (ViTDet, arXiv:2203.16527, section 3): all strides from the last block, each on its own.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from components.evaluate.cascade import CascadeHeads, Detections, Losses, RoiOptions, Target, in_bfloat16

TARGET_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class PyramidOptions:
    """See the task's parameters of the same names."""

    pyramid: str
    tap_blocks: Sequence[int] | None
    tap_norm: bool
    channels: int


@dataclass(frozen=True)
class RpnOptions:
    """See the task's parameters of the same names; pairs are for training and for testing."""

    anchor_scale: float
    anchor_ratios: Sequence[float]
    rpn_iou: tuple[float, float]
    rpn_samples: int
    rpn_before_nms: tuple[int, int]
    rpn_after_nms: tuple[int, int]
    rpn_nms_iou: float


def pyramid_factors(patch_px: int) -> list[float]:
    """By what each of the four maps is enlarged (2, 4, 8) or pooled (1/2, 1/4): 4, 2, 1, 1/2 for patches of 16.

    Patches of 14 are treated as those of 16: their maps have strides 3.5, 7, 14, 28.
    """
    nominal = 2 ** round(math.log2(patch_px))
    return [nominal / target for target in TARGET_STRIDES]


def default_taps(depth: int) -> list[int]:
    """Blocks, from 0, after a third, half, two thirds and all of the network: 3, 5, 7, 11 of 12."""
    return [max(1, round(depth * share)) - 1 for share in (1 / 3, 1 / 2, 2 / 3, 1)]


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> maps "0", "1", "2", "3", "pool" of `channels` each; H and W multiples of `multiple`.

    Attributes:
        strides: pixels between neighbours in each of the five maps; may be fractional.
        multiple: of this many pixels the sides must be, so that every map covers the picture whole.
    """

    def __init__(self, vit: Any, how: PyramidOptions) -> None:
        super().__init__()
        patch, dim = vit.feature_info[-1]["reduction"], vit.embed_dim
        factors = pyramid_factors(patch)
        self.vit, self.norm = vit, how.tap_norm
        taps = list(how.tap_blocks or default_taps(len(vit.blocks)))
        self.taps = taps if how.pyramid == "taps" else [len(vit.blocks) - 1] * 4
        self.strides = [patch / factor for factor in factors]
        self.strides.append(2 * self.strides[-1])
        self.multiple = math.ceil(self.strides[3])
        if how.pyramid == "taps":
            self.scales = nn.ModuleList(_scale(dim, factor) for factor in factors)
            self.neck: nn.Module = FeaturePyramidNetwork([dim] * 4, how.channels, LastLevelMaxPool())
        else:
            scales = [_scale_and_narrow(dim, factor) for factor in factors]
            self.scales = nn.ModuleList(scale for scale, _ in scales)
            self.neck = SimpleNeck([width for _, width in scales], how.channels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        blocks = sorted(set(self.taps))
        inner = self.vit.forward_intermediates(images, indices=blocks, norm=self.norm, intermediates_only=True)
        by_block = dict(zip(blocks, inner, strict=True))
        scaled = [scale(by_block[block]) for block, scale in zip(self.taps, self.scales, strict=True)]
        return self.neck(OrderedDict((str(level), features) for level, features in enumerate(scaled)))


class SimpleNeck(nn.Module):
    """ViTDet's: a 1x1 and a 3x3 convolution on each map, each with a norm; the fifth map is the fourth, thinned."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, channels, 1, bias=False),
                ChannelNorm(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for width in widths
        )

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        found = OrderedDict((name, conv(x)) for conv, (name, x) in zip(self.convs, maps.items(), strict=True))
        found["pool"] = F.max_pool2d(found["3"], kernel_size=1, stride=2)
        return found


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _scale(dim: int, factor: float) -> nn.Module:
    """iBOT's: deconvolutions that keep the width, with a batch norm and GELU between two of them; max pooling."""
    if factor <= 1:
        return nn.Identity() if factor == 1 else nn.MaxPool2d(round(1 / factor), round(1 / factor))
    layers: list[nn.Module] = []
    for _ in range(round(math.log2(factor))):
        layers += [nn.BatchNorm2d(dim), nn.GELU()] if layers else []
        layers.append(nn.ConvTranspose2d(dim, dim, 2, 2))
    return nn.Sequential(*layers)


def _scale_and_narrow(dim: int, factor: float) -> tuple[nn.Module, int]:
    """ViTDet's: each deconvolution halves the width, with a layer norm and GELU between two; and the last width."""
    if factor <= 1:
        return _scale(dim, factor), dim
    layers: list[nn.Module] = []
    for _ in range(round(math.log2(factor))):
        layers += [ChannelNorm(dim), nn.GELU()] if layers else []
        layers.append(nn.ConvTranspose2d(dim, dim // 2, 2, 2))
        dim //= 2
    return nn.Sequential(*layers), dim


class Anchors(AnchorGenerator):
    """Anchors at true strides, also fractional ones, which torchvision's rounds down."""

    def __init__(self, strides: Sequence[float], scale: float, ratios: Sequence[float]) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), (tuple(ratios),) * len(strides))
        self.strides = strides

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        x = feature_maps[0]
        self.set_cell_anchors(x.dtype, x.device)
        steps = [[torch.tensor(stride, dtype=x.dtype, device=x.device)] * 2 for stride in self.strides]
        every = torch.cat(self.grid_anchors([tuple(m.shape[-2:]) for m in feature_maps], steps))
        return [every] * len(image_list.image_sizes)


def make_rpn(channels: int, strides: Sequence[float], how: RpnOptions) -> RegionProposalNetwork:
    """torchvision's region proposal network."""
    anchors = Anchors(strides, how.anchor_scale, how.anchor_ratios)
    return RegionProposalNetwork(
        anchors,
        RPNHead(channels, anchors.num_anchors_per_location()[0]),
        *how.rpn_iou,
        how.rpn_samples,
        0.5,
        dict(zip(("training", "testing"), how.rpn_before_nms, strict=True)),
        dict(zip(("training", "testing"), how.rpn_after_nms, strict=True)),
        how.rpn_nms_iou,
    )


class Detector(nn.Module):
    """Cascade Mask R-CNN, or with one stage Mask R-CNN, on a timm ViT.

    `half` computes backbone, pyramid and heads in bfloat16 on a GPU; proposals, matching and losses stay in float32.
    """

    def __init__(
        self, vit: Any, n_classes: int, pyramid: PyramidOptions, rpn: RpnOptions, roi: RoiOptions, half: bool = False
    ) -> None:
        super().__init__()
        self.backbone = Backbone(vit, pyramid)
        self.rpn = make_rpn(pyramid.channels, self.backbone.strides, rpn)
        self.heads = CascadeHeads(pyramid.channels, n_classes, self.backbone.strides[:4], roi, half)
        self.in_half = half

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Pyramid in float32."""
        with in_bfloat16(images, self.in_half):
            return OrderedDict((name, x.float()) for name, x in self.backbone(images).items())

    def losses(self, images: Tensor, sizes: list[tuple[int, int]], targets: list[Target]) -> Losses:
        """Loss terms of a batch (B, 3, H, W), each picture padded right and below from its size (height, width)."""
        maps = self.maps(images)
        boxes = [{"boxes": target.boxes} for target in targets]
        proposals, losses = self.rpn(ImageList(images, sizes), maps, boxes)
        return {**losses, **self.heads.losses(list(maps.values())[:4], proposals, sizes, targets)}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        """What is seen in each picture, in its own pixels of this size."""
        maps = self.maps(images)
        proposals, _ = self.rpn(ImageList(images, sizes), maps)
        return self.heads.detect(list(maps.values())[:4], proposals, sizes)
