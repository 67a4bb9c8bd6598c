"""Schedules against the formulas of DINO's released code, written out with numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import StageError
from components.pretrain.config import TrainerParams
from components.pretrain.schedules import Schedule, cosine


def reference(base: float, final: float, total: int, warmup: int = 0) -> np.ndarray:
    """linspace, then a cosine over the rest: the whole table at once."""
    rest = np.arange(total - warmup)
    wave = final + 0.5 * (base - final) * (1 + np.cos(np.pi * rest / len(rest)))
    return np.concatenate([np.linspace(0, base, warmup), wave])


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 5), st.integers(1, 2048))
def test_every_step_equals_the_reference_table(epochs: int, per_epoch: int, warmup: int, batch: int) -> None:
    params = TrainerParams(epochs=epochs, warmup_epochs=min(warmup, epochs - 1), batch_size=batch)
    schedule = Schedule.plan(params, per_epoch)
    total, steps = epochs * per_epoch, range(epochs * per_epoch)
    assert schedule.total == total
    lr = reference(5e-4 * batch / 256, 1e-6, total, min(warmup, epochs - 1) * per_epoch)
    np.testing.assert_allclose([schedule.at(s).lr for s in steps], lr, rtol=1e-12)
    np.testing.assert_allclose([schedule.at(s).weight_decay for s in steps], reference(0.04, 0.4, total), rtol=1e-12)
    np.testing.assert_allclose([schedule.at(s).momentum for s in steps], reference(0.996, 1.0, total), rtol=1e-12)


def test_warm_up_starts_at_zero_and_reaches_the_peak_twice() -> None:
    schedule = Schedule.plan(TrainerParams(epochs=4, warmup_epochs=2, batch_size=512), 10)
    lrs = [schedule.at(s).lr for s in range(40)]
    assert lrs[0] == 0
    assert lrs[19] == lrs[20] == pytest.approx(1e-3)
    assert lrs[21] < lrs[20] and lrs[18] < lrs[19]


@pytest.mark.parametrize(("rule", "peak"), [("linear", 4e-3), ("sqrt", 2e-3), ("none", 1e-3)])
def test_the_peak_grows_with_the_batch_as_the_rule_says(rule: str, peak: float) -> None:
    params = TrainerParams.model_validate(
        {"lr": 1e-3, "lr_rule": rule, "lr_batch": 128, "batch_size": 512, "warmup_epochs": 0, "epochs": 2}
    )
    assert Schedule.plan(params, 10).at(0).lr == pytest.approx(peak)


def test_max_steps_ends_the_schedules_with_the_run() -> None:
    schedule = Schedule.plan(TrainerParams(epochs=100, max_steps=50, warmup_epochs=0), 10)
    assert (schedule.total, schedule.epochs) == (50, 5.0)
    assert schedule.at(49).lr < 1e-5
    assert schedule.at(49).momentum > 0.99999


def test_an_untrained_run_has_no_steps_and_needs_no_warm_up() -> None:
    assert Schedule.plan(TrainerParams(epochs=0), 10).total == 0
    assert Schedule.plan(TrainerParams(max_steps=0), 10).total == 0


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(StageError, match="the warm-up takes 100 steps, the whole run 20") as error:
        Schedule.plan(TrainerParams(max_steps=20), 10)
    assert "trainer.warmup_epochs" in str(error.value)


def test_cosine_is_halfway_in_the_middle() -> None:
    assert cosine(1.0, 0.0, 0, 10) == 1.0
    assert cosine(1.0, 0.0, 5, 10) == pytest.approx(0.5)
