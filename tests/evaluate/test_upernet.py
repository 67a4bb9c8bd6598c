"""UperNet against a rendition with PyTorch's own resampling, taps, and the ViT under it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.common.encoder import load_encoder
from components.evaluate.resampling import pool, upsample, upsampled_argmax
from components.evaluate.seeds import torch_seeded
from components.evaluate.taps import backbone_for, drop_paths, tap_blocks, tap_maps
from components.evaluate.upernet import Segmenter, UperNet


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pool_equals_the_library_in_value_and_gradient(bins: int) -> None:
    maps = noise(2, 3, 7, 10).requires_grad_(True)
    ours, theirs = pool(maps, bins), F.adaptive_avg_pool2d(maps, bins)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    weights = noise(2, 3, bins, bins, seed=1)
    gradients = [torch.autograd.grad((out * weights).sum(), maps, retain_graph=True)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)


def test_argmax_in_strips_equals_the_whole() -> None:
    maps = noise(5, 6, 7)
    whole = F.interpolate(maps[None], size=(23, 31), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(upsampled_argmax(maps, (23, 31), rows=4), whole)


def literal(net: UperNet, taps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The paper's figure and BEiT's pyramid, line by line."""

    def to(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)

    up4, head = net.pyramid.four_times, net.head
    c2 = up4[3](F.gelu(up4[1](up4[0](taps[0]))))
    c3, c4, c5 = net.pyramid.twice(taps[1]), taps[2], F.max_pool2d(taps[3], 2, 2)
    pooled = [to(branch(F.adaptive_avg_pool2d(c5, b)), c5) for branch, b in zip(head.pooled, (1, 2, 3, 6), strict=True)]
    p5 = head.context(torch.cat([c5, *pooled], 1))
    p4 = head.laterals[2](c4) + to(p5, c4)
    p3 = head.laterals[1](c3) + to(p4, c3)
    p2 = head.laterals[0](c2) + to(p3, c2)
    f2, f3, f4 = head.smooth[0](p2), head.smooth[1](p3), head.smooth[2](p4)
    fused = head.fuse(torch.cat([f2, to(f3, f2), to(f4, f2), to(p5, f2)], 1))
    return head.classify[1](fused), net.aux[1][1](net.aux[0](c4))


def test_network_equals_the_literal_one() -> None:
    with torch_seeded("cpu", 0):
        net = UperNet(dim=8, channels=6, aux_channels=5, n_classes=4, dropout=0.5).double()
    taps = [noise(2, 8, 6, 7, seed=i) for i in range(4)]
    for training in (True, False):
        net.train(training)
        for layer in net.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.eval()
        ours, expected = net(taps), literal(net, taps)
        assert ours[0].shape == (2, 4, 24, 28) and ours[1].shape == (2, 4, 6, 7)
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_published_size() -> None:
    """ViT-S: 384 channels throughout; the head's weights counted by hand."""
    net, c = UperNet(384, 384, 256, 150, 0.1), 384
    pyramid = 3 * (c * c * 4 + c) + 2 * c
    head = 4 * (c * c + 2 * c) + (5 * c * c * 9 + 2 * c) + 3 * (c * c + 2 * c) + 3 * (c * c * 9 + 2 * c)
    head += 4 * c * c * 9 + 2 * c + c * 150 + 150
    aux = c * 256 * 9 + 2 * 256 + 256 * 150 + 150
    assert sum(p.numel() for p in net.parameters()) == pyramid + head + aux


def test_tap_blocks_are_the_published_ones() -> None:
    assert tap_blocks(12, "spread") == [3, 5, 7, 11] and tap_blocks(24, "spread") == [7, 11, 15, 23]
    assert tap_blocks(12, "last") == [8, 9, 10, 11]
    assert all(0 <= b < d for d in (1, 2, 3, 4) for w in ("spread", "last") for b in tap_blocks(d, w))  # type: ignore[arg-type]


def test_taps_and_positions(model: Path) -> None:
    """A map is what the block gives; the table is resized once and then is a weight like any other."""
    encoder = load_encoder(model)
    images = noise(2, 3, 48, 48).float()
    backbone = backbone_for(encoder, 48, pos_quirk=False)
    assert backbone.pos_embed.shape == (1, 37, 24) and encoder.model.pos_embed.shape == (1, 17, 24)
    seen: list[Tensor] = []
    backbone.blocks[0].register_forward_hook(lambda *a: seen.append(a[2]))
    plain, normed = (tap_maps(backbone, images, [0, 0, 1], norm) for norm in (False, True))
    grid = seen[0][:, 1:].unflatten(1, (6, 6)).permute(0, 3, 1, 2)
    torch.testing.assert_close(plain[0], grid)
    torch.testing.assert_close(normed[0], backbone.norm(seen[0])[:, 1:].unflatten(1, (6, 6)).permute(0, 3, 1, 2))
    assert plain[1] is plain[0]
    table = encoder.model.pos_embed[:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    resized = F.interpolate(table, size=(6, 6), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(backbone.pos_embed[:, 1:], resized)


def test_gradients_reach_every_weight_and_depth_drops_rise(model: Path) -> None:
    backbone = backbone_for(load_encoder(model), 32, pos_quirk=False).requires_grad_(True)
    drop_paths(backbone, 0.3)
    assert [b.drop_path2.drop_prob for b in backbone.blocks] == pytest.approx([0, 0.3])
    with torch_seeded("cpu", 0):
        net = Segmenter(backbone, [0, 0, 1, 1], True, UperNet(24, 8, 8, 3, 0.1)).eval()
    scores, aux = net(noise(2, 3, 32, 32).float())
    (scores.sum() + aux.sum()).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert upsample(scores, (32, 32)).shape == (2, 3, 32, 32)
