"""What a draw may say, and what is told when it says something else."""

from __future__ import annotations

import pytest

from components.common.config import parse
from components.common.errors import StageError
from components.index.config import ClipDraw, IndexParams, OffsetsDraw, RangesDraw, SpanDraw

from .conftest import params


def test_four_kinds_of_draws() -> None:
    draws = params({
        "pair": {"offsets_s": [-0.5, 0, 0.5]},
        "clip": {"n_frames": 4.0, "gap_s": 0.5},
        "past_and_future": {"ranges_s": [[-2, -1], [1, 2], [3, 4]]},
        "whole": {"span": "segment", "min_s": 2},
    }).draws  # fmt: skip
    assert isinstance(draws["pair"], OffsetsDraw)
    assert draws["pair"].anchor == 1
    assert isinstance(draws["clip"], ClipDraw)
    assert draws["clip"].offsets_s == (0, 0.5, 1.0, 1.5)
    assert draws["clip"].anchor == 0
    assert isinstance(draws["past_and_future"], RangesDraw)
    assert draws["past_and_future"].anchor == 1
    assert draws["whole"] == SpanDraw(span="segment", min_s=2.0, min_frames=2)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        ({"offsets_s": [0.5]}, "one offset must be 0"),
        ({"offsets_s": [0, 0]}, "offsets must rise"),
        ({"offsets_s": [0.5, 0]}, "offsets must rise"),
        ({"offsets_s": []}, "at least 1 item"),
        ({"offsets_s": [0, float("nan")]}, "finite"),
        ({"offsets_s": [0, 0.05]}, "0.05 s apart, not above twice tolerance_s"),
        ({"offset_s": [0]}, "a draw has `offsets_s`, or `n_frames` and `gap_s`, or `ranges_s`, or `span`"),
        ({"span": "shot"}, "'segment' or 'video'"),
        ({"span": "video", "min_s": 3, "max_s": 3}, "no piece would be kept"),
        ({"offsets_s": [0], "stride": 2}, "unknown key 'draws.d.stride'"),
        ({"n_frames": 1, "gap_s": 0.5}, "greater than 1"),
        ({"n_frames": 2}, "missing key"),
        ({"n_frames": 2, "gap_s": 0}, "greater than 0"),
        ({"ranges_s": [[-1, 1]]}, "leave out 0"),
        ({"ranges_s": [[1, 2], [-2, -1]]}, "must rise"),
        ({"ranges_s": [[2, 1]]}, "must rise"),
        ({"ranges_s": [[1, 2], [2, 3]]}, "must not touch"),
        (None, "a draw has"),
        (3, "a draw has"),
    ],
)
def test_a_wrong_draw_is_one_clear_line(draw: object, message: str) -> None:
    with pytest.raises(StageError) as error:
        parse(IndexParams, {"draws": {"d": draw}}, "params.yaml")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "../x", "a.b", "a b"])
def test_a_draw_is_named_like_a_file(name: str) -> None:
    with pytest.raises(StageError, match="letters, digits and underscores"):
        parse(IndexParams, {"draws": {name: {"offsets_s": [0]}}}, "params.yaml")


def test_a_mistyped_key_names_the_nearest() -> None:
    with pytest.raises(StageError, match="did you mean 'every_s'"):
        parse(IndexParams, {"draws": {"d": {"offsets_s": [0]}}, "fingerprint": {"evry_s": 1}}, "params.yaml")
