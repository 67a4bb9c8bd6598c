"""Fine-tuning: the encoder's copy, layer-wise rates, the schedule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.evaluate.detection_train import Schedule, fine_tuned_copy, layer_of, parameter_groups, rate_at
from tests.evaluate.test_detector import detector, encoder

SCHEDULE = Schedule(
    epochs=3, drop_epochs=(2,), drop_factor=0.1, warmup_iterations=4, warmup_ratio=0.001, batch_size=2,
    images_per_pass=None, lr=1.0, weight_decay=0.05, layer_decay=0.8, decay_positions=True, clip_norm=None,
    log_every=1, checkpoint_every_s=100,
)  # fmt: skip


def test_the_encoder_stays_as_it_is() -> None:
    frozen = encoder()
    before = {name: value.clone() for name, value in frozen.model.state_dict().items()}
    copy = fine_tuned_copy(frozen, 0.3, (64, 96))
    assert copy.pos_embed.shape == (1, 1 + 8 * 12, 24) and all(p.requires_grad for p in copy.parameters())
    assert [block.drop_path1.drop_prob for block in copy.blocks] == pytest.approx([0, 0.1, 0.2, 0.3])
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.zero_()
    for name, value in frozen.model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert copy(torch.zeros(1, 3, 40, 32)).shape == (1, 24)


def test_layer_decay() -> None:
    net = detector()
    groups = parameter_groups(net, SCHEDULE)
    named = {id(p): name for name, p in net.named_parameters()}
    found = {named[id(p)]: (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(found) == set(named.values())
    assert found["backbone.vit.pos_embed"] == pytest.approx((0.8**5, 0.05))
    assert found["backbone.vit.patch_embed.proj.weight"] == pytest.approx((0.8**5, 0.05))
    assert found["backbone.vit.blocks.0.mlp.fc1.weight"] == pytest.approx((0.8**4, 0.05))
    assert found["backbone.vit.blocks.3.mlp.fc1.bias"] == pytest.approx((0.8, 0))
    assert found["backbone.vit.norm.weight"] == (1, 0) and found["heads.boxes.0.fc.weight"] == (1, 0.05)
    without = parameter_groups(net, replace(SCHEDULE, decay_positions=False))
    token = next(g for g in without for p in g["params"] if named[id(p)] == "backbone.vit.cls_token")
    assert token["weight_decay"] == 0
    assert layer_of("backbone.vit.blocks.11.norm1.weight", 12) == 12 and layer_of("rpn.head.x", 12) == 13


def test_rates() -> None:
    rates = [rate_at(i, 5, SCHEDULE) for i in range(15)]
    assert rates[:4] == pytest.approx([0.001, 0.25075, 0.5005, 0.75025])
    assert rates[4:10] == [1] * 6 and rates[10:] == pytest.approx([0.1] * 5)


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    """Also with stochastic depth, whose draws are made twice."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = []
    for checkpointing in (False, True):
        vit = fine_tuned_copy(encoder(), 0.5, None).train()
        vit.set_grad_checkpointing(checkpointing)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            maps = vit.forward_intermediates(images, indices=[1, 3], norm=False, intermediates_only=True)
            sum(m.square().sum() for m in maps).backward()
        found.append([p.grad for p in vit.parameters() if p.grad is not None])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
