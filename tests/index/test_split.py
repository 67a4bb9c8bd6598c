"""Splits: stable for a video whatever the others are, and of about the asked share."""

from __future__ import annotations

import numpy as np
import pytest

from components.common.clip_index import TRAIN, VAL
from components.common.errors import StageError
from components.index.split import split_videos

NAMES = [f"video {number}" for number in range(4000)]


def test_a_video_keeps_its_side_when_others_come_or_go() -> None:
    whole = split_videos(NAMES, 0.3, seed=1)
    np.testing.assert_array_equal(split_videos(NAMES[::7], 0.3, seed=1), whole[::7])
    np.testing.assert_array_equal(split_videos(NAMES[::-1], 0.3, seed=1), whole[::-1])


def test_the_share_holds_and_grows_by_adding() -> None:
    tenth, third = (split_videos(NAMES, share, seed=0) == VAL for share in (0.1, 0.3))
    assert abs(tenth.mean() - 0.1) < 0.02
    assert abs(third.mean() - 0.3) < 0.03
    assert third[tenth].all()  # a larger share holds out the same videos and more
    assert (split_videos(NAMES, 0.0, seed=0) == TRAIN).all()


def test_the_seed_decides_and_copies_stay_together() -> None:
    assert (split_videos(NAMES, 0.3, seed=0) != split_videos(NAMES, 0.3, seed=1)).any()
    assert len(set(split_videos(["same bytes"] * 5, 0.2, seed=0).tolist())) == 1


def test_a_corpus_that_would_be_all_held_out() -> None:
    with pytest.raises(StageError, match=r"val_share = 0.99 holds out all 1 videos"):
        split_videos(["a"], 0.99, seed=0)
