"""What a run costs and how long it may be: counted operations, budgets in every unit, and a resumed run's length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from toy import SIDE, Toy

from components.common.config import parse
from components.common.errors import StageError
from components.pretrain.budget import Cost, cost_of, example_batch, steps_of
from components.pretrain.config import Budget, PretrainParams, TrainerParams, params_model
from components.pretrain.plan import BlockMasks, Crop, Photometric, StratifiedMasks, ViewPlan
from components.pretrain.run import build_trainer
from components.pretrain.schedules import Schedule

CPU = torch.device("cpu")
UNITS = ("steps", "samples", "images", "flops", "seconds")


def no_measure() -> float:
    raise AssertionError("only a budget in seconds is measured")


@given(st.sampled_from(UNITS), st.floats(1e-3, 1e15), st.integers(1, 1024), st.integers(1, 8), st.integers(1, 10**12))
def test_a_budget_comes_to_the_nearest_number_of_steps(
    unit: Any, amount: float, batch: int, images: int, flops: int
) -> None:
    size = {"steps": 1, "samples": batch, "images": batch * images, "flops": batch * flops, "seconds": 0.25}[unit]
    measure = (lambda: 0.25) if unit == "seconds" else no_measure
    steps = steps_of(Budget(unit=unit, amount=amount), batch, Cost(images, flops), measure)
    assert steps >= 1
    assert steps == 1 or abs(steps * size - amount) <= size / 2 * (1 + 1e-9)


def test_a_budget_is_the_length_whatever_else_is_said() -> None:
    budget = Budget(unit="steps", amount=30)
    for limits in ({"epochs": 1}, {"max_steps": 7}, {"epochs": 1000, "max_steps": 5}):
        params = TrainerParams.model_validate({"budget": budget, "warmup_epochs": 1, **limits})
        schedule = Schedule.plan(params, 10, 30)
        assert (schedule.total, schedule.warmup, schedule.epochs) == (30, 10, 3.0)
    for none in ({"epochs": 0}, {"max_steps": 0}):
        assert Schedule.plan(TrainerParams.model_validate({"budget": budget, **none}), 10, 30).total == 0
    with pytest.raises(ValidationError):
        Budget(unit="steps", amount=0)


def test_a_warm_up_that_the_budget_cannot_hold_is_refused() -> None:
    with pytest.raises(StageError, match="the warm-up takes 100 steps, the whole run 30") as error:
        Schedule.plan(TrainerParams(), 10, 30)
    assert "budget" in str(error.value)


def test_operations_of_a_sample_do_not_depend_on_what_is_drawn() -> None:
    plan = Toy.views(Toy.Args(), SIDE)
    costs = set()
    for seed in range(2):
        torch.manual_seed(seed)
        costs.add(cost_of(Toy(Toy.Args()), plan))
    # the student's view 1 and the teacher's view 0 through two layers each, the student's twice more going back,
    # less the gradient of the input
    assert costs == {Cost(images=1, flops=2 * (48 * 6 + 6 * 8) * 3 + 2 * 6 * 8)}


def test_an_example_has_the_shapes_and_the_mean_masks_of_the_plan() -> None:
    blocks, strata = BlockMasks((0.0, 0.5), (0.0, 0.25)), StratifiedMasks(0.5, (0.1, 0.3))
    two = (Photometric(), Photometric())
    crops = (
        Crop("global", 32, (0.4, 1.0), two, (1,), mask=blocks),
        Crop("local", 16, (0.1, 0.4), two[:1], (1, 0)),
        Crop("other", 64, (0.4, 1.0), two[:1], (2,), mask=strata),
    )
    batch = example_batch(ViewPlan("clip", 4, crops, patch_px=8))
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    assert shapes == {
        "global": (2, 2, 1, 3, 32, 32), "global_box": (2, 2, 1, 5), "global_mask": (2, 2, 1, 4, 4),
        "local": (2, 1, 2, 3, 16, 16), "local_box": (2, 1, 2, 5),
        "other": (2, 1, 1, 3, 64, 64), "other_box": (2, 1, 1, 5), "other_mask": (2, 1, 1, 8, 8),
    }  # fmt: skip
    assert batch["global_mask"].sum((-1, -2)).unique().tolist() == [4]  # a quarter of 16
    assert batch["other_mask"].sum((-1, -2)).flatten().tolist() == [13, 0]  # half of the crops; 12.8 of 64 patches
    assert cost_of_images(crops) == 3, "frame 3 of the draw is never looked at"


def cost_of_images(crops: tuple[Crop, ...]) -> int:
    class Two(Toy):
        def forward(self, batch: Any, now: Any) -> Any:
            return super().forward({"global": torch.zeros(2, 2, 1, 3, SIDE, SIDE)}, now)

    return cost_of(Two(Toy.Args()), ViewPlan("clip", 4, crops, patch_px=8)).images


def dino(**budget: Any) -> PretrainParams:
    small = {"out_dim": 16, "hidden_dim": 16, "bottleneck_dim": 8, "global_size_px": 32, "local_size_px": 16}
    section = {
        "encoder": {"model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}},
        "trainer": {"batch_size": 8, "warmup_epochs": 0, "workers": 0, "budget": budget},
        "args": {**small, "local_crops": 2},
    }
    model: Any = parse(params_model("dino", section), section, "test")
    return model


def test_runs_of_one_budget_see_as_much(corpus: tuple[Path, Path]) -> None:
    """77 rows of the draw make 9 steps an epoch; a frame a sample."""
    assert build_trainer(dino(unit="images", amount=100), *corpus, CPU).schedule.total == 13
    flops = build_trainer(dino(unit="steps", amount=1), *corpus, CPU).cost.flops
    trainer = build_trainer(dino(unit="flops", amount=5 * 8 * flops), *corpus, CPU)
    assert trainer.schedule.total == 5
    trainer.train()
    assert trainer.curves[-1]["pflops_seen"] == pytest.approx(5 * 8 * flops / 1e15)


def test_seconds_are_measured_once_and_kept_by_the_checkpoint(corpus: tuple[Path, Path]) -> None:
    params = dino(unit="seconds", amount=0.4)
    first = build_trainer(params, *corpus, CPU)
    assert first.schedule.total >= 1 and first.step == 0
    again = build_trainer(dino(unit="steps", amount=1), *corpus, CPU)
    weights = zip(first.method.state_dict().values(), again.method.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights), "measuring leaves the start as it is"
    state = {**first.state(), "total": 3}  # as a quicker machine would have left it
    resumed = build_trainer(params, *corpus, CPU, state["total"])
    resumed.resume(state)
    resumed.train()
    assert resumed.step == resumed.schedule.total == 3
