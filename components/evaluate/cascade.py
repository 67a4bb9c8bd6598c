"""Heads on regions: Cascade R-CNN with masks (arXiv:1712.00726, 1906.09756), and with one stage Mask R-CNN.

Each stage classifies and refines boxes that the stage before it left, and counts as an object only what overlaps one
by a larger IoU. As iBOT's configuration has it: box heads of four convolutions and a linear layer, GIoU on decoded
boxes over all sampled regions, a regressor of its own for each class, a mask head in every stage; when testing,
class scores before the softmax and mask probabilities are averaged over the stages. Class 0 is the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, generalized_box_iou_loss, roi_align

Losses = dict[str, Tensor]
Size = tuple[int, int]
BOX_CELLS, MASK_CELLS = 7, 14  # side of a region's features for boxes and for masks; a mask has 28
CANONICAL_PX = 56  # a region of this side and less than its double is read from the finest map (FPN, arXiv:1612.03144)


@dataclass(frozen=True)
class Target:
    """Objects of one picture: boxes (n, 4) in its pixels, labels (n,) from 1, masks (n, H, W) uint8."""

    boxes: Tensor
    labels: Tensor
    masks: Tensor


@dataclass(frozen=True)
class Detections:
    """Found in one picture: boxes (n, 4), labels (n,) from 1, scores (n,), masks (n, 28, 28) in 0..1 inside the box."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor


@dataclass(frozen=True)
class RoiOptions:
    """See the task's parameters of the same names; the stages' lists are of equal length."""

    stage_iou: Sequence[float]
    stage_weight: Sequence[float]
    stage_std: Sequence[Sequence[float]]
    roi_samples: int
    positive_share: float
    box_convs: int
    box_fc: int
    mask_convs: int
    class_agnostic: bool
    giou_weight: float
    average: str
    score_threshold: float
    nms_iou: float
    detections: int


@dataclass(frozen=True)
class Sampled:
    """Regions of one picture that a stage learns from.

    Attributes:
        boxes: (k, 4).
        labels: (k,), 0 for the ground.
        matched: (k,), number of the object each overlaps most; any number for the ground.
        given: bool (k,), which of them are the objects' own boxes.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    given: Tensor


def in_bfloat16(x: Tensor, wanted: bool) -> torch.autocast:
    """Where it is wanted and `x` lies on a GPU, what follows computes in bfloat16."""
    return torch.autocast(x.device.type, torch.bfloat16, enabled=wanted and x.is_cuda)


def conv3(inside: int, outside: int, norm: bool) -> nn.Sequential:
    """3x3 convolution, batch norm if asked for, ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(inside, outside, 3, padding=1, bias=not norm)]
    return nn.Sequential(*layers, *([nn.BatchNorm2d(outside)] if norm else []), nn.ReLU())


class BoxHead(nn.Module):
    """(k, C, 7, 7) -> class scores (k, n_classes + 1) and box codes (k, 4 n_classes), or (k, 4) for all classes."""

    def __init__(self, channels: int, n_classes: int, how: RoiOptions) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(conv3(channels, channels, norm=True) for _ in range(how.box_convs)))
        self.fc = nn.Linear(channels * BOX_CELLS**2, how.box_fc)
        self.cls = nn.Linear(how.box_fc, n_classes + 1)
        self.reg = nn.Linear(how.box_fc, 4 if how.class_agnostic else 4 * n_classes)
        for layer, std in ((self.cls, 0.01), (self.reg, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.fc(self.convs(x).flatten(1)))
        return self.cls(x), self.reg(x)


class MaskHead(nn.Sequential):
    """(k, C, 14, 14) -> mask scores (k, n_classes, 28, 28)."""

    def __init__(self, channels: int, n_classes: int, how: RoiOptions) -> None:
        convs = [conv3(channels, channels, norm=False) for _ in range(how.mask_convs)]
        up, last = nn.ConvTranspose2d(channels, channels, 2, 2), nn.Conv2d(channels, n_classes, 1)
        super().__init__(*convs, up, nn.ReLU(), last)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class CascadeHeads(nn.Module):
    """All stages. Maps are the four of strides about 4, 8, 16, 32; boxes are in pixels of the padded input."""

    def __init__(
        self, channels: int, n_classes: int, strides: Sequence[float], how: RoiOptions, half: bool = False
    ) -> None:
        super().__init__()
        self.how, self.strides, self.n_classes, self.in_half = how, list(strides), n_classes, half
        self.boxes = nn.ModuleList(BoxHead(channels, n_classes, how) for _ in how.stage_iou)
        self.masks = nn.ModuleList(MaskHead(channels, n_classes, how) for _ in how.stage_iou)
        self.coders = [BoxCoder(tuple(1 / std for std in stds)) for stds in how.stage_std]
        self.sampler = BalancedPositiveNegativeSampler(how.roi_samples, how.positive_share)

    def losses(self, maps: list[Tensor], proposals: list[Tensor], sizes: list[Size], targets: list[Target]) -> Losses:
        """Loss terms of every stage, already weighted."""
        total: Losses = {}
        for stage, weight in enumerate(self.how.stage_weight):
            sampled = [self.sample(p, t, self.how.stage_iou[stage]) for p, t in zip(proposals, targets, strict=True)]
            boxes = [s.boxes for s in sampled]
            scores, codes = self.look(maps, boxes, stage)
            labels = torch.cat([s.labels for s in sampled])
            terms = {
                "cls": F.cross_entropy(scores, labels),
                "box": self.box_loss(codes, sampled, targets, stage),
                "mask": self.mask_loss(maps, sampled, targets, stage),
            }
            total |= {f"{name}_{stage}": weight * term for name, term in terms.items()}
            if stage + 1 < len(self.boxes):
                guesses = torch.where(labels > 0, labels, scores[:, 1:].argmax(dim=1) + 1)
                refined = self.refine(boxes, codes.detach(), guesses, sizes, stage)
                proposals = [r[~s.given] for r, s in zip(refined, sampled, strict=True)]
        return total

    def look(self, maps: list[Tensor], boxes: list[Tensor], stage: int) -> tuple[Tensor, Tensor]:
        """Class scores and box codes of one stage for all boxes of a batch, in float32."""
        regions = pool(maps, self.strides, boxes, BOX_CELLS)
        with in_bfloat16(regions, self.in_half):
            scores, codes = self.boxes[stage](regions)
        return scores.float(), codes.float()

    def mask_scores(self, regions: Tensor, stage: int) -> Tensor:
        """Mask scores (k, n_classes, 28, 28) of one stage, in float32."""
        with in_bfloat16(regions, self.in_half):
            scores = self.masks[stage](regions)
        return scores.float()

    @torch.no_grad()
    def sample(self, proposals: Tensor, target: Target, iou: float) -> Sampled:
        """Regions to learn from: the proposals and the objects' own boxes, at most so many, few of them objects."""
        boxes = torch.cat([target.boxes, proposals])
        given = torch.arange(len(boxes), device=boxes.device) < len(target.boxes)
        matched = torch.full((len(boxes),), Matcher.BELOW_LOW_THRESHOLD, device=boxes.device)
        if len(target.boxes):
            matched = Matcher(iou, iou)(box_iou(target.boxes, boxes))
        at = matched.clamp_min(0)
        labels = torch.zeros_like(matched)
        if len(target.boxes):
            labels = torch.where(matched >= 0, target.labels[at], labels)
        chosen = torch.cat([torch.where(mask)[0] for (mask,) in self.sampler([labels])])
        return Sampled(boxes[chosen], labels[chosen], at[chosen], given[chosen])

    def decode(self, codes: Tensor, boxes: Tensor, labels: Tensor, stage: int) -> Tensor:
        """Boxes (k, 4) after one stage's codes of these labels (from 1)."""
        if not self.how.class_agnostic:
            codes = codes.unflatten(1, (self.n_classes, 4))[torch.arange(len(labels), device=codes.device), labels - 1]
        return self.coders[stage].decode_single(codes, boxes)

    def refine(self, boxes: list[Tensor], codes: Tensor, labels: Tensor, sizes: list[Size], stage: int) -> list[Tensor]:
        """The boxes that the next stage starts from, cut at the picture."""
        moved = self.decode(codes, torch.cat(boxes), labels, stage).split([len(b) for b in boxes])
        return [clip_boxes_to_image(m, size) for m, size in zip(moved, sizes, strict=True)]

    def box_loss(self, codes: Tensor, sampled: list[Sampled], targets: list[Target], stage: int) -> Tensor:
        """GIoU of decoded boxes of objects, over the number of all sampled regions."""
        labels, boxes = torch.cat([s.labels for s in sampled]), torch.cat([s.boxes for s in sampled])
        wanted = torch.cat([_taken(t.boxes, s.matched) for s, t in zip(sampled, targets, strict=True)])
        kept = labels > 0
        found = self.decode(codes[kept], boxes[kept], labels[kept], stage)
        loss = generalized_box_iou_loss(found, wanted[kept], reduction="sum")
        return self.how.giou_weight * loss / max(1, len(labels))

    def mask_loss(self, maps: list[Tensor], sampled: list[Sampled], targets: list[Target], stage: int) -> Tensor:
        """Binary cross entropy of the masks of sampled objects, each in its own class's channel."""
        kept = [s.labels > 0 for s in sampled]
        boxes = [s.boxes[k] for s, k in zip(sampled, kept, strict=True)]
        scores = self.mask_scores(pool(maps, self.strides, boxes, MASK_CELLS), stage)
        if not len(scores):
            return scores.sum()
        labels = torch.cat([s.labels[k] for s, k in zip(sampled, kept, strict=True)])
        wanted = [mask_target(t.masks, b, s.matched[k], scores.shape[-1])
                  for s, t, b, k in zip(sampled, targets, boxes, kept, strict=True)]  # fmt: skip
        own = scores[torch.arange(len(labels), device=scores.device), labels - 1]
        return F.binary_cross_entropy_with_logits(own, torch.cat(wanted))

    def detect(self, maps: list[Tensor], proposals: list[Tensor], sizes: list[Size]) -> list[Detections]:
        """What the stages together see in each picture."""
        boxes, codes = proposals, proposals[0].new_zeros(0)
        every: list[Tensor] = []
        for stage in range(len(self.boxes)):
            if stage:
                labels = every[-1][:, 1:].argmax(dim=1) + 1
                boxes = self.refine(boxes, codes, labels, sizes, stage - 1)
            scores, codes = self.look(maps, boxes, stage)
            every.append(scores)
        scores = average_scores(every, self.how.average).split([len(b) for b in boxes])
        parts = zip(scores, codes.split([len(b) for b in boxes]), boxes, sizes, strict=True)
        kept = [self.select(*part) for part in parts]
        found = [box for box, _, _ in kept]
        regions = pool(maps, self.strides, found, MASK_CELLS)
        masks = torch.stack([self.mask_scores(regions, s).sigmoid() for s in range(len(self.masks))]).mean(dim=0)
        own = masks[torch.arange(len(masks), device=masks.device), torch.cat([labels for _, labels, _ in kept]) - 1]
        every_mask = own.split([len(b) for b in found])
        return [Detections(*part, mask) for part, mask in zip(kept, every_mask, strict=True)]

    def select(self, scores: Tensor, codes: Tensor, boxes: Tensor, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, labels and scores of one picture after thresholds and suppression within each class, best first."""
        region, label = torch.where(scores[:, 1:] > self.how.score_threshold)
        label = label + 1
        found = clip_boxes_to_image(self.decode(codes[region], boxes[region], label, len(self.boxes) - 1), size)
        kept = batched_nms(found, scores[region, label], label, self.how.nms_iou)[: self.how.detections]
        return found[kept], label[kept], scores[region, label][kept]


def average_scores(every: Sequence[Tensor], how: str) -> Tensor:
    """Class probabilities (k, n_classes + 1) of all stages' scores: of the mean score, or the mean probability."""
    if how == "logits":
        return torch.stack(list(every)).mean(dim=0).softmax(dim=1)
    return torch.stack([scores.softmax(dim=1) for scores in every]).mean(dim=0)


def levels(boxes: Tensor, n_maps: int) -> Tensor:
    """Which map (0 the finest) a box is read from: one coarser with each doubling of its side (FPN, equation 1)."""
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_min(0).sqrt()
    return (side / CANONICAL_PX + 1e-6).log2().floor().clamp(0, n_maps - 1).long()


def pool(maps: Sequence[Tensor], strides: Sequence[float], boxes: Sequence[Tensor], cells: int) -> Tensor:
    """Features (k, C, cells, cells) of all boxes of a batch, picture after picture (aligned RoIAlign)."""
    picture = torch.cat([b.new_full((len(b), 1), number) for number, b in enumerate(boxes)])
    every = torch.cat([picture, torch.cat(list(boxes))], dim=1)
    level = levels(every[:, 1:], len(maps))
    out = maps[0].new_zeros(len(every), maps[0].shape[1], cells, cells)
    for number, (features, stride) in enumerate(zip(maps, strides, strict=True)):
        own = torch.where(level == number)[0]
        out = out.index_copy(0, own, roi_align(features, every[own], cells, 1 / stride, -1, aligned=True))
    return out


def mask_target(masks: Tensor, boxes: Tensor, matched: Tensor, cells: int) -> Tensor:
    """(k, cells, cells) of 0 and 1: the matched object's mask inside each box."""
    if not len(boxes):
        return boxes.new_zeros(0, cells, cells)
    rows = torch.cat([matched[:, None].to(boxes), boxes], dim=1)
    shares = roi_align(masks[:, None].to(boxes), rows, cells, 1.0, -1, aligned=True)[:, 0]
    return (shares >= 0.5).to(boxes)


def _taken(boxes: Tensor, matched: Tensor) -> Tensor:
    """The matched boxes; zeros where a picture shows no object."""
    return boxes[matched] if len(boxes) else boxes.new_zeros(len(matched), 4)
