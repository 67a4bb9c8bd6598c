"""The loop on a toy method: against the same training written out plainly, and when it must stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import MemoryFeed, Toy, toy_params, toy_trainer

from components.common.errors import ExitCode, StageError
from components.pretrain.checkpoint import CheckpointStore
from components.pretrain.config import PretrainParams
from components.pretrain.trainer import Report, Trainer, seeded, split


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.method.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], **tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def plain_training(params: PretrainParams) -> Toy:
    """What the trainer should do, in one function without any of its parts but the schedules and seeds."""
    reference = toy_trainer(params)
    method, schedule, p = reference.method, reference.schedule, params.trainer
    decayed = [w for w in method.student.parameters() if w.ndim > 1]
    plain = [w for w in method.student.parameters() if w.ndim <= 1]
    optimiser = torch.optim.AdamW([{"params": decayed}, {"params": plain}], foreach=False, fused=False)
    for step, batch in enumerate(MemoryFeed(p.batch_size).batches(0, schedule.total)):
        torch.manual_seed(seeded(params.seed, step, 0))
        values = schedule.at(step)
        for group, decay in zip(optimiser.param_groups, (values.weight_decay, 0.0), strict=True):
            group.update(lr=values.lr, weight_decay=decay)
        reference.step = step
        optimiser.zero_grad()
        method(batch, reference.now()).loss.backward()
        for w in method.student.parameters():
            torch.nn.utils.clip_grad_norm_([w], p.clip_norm or math.inf)
            if step < 4 and any(w is frozen for frozen in method.student["last_layer"].parameters()):
                w.grad = None
        optimiser.step()
        method.after_step(reference.now())
    return method  # type: ignore[return-value]


def test_training_equals_the_plain_loop() -> None:
    params = toy_params()
    trainer = toy_trainer(params)
    start = weights(trainer)
    trainer.train()
    assert_same(weights(trainer), plain_training(params).state_dict(), rtol=1e-5, atol=1e-6)
    assert not torch.equal(weights(trainer)["teacher.backbone.1.weight"], start["teacher.backbone.1.weight"])


def test_the_last_layer_rests_in_the_first_epoch() -> None:
    trainer = toy_trainer(toy_params(max_steps=4, warmup_epochs=0))
    start = weights(trainer)
    trainer.train()
    after = weights(trainer)
    assert torch.equal(start["student.last_layer.weight"], after["student.last_layer.weight"])
    assert not torch.equal(start["student.backbone.1.weight"], after["student.backbone.1.weight"])


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_large_batch(parts: int) -> None:
    quiet = {"noise": False}
    whole, split_up = toy_trainer(toy_params(args=quiet)), toy_trainer(toy_params(args=quiet, accumulate=parts))
    whole.train()
    split_up.train()
    assert_same(weights(whole), weights(split_up), rtol=1e-5, atol=1e-6)
    for a, b in zip(whole.curves, split_up.curves, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-5)


def test_micro_batches_cover_the_batch_in_order() -> None:
    batch = {"global": torch.arange(6), "local": torch.arange(12).reshape(6, 2)}
    parts = split(batch, 3)
    assert [p["global"].tolist() for p in parts] == [[0, 1], [2, 3], [4, 5]]
    assert torch.equal(torch.cat([p["local"] for p in parts]), batch["local"])


def test_the_curves_hold_the_means_of_their_windows() -> None:
    fine, coarse = toy_trainer(toy_params(log_every_steps=1)), toy_trainer(toy_params(log_every_steps=5))
    reports: list[Report] = []
    fine.train()
    coarse.train(reports.append)
    assert [row["step"] for row in coarse.curves] == [5, 10, 12], "the last window may be shorter"
    losses = [row["loss"] for row in fine.curves]
    for row, window in zip(coarse.curves, (losses[:5], losses[5:10], losses[10:]), strict=True):
        assert row["loss"] == pytest.approx(sum(window) / len(window), rel=1e-6)
    assert coarse.curves[-1]["lr"] == fine.curves[-1]["lr"] and coarse.curves[-1]["epoch"] == 3
    assert [report.steps for report in reports] == [5, 5, 2]
    assert [report.images for report in reports] == [40, 40, 16]
    # the student's view 1 and the teacher's view 0 through two layers each, the student's twice more going back,
    # less the gradient of the input: 2 * (48*6 + 6*8) * 3 + 2 * 6*8
    assert reports[0].flops_per_sample == 2 * (48 * 6 + 6 * 8) * 3 + 2 * 6 * 8


def test_the_curves_count_images_and_operations_and_the_report_wall_time() -> None:
    trainer, reports = toy_trainer(toy_params(log_every_steps=5)), list[Report]()
    trainer.train(reports.append)
    assert [row["images_seen"] for row in trainer.curves] == [40, 80, 96]
    assert trainer.curves[-1]["pflops_seen"] == 96 * trainer.cost.flops / 1e15
    assert reports[-1].wall_s == pytest.approx(sum(report.seconds for report in reports))
    assert not {"wall_s", "seconds"} & set(trainer.curves[-1]), "equal runs leave equal curves"
    resumed = toy_trainer(toy_params(log_every_steps=5))
    resumed.resume(trainer.state())
    assert resumed.wall_s == trainer.wall_s > 0


def test_monitors_are_those_of_the_windows_features() -> None:
    seen: list[torch.Tensor] = []
    trainer = toy_trainer(toy_params(guards={"rankme_samples": 16}, max_steps=8, log_every_steps=8))
    forward = trainer.method.forward

    def spy(batch: Any, now: Any) -> Any:
        output = forward(batch, now)
        seen.append(output.monitors["features"])
        return output

    trainer.method.forward = spy  # type: ignore[method-assign]
    trainer.train()
    values = torch.linalg.svdvals(torch.cat(seen[-2:]).double())
    shares = values / values.sum()
    assert trainer.curves[-1]["rankme"] == pytest.approx(math.exp(-float((shares * shares.log()).sum())), rel=1e-4)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, {})
    trainer = toy_trainer(toy_params(args={"poison_at": 9}), store)
    with pytest.raises(StageError) as error:
        trainer.train()
    text = str(error.value)
    assert "at step 9 in the term toy (loss is nan, toy is nan" in text
    assert f"{trainer.schedule.at(9).lr:.3g}" in text, "the learning rate is named"
    assert f"the last good checkpoint is that of step 8, {tmp_path / 'last.pt'}" in text
    assert error.value.code == ExitCode.STOPPED
    state = store.load(torch.device("cpu"))
    assert state is not None and state["step"] == 8, "what was saved is from before"
    assert all(torch.isfinite(v).all() for v in state["method"].values())


def test_without_a_checkpoint_the_message_says_so() -> None:
    with pytest.raises(StageError, match="no checkpoint was written before"):
        toy_trainer(toy_params(args={"poison_at": 0})).train()


def test_collapse_warns_once_and_stops_where_asked() -> None:
    lines: list[str] = []
    limits = {"patience": 2, "min_teacher_spread": 0.05}
    toy_trainer(toy_params(limits, {"dead": True}, log_every_steps=2), warn=lines.append).train()
    assert len(lines) == 1 and "step 4" in lines[0] and "one prototype" in lines[0]
    with pytest.raises(StageError, match="collapsed by step 4") as error:
        toy_trainer(toy_params({**limits, "stop": True}, {"dead": True}, log_every_steps=2)).train()
    assert error.value.code == ExitCode.STOPPED


def test_a_run_of_no_steps_trains_nothing() -> None:
    trainer = toy_trainer(toy_params(max_steps=0))
    start = weights(trainer)
    trainer.train()
    assert_same(start, weights(trainer), rtol=0, atol=0)
    assert trainer.curves == [] and trainer.pictures() == {}


def test_seeds_of_neighbours_are_unrelated() -> None:
    seeds = {seeded(seed, step, rank) for seed in range(4) for step in range(50) for rank in range(4)}
    assert len(seeds) == 800
    assert len({seeded(0, step) & 0xFFFFFFFF for step in range(1000)}) == 1000, "generators use the low 32 bits"


def test_every_micro_batch_gets_an_equal_generator() -> None:
    trainer = toy_trainer(toy_params())
    first, second = trainer.now(), trainer.now()
    assert torch.equal(torch.rand(5, generator=first.generator), torch.rand(5, generator=second.generator))
    trainer.step = 1
    assert not torch.equal(torch.rand(5, generator=first.generator), torch.rand(5, generator=trainer.now().generator))
