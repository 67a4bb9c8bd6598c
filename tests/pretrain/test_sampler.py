"""The order of samples: complete, repeatable, the same for any number of processes and from any step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.errors import StageError
from components.pretrain.sampler import ORDER_STREAM, VIEW_STREAM, EpochSampler


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.sampled_from([1, 2, 3, 4]), st.integers(0, 40), st.integers(0, 99))
def test_ranks_together_see_the_batches_of_one(n: int, local: int, world: int, start: int, seed: int) -> None:
    batch = local * world
    if n < batch:
        n += batch
    one = list(EpochSampler(n, batch, seed, steps=40))
    ranks = [list(EpochSampler(n, batch, seed, steps=40, rank=r, world=world)) for r in range(world)]
    assert [[key for part in parts for key in part] for parts in zip(*ranks, strict=True)] == one
    assert list(EpochSampler(n, batch, seed, steps=40, start=start)) == one[start:]


def test_an_epoch_visits_every_sample_once_but_the_incomplete_batch() -> None:
    sampler = EpochSampler(23, 5, seed=1, steps=12)
    assert sampler.steps_per_epoch == 4 and len(sampler) == 12
    keys = [key for batch in sampler for key in batch]
    for epoch in range(3):
        seen = keys[20 * epoch : 20 * epoch + 20]
        assert {key.epoch for key in seen} == {epoch}
        samples = [key.sample for key in seen]
        assert [(key.step, key.place, key.batch) for key in seen] == [
            (4 * epoch + batch, place, 5) for batch in range(4) for place in range(5)
        ]
        assert len(set(samples)) == 20 and set(samples) <= set(range(23))
        assert samples == sampler.order(epoch)[:20].tolist()


def test_orders_differ_by_epoch_and_seed() -> None:
    orders = [EpochSampler(50, 5, seed, steps=1).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


def test_order_and_views_share_no_random_numbers() -> None:
    """Seeds (a, b) and (a, b, 0) would give one stream; the first word keeps the two uses apart."""
    assert np.random.default_rng((3, 0)).random() == np.random.default_rng((3, 0, 0)).random()
    order, views = np.random.default_rng((ORDER_STREAM, 3, 0)), np.random.default_rng((VIEW_STREAM, 3, 0, 0))
    assert order.random() != views.random()


def test_a_draw_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(StageError, match=r"the draw has 3 samples, one batch needs 4"):
        EpochSampler(3, 4, 0, steps=1)


@pytest.mark.parametrize(("batch", "rank", "world"), [(5, 0, 2), (4, 2, 2), (4, -1, 2)])
def test_batches_that_cannot_be_shared_are_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        EpochSampler(10, batch, 0, steps=1, rank=rank, world=world)
