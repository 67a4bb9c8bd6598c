"""Steps, operations and the constants that forecasts share with the stages."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bench.flops import count
from components.common.errors import StageError
from components.common.vit import build_vit
from components.evaluate import tasks
from components.evaluate.task import get_task
from components.pretrain.budget import Cost, steps_of
from components.pretrain.config import Budget, TrainerParams
from components.pretrain.sampler import EpochSampler
from components.pretrain.schedules import Schedule
from pipelines.forecast import counts
from pipelines.forecast.counts import STORED, Counts, count_of, settings_hash
from pipelines.forecast.judge import input_side, vit_flops
from pipelines.forecast.train import TRAINER, steps
from pipelines.workspace import merged_params


@given(
    rows=st.integers(1, 5000),
    batch_size=st.integers(1, 600),
    epochs=st.sampled_from([0.5, 1, 2.7, 100]),
    max_steps=st.sampled_from([None, 0, 1, 40]),
    warmup_epochs=st.sampled_from([0, 0.3, 10]),
)
def test_steps_are_those_of_the_trainer(rows: int, **trainer: Any) -> None:
    """Also where the trainer refuses: too few rows for a batch, a warm-up that outlasts the run."""
    try:
        per_epoch = EpochSampler(rows, trainer["batch_size"], 0, steps=0).steps_per_epoch
        real = Schedule.plan(TrainerParams.model_validate(trainer), per_epoch).total
    except StageError:
        with pytest.raises(StageError):
            steps(rows, trainer, "dino", "frame")
    else:
        assert steps(rows, trainer, "dino", "frame") == real


@given(
    st.sampled_from(("steps", "samples", "images", "flops")), st.floats(1, 1e9), st.integers(1, 6), st.integers(1, 9**9)
)
def test_a_budget_comes_to_the_trainers_steps(unit: Any, amount: float, images: int, flops: int) -> None:
    budget = Budget(unit=unit, amount=amount)
    trainer = {**TRAINER, "batch_size": 32, "warmup_epochs": 0, "budget": budget.model_dump()}
    expected = steps_of(budget, 32, Cost(images, flops), lambda: 1.0)
    assert steps(1000, trainer, "dino", "frame", images, flops) == expected
    assert steps(1000, {**trainer, "max_steps": 0}, "dino", "frame", images, flops) == 0


def test_a_budget_in_seconds_cannot_be_told_beforehand() -> None:
    trainer = {**TRAINER, "budget": {"unit": "seconds", "amount": 60}}
    with pytest.raises(StageError, match="measured when the run begins"):
        steps(2000, trainer, "dino", "frame")


def test_a_draw_that_the_index_will_not_have_is_refused() -> None:
    with pytest.raises(StageError, match="needs the draw 'clip'"):
        steps(None, TRAINER, "dora", "clip")


def test_defaults_are_the_stages() -> None:
    trainer = TrainerParams()
    assert {name: getattr(trainer, name) for name in TRAINER} == TRAINER
    for module in pkgutil.iter_modules(tasks.__path__):
        defaults = get_task(module.name).Args.model_validate({}).model_dump()
        assert input_side(module.name, defaults) == input_side(module.name, {}), module.name


def test_stored_counts_are_what_counting_gives() -> None:
    params = merged_params(None, [])
    for key in ("dino", "next_frame"):
        stored = Counts.model_validate_json(STORED.read_bytes()).counts[settings_hash(params, key)]
        assert count(params, key).model_copy(update={"example": stored.example}) == stored


def test_every_run_of_the_recipes_is_stored() -> None:
    stored = Counts.model_validate_json(STORED.read_bytes()).counts
    for recipe in [None, *Path("recipes").rglob("*.yaml")]:
        params = merged_params(recipe, [])
        missing = [key for key in params["methods"] if settings_hash(params, key) not in stored]
        assert not missing, f"{recipe}: run `python -m bench.flops --write`"


@pytest.mark.slow
def test_settings_that_nobody_counted_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path))
    params = merged_params(None, [{"pretrain": {"dino": {"args": {"local_crops": 1}}}}])
    fewer, usual = count_of(params, "dino"), count_of(merged_params(None, []), "dino")
    assert fewer.views == usual.views - 1
    assert fewer.flops < usual.flops
    monkeypatch.setattr(counts, "_counted", lambda *_: pytest.fail("counted again"))
    assert count_of(params, "dino") == fewer


def test_settings_that_the_method_refuses_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path))
    params = merged_params(None, [{"pretrain": {"dino": {"args": {"local_size_px": 25}}}}])
    with pytest.raises(StageError, match="multiple of the encoder's"):
        count_of(params, "dino")
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(("side", "dim", "depth", "patch"), [(64, 64, 2, 8), (96, 192, 3, 16)])
def test_operations_of_a_vit(side: int, dim: int, depth: int, patch: int) -> None:
    args = {"img_size": side, "patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": 2}
    model = build_vit("vit_tiny_patch16_224", args).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, side, side))
    assert vit_flops((side // patch) ** 2 + 1, dim, depth, patch) == pytest.approx(counter.get_total_flops(), rel=0.01)
