"""Unit prototypes, and the queue of earlier patches: what it holds, when it counts, who draws what enters it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from components.pretrain import parallel
from components.pretrain.blocks.clustering import FeatureQueue, UnitPrototypes, draw_patches, patch_head


def test_scores_are_cosines() -> None:
    prototypes, x = UnitPrototypes(5, 7).double(), torch.randn(3, 4, 5, dtype=torch.float64)
    scores = prototypes(x)
    for i in range(3):
        for j in range(4):
            for k, row in enumerate(prototypes.weight):
                assert scores[i, j, k].item() == pytest.approx((x[i, j] @ row / x[i, j].norm() / row.norm()).item())
    assert not prototypes(torch.zeros(1, 5, dtype=torch.float64)).any()
    with torch.autocast("cpu", torch.bfloat16):
        assert prototypes.float()(x.bfloat16()).dtype == torch.float32


def test_prototypes_come_back_to_the_sphere() -> None:
    prototypes = UnitPrototypes(5, 7)
    torch.testing.assert_close(prototypes.weight.norm(dim=-1), torch.ones(7))
    with torch.no_grad():
        prototypes.weight.mul_(torch.arange(1, 8)[:, None])
    before = prototypes.weight.clone()
    prototypes.normalise()
    torch.testing.assert_close(prototypes.weight, before / before.norm(dim=-1, keepdim=True))
    assert isinstance(prototypes.weight, nn.Parameter)


def test_head_is_linear_layers_with_gelu_between_them() -> None:
    head = patch_head((6, 5, 4, 3))
    x = torch.randn(2, 9, 6)
    expected = head[4](nn.functional.gelu(head[2](nn.functional.gelu(head[0](x)))))
    torch.testing.assert_close(head(x), expected)
    assert [type(layer).__name__ for layer in head] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_queue_holds_the_latest_rows_and_counts_once_it_is_full() -> None:
    queue, rows = FeatureQueue(5, 2), torch.arange(14.0).view(7, 2)
    queue.push(rows[:2])
    queue.push(rows[2:4])
    assert len(queue.share()) == 0
    queue.push(rows[4:6])
    assert torch.equal(queue.share(), torch.cat([rows[4:6], rows[2:4], rows[:1]]))
    queue.push(rows)
    assert torch.equal(queue.share(), rows[:5])
    twin = FeatureQueue(5, 2)
    twin.load_state_dict(queue.state_dict())
    assert torch.equal(twin.share(), queue.share())


def test_processes_share_the_queue_out(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = FeatureQueue(5, 2)
    queue.push(torch.randn(5, 2))
    parts = []
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(queue.share())
    assert sorted(map(tuple, torch.cat(parts).tolist())) == sorted(map(tuple, queue.rows.tolist()))


def test_each_clip_gives_its_own_patches_however_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = torch.arange(4 * 9.0).view(4, 9, 1)
    generator = torch.Generator().manual_seed(3)
    whole = draw_patches(names, 4, generator)
    assert torch.equal(whole, draw_patches(names, 4, generator))  # the generator is left as it was
    assert [sorted(set((row // 9).int().tolist())) for row in whole.view(4, 4)] == [[0], [1], [2], [3]]
    assert len(set(whole.flatten().tolist())) == 16
    assert len({tuple((row % 9).tolist()) for row in whole.view(4, 4)}) > 1
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        parts.append(draw_patches(names[2 * rank : 2 * rank + 2], 4, torch.Generator().manual_seed(3)))
    assert torch.equal(torch.cat(parts), whole)
