"""Pyramids, anchors, regions, decoding, matching and losses against renditions of loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from components.common.encoder import Encoder
from components.common.vit import build_vit
from components.evaluate.cascade import (
    CascadeHeads,
    RoiOptions,
    Sampled,
    Target,
    average_scores,
    levels,
    mask_target,
    pool,
)
from components.evaluate.detection_predict import paste
from components.evaluate.detection_train import fine_tuned_copy
from components.evaluate.detector import Anchors, Backbone, Detector, PyramidOptions, RpnOptions, default_taps

ROI = RoiOptions(
    stage_iou=(0.5, 0.6, 0.7), stage_weight=(1.0, 0.5, 0.25),
    stage_std=((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
    roi_samples=16, positive_share=0.25, box_convs=1, box_fc=16, mask_convs=1, class_agnostic=False,
    giou_weight=10.0, average="logits", score_threshold=0.05, nms_iou=0.5, detections=20,
)  # fmt: skip
RPN = RpnOptions(8, (0.5, 1.0, 2.0), (0.7, 0.3), 32, (50, 40), (30, 20), 0.7)
TAPS = PyramidOptions("taps", None, False, 8)


def encoder(patch: int = 8, depth: int = 4) -> Encoder:
    args = {"patch_size": patch, "img_size": 4 * patch, "embed_dim": 24, "depth": depth, "num_heads": 3}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder(build_vit("vit_tiny_patch16_224", {**args, "dynamic_img_size": True}))


@pytest.mark.parametrize(("patch", "strides"), [(8, [4, 8, 16, 32]), (16, [4, 8, 16, 32]), (32, [4, 8, 16, 32]),
                                                (14, [3.5, 7, 14, 28])])  # fmt: skip
@pytest.mark.parametrize("kind", ["taps", "last"])
def test_pyramid(kind: str, patch: int, strides: list[float]) -> None:
    backbone = Backbone(fine_tuned_copy(encoder(patch), 0.0, None), replace(TAPS, pyramid=kind))
    assert backbone.strides == [*strides, 2 * strides[3]] and backbone.multiple == strides[3]
    height, width = 2 * backbone.multiple, 3 * backbone.multiple
    maps = backbone(torch.zeros(1, 3, height, width))
    assert list(maps) == ["0", "1", "2", "3", "pool"]
    assert [tuple(m.shape) for m in maps.values()][:4] == [(1, 8, height / s, width / s) for s in strides]
    assert maps["pool"].shape == (1, 8, 1, 2)


def test_taps_are_the_published_ones_to_scale() -> None:
    assert default_taps(12) == [3, 5, 7, 11] and default_taps(24) == [7, 11, 15, 23] and default_taps(2) == [0, 0, 0, 1]
    vit = fine_tuned_copy(encoder(16, depth=3), 0.0, None).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    backbone = Backbone(vit, TAPS)
    seen: dict[int, Tensor] = {}
    for number, scale in enumerate(backbone.scales):
        scale.register_forward_hook(lambda _m, inputs, _o, n=number: seen.setdefault(n, inputs[0]))
    backbone.eval()(images)
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    expected = []
    for block in vit.blocks:
        tokens = block(tokens)
        expected.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (2, 2)))
    for level, block in enumerate(default_taps(3)):
        torch.testing.assert_close(seen[level], expected[block])


def test_anchors_stand_on_true_strides() -> None:
    anchors = Anchors([3.5, 7.0], 8, [0.5, 1.0, 2.0])
    maps = [torch.zeros(1, 2, 3, 2), torch.zeros(1, 2, 2, 1)]
    found = anchors(type("Images", (), {"image_sizes": [(10, 7)]})(), maps)[0]
    expected = []
    for stride, (rows, columns) in ((3.5, (3, 2)), (7.0, (2, 1))):
        for y in range(rows):
            for x in range(columns):
                for ratio in (0.5, 1.0, 2.0):
                    h, w = 8 * stride * math.sqrt(ratio), 8 * stride / math.sqrt(ratio)
                    half = [np.round(v / 2) for v in (-w, -h, w, h)]
                    expected.append(
                        [x * stride + half[0], y * stride + half[1], x * stride + half[2], y * stride + half[3]]
                    )
    np.testing.assert_allclose(found.numpy(), expected)


def test_levels() -> None:
    sides = [1, 55, 56, 111, 112, 223, 224, 447, 448, 2000]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    assert levels(boxes, 4).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_pool_reads_the_right_map_at_the_right_place() -> None:
    """On maps that hold their own coordinates, a region's cells hold the coordinates of their centres."""
    strides, size = [4.0, 8.0], 160
    maps = []
    for number, stride in enumerate(strides):
        centres = (torch.arange(int(size / stride)) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        maps.append(torch.stack([torch.full_like(x, number), y, x]).expand(2, -1, -1, -1))
    boxes = [torch.tensor([[20.0, 30, 55, 58], [8, 10, 140, 150]]), torch.tensor([[40.0, 41, 60, 69]])]
    found = pool(maps, strides, boxes, 7)
    every = torch.cat(boxes)
    assert found[:, 0].mean(dim=(1, 2)).tolist() == [0, 1, 0]
    for box, cells in zip(every.tolist(), found, strict=True):
        for axis, (low, high) in ((1, (box[1], box[3])), (2, (box[0], box[2]))):
            expected = low + (torch.arange(7) + 0.5) * (high - low) / 7
            along = cells[axis].mean(dim=1 if axis == 1 else 0)
            torch.testing.assert_close(along, expected, atol=1e-3, rtol=0)


def naive_decode(box: list[float], code: list[float], std: tuple[float, ...]) -> list[float]:
    """Faster R-CNN's parametrisation, arXiv:1506.01497, equation 2, with normalised codes."""
    dx, dy, dw, dh = (c * s for c, s in zip(code, std, strict=True))
    w, h = box[2] - box[0], box[3] - box[1]
    x, y = box[0] + w / 2 + dx * w, box[1] + h / 2 + dy * h
    w, h = w * math.exp(dw), h * math.exp(dh)
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("stage", [0, 2])
def test_cascade_decode(stage: int, agnostic: bool) -> None:
    heads = CascadeHeads(8, 3, [4, 8, 16, 32], replace(ROI, class_agnostic=agnostic))
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.uniform(0, 90, (6, 2, 2)), axis=1).reshape(6, 4)
    codes, labels = rng.normal(size=(6, 4 if agnostic else 12)), rng.integers(1, 4, 6)
    found = heads.decode(torch.tensor(codes), torch.tensor(boxes), torch.tensor(labels), stage)
    start = np.zeros(6, int) if agnostic else 4 * (labels - 1)
    expected = [
        naive_decode(b, c[s : s + 4], ROI.stage_std[stage]) for b, c, s in zip(boxes, codes, start, strict=True)
    ]  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), expected)


def iou(a: list[float], b: list[float]) -> float:
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_sampled_regions() -> None:
    heads = CascadeHeads(8, 3, [4, 8, 16, 32], replace(ROI, roi_samples=100, positive_share=0.99))
    rng = np.random.default_rng(1)
    truth = np.array([[10.0, 10, 50, 50], [30, 40, 90, 80]])
    around = truth[rng.integers(0, 2, 40)] + rng.normal(0, 8, (40, 4))
    target = Target(torch.tensor(truth), torch.tensor([2, 3]), torch.zeros(2, 100, 100, dtype=torch.uint8))
    found = heads.sample(torch.tensor(around), target, 0.6)
    assert len(found.boxes) == 42 and found.given.sum() == 2
    for box, label, at, given in zip(found.boxes.tolist(), found.labels, found.matched, found.given, strict=True):
        overlaps = [iou(box, other) for other in truth.tolist()]
        best = int(np.argmax(overlaps))
        assert label == ([2, 3][best] if overlaps[best] >= 0.6 else 0)
        assert at == best or label == 0
        assert given == (box in truth.tolist())
    few = CascadeHeads(8, 3, [4, 8, 16, 32], ROI).sample(torch.tensor(around), target, 0.6)
    assert len(few.boxes) == 16 and (few.labels > 0).sum() == 4
    empty = Target(torch.zeros(0, 4).double(), torch.zeros(0, dtype=torch.long), torch.zeros(0, 9, 9))
    assert heads.sample(torch.tensor(around), empty, 0.6).labels.tolist() == [0] * 40


def test_box_loss() -> None:
    """GIoU from its definition (arXiv:1902.09630), over all sampled regions, ground included."""
    heads = CascadeHeads(8, 2, [4, 8, 16, 32], ROI)
    truth = torch.tensor([[0.0, 0, 20, 10], [30, 30, 60, 60]])
    boxes = torch.tensor([[2.0, 1, 18, 12], [25, 35, 50, 70], [1, 2, 3, 4]])
    sampled = Sampled(boxes, torch.tensor([1, 2, 0]), torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.bool))
    codes = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    target = Target(truth, torch.tensor([1, 2]), torch.zeros(2, 80, 80))
    total = 0.0
    for k, label in ((0, 1), (1, 2)):
        a = naive_decode(boxes[k].tolist(), codes[k, 4 * (label - 1) : 4 * label].tolist(), ROI.stage_std[1])
        b = truth[k].tolist()
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        both = iou(a, b)
        areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
        union = areas / (1 + both)
        total += 1 - (both - (hull - union) / hull)
    assert float(heads.box_loss(codes, [sampled], [target], 1)) == pytest.approx(10 * total / 3, rel=1e-4)


def test_mask_targets() -> None:
    masks = torch.zeros(2, 60, 60, dtype=torch.uint8)
    masks[1, 14:42, 10:38] = 1
    boxes = torch.tensor([[10.0, 14, 66, 70], [10, 14, 38, 42], [0, 0, 9, 9]])
    found = mask_target(masks, boxes, torch.tensor([1, 1, 0]), 28)
    expected = torch.zeros(28, 28)
    expected[:14, :14] = 1  # the box is twice the object
    torch.testing.assert_close(found[0], expected)
    assert found[1].min() == 1 and found[2].max() == 0


def test_paste() -> None:
    rng = np.random.default_rng(2)
    soft, box = rng.random((4, 4)).astype(np.float32), [3.3, -2.0, 17.9, 11.2]
    found = paste(torch.tensor(soft), torch.tensor(box), 10, 15)
    expected = np.zeros((10, 15), np.float32)
    for y in range(10):
        for x in range(3, 15):
            u, v = (x + 0.5 - box[0]) / (box[2] - box[0]) * 4 - 0.5, (y + 0.5 - box[1]) / (box[3] - box[1]) * 4 - 0.5
            for j in range(4):
                for i in range(4):
                    expected[y, x] += soft[j, i] * max(0, 1 - abs(u - i)) * max(0, 1 - abs(v - j))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert paste(torch.tensor(soft), torch.tensor([20.0, 3, 30, 9]), 10, 15).max() == 0
    whole = paste(torch.ones(28, 28), torch.tensor([2.0, 3, 9, 8]), 10, 15) >= 0.5
    ys, xs = np.nonzero(whole)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1, whole.sum()) == (2, 9, 3, 8, 35)


def test_averages() -> None:
    stages = [torch.randn(3, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    exp = [np.exp(s.numpy()) / np.exp(s.numpy()).sum(1, keepdims=True) for s in stages]
    np.testing.assert_allclose(average_scores(stages, "probabilities").numpy(), np.mean(exp, axis=0), rtol=1e-5)
    mean = np.exp(np.mean([s.numpy() for s in stages], axis=0))
    np.testing.assert_allclose(average_scores(stages, "logits").numpy(), mean / mean.sum(1, keepdims=True), rtol=1e-5)


def detector(**more: object) -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Detector(fine_tuned_copy(encoder(), 0.0, None), 2, TAPS, RPN, replace(ROI, **more))  # type: ignore[arg-type]


def test_cascade_detection_follows_the_stages_by_hand() -> None:
    """Each stage moves the boxes of the one before by its likeliest class; the last moves by the class found."""
    net = detector(score_threshold=0.2).eval()
    for layer in (m.reg for m in net.heads.boxes):
        torch.nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    size = (60, 50)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        maps = list(net.maps(images).values())
        proposals = torch.tensor([[5.0, 5, 40, 40], [10, 20, 45, 58], [0, 0, 20, 60]])
        found = net.heads.detect(maps[:4], [proposals], [size])[0]
        boxes, every = proposals, []
        for stage, head in enumerate(net.heads.boxes):
            scores, codes = head(pool(maps[:4], net.backbone.strides[:4], [boxes], 7))
            every.append(scores)
            best = scores[:, 1:].argmax(1)
            moved = {}
            for k, c in ((k, c) for k in range(3) for c in range(2)):
                code = codes[k, 4 * c : 4 * c + 4].tolist()
                box = naive_decode(boxes[k].tolist(), code, ROI.stage_std[stage])  # type: ignore[arg-type]
                moved[k, c] = np.clip(box, 0, [size[1], size[0]] * 2)
            boxes = torch.tensor(np.array([moved[k, int(best[k])] for k in range(3)])).float()
    scores = average_scores(every, "logits")
    candidates = [(float(scores[k, c + 1]), c, moved[k, c].tolist()) for k in range(3) for c in range(2)]
    kept: list[tuple[float, int, list[float]]] = []
    for candidate in sorted((c for c in candidates if c[0] > 0.2), reverse=True):
        if all(c != candidate[1] or iou(b, candidate[2]) <= 0.5 for _, c, b in kept):
            kept.append(candidate)
    assert len(kept) > 1
    np.testing.assert_allclose(found.scores.numpy(), [s for s, _, _ in kept], rtol=1e-4)
    assert found.labels.tolist() == [c + 1 for _, c, _ in kept]
    np.testing.assert_allclose(found.boxes.numpy(), [b for _, _, b in kept], atol=1e-3)
    assert found.masks.shape == (len(kept), 28, 28) and 0 <= found.masks.min() <= found.masks.max() <= 1


def test_losses_reach_every_part_and_weights_are_applied() -> None:
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    masks = torch.zeros(1, 64, 90, dtype=torch.uint8)
    masks[:, 8:50, 10:60] = 1
    targets = [
        Target(torch.tensor([[10.0, 8, 60, 50]]), torch.tensor([2]), masks),
        Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), torch.zeros(0, 60, 96, dtype=torch.uint8)),
    ]
    found = []
    for weights in ((1.0, 0.5, 0.25), (1.0, 1.0, 1.0)):
        net = detector(stage_weight=weights).train()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            found.append((net, net.losses(images, [(64, 90), (60, 96)], targets)))
    (net, losses), (_, plain) = found
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"} | {
        f"{t}_{s}" for t in ("cls", "box", "mask") for s in range(3)
    }
    for name in losses:
        weight = {"1": 0.5, "2": 0.25}.get(name[-1], 1.0)
        assert losses[name].item() == pytest.approx(weight * plain[name].item(), rel=1e-5)
    torch.stack(list(losses.values())).sum().backward()
    without = {name for name, p in net.named_parameters() if p.grad is None}
    assert without == {"backbone.vit.norm.weight", "backbone.vit.norm.bias"}  # taps go without the final norm


def test_pictures_in_which_nothing_is_found() -> None:
    (found,) = detector(score_threshold=0.999).eval().detect(torch.zeros(1, 3, 32, 64), [(30, 60)])
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 28, 28) and len(found.labels) == 0
