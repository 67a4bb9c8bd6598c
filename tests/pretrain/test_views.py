"""Views of a sample: what is shared, what is drawn anew, and whether the geometry tells the truth about the pixels."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pictures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.pretrain.plan import ClipCrop, Crop, Photometric, ViewPlan
from components.pretrain.views import cut_views, draw_views, make_views, smallest_decode, view_shapes

PLAIN = Photometric(jitter_p=0.0, grey_p=0.0, blur_p=0.0)
LOUD = Photometric(jitter_p=1.0, grey_p=0.0, blur_p=0.0)


def plan(*crops: Crop, n_frames: int = 1, clip: ClipCrop | None = None) -> ViewPlan:
    return ViewPlan("frame", n_frames, crops, clip)


def crop(name: str = "global", size: int = 64, views: int = 2, colours: Photometric = PLAIN, **more: object) -> Crop:
    return Crop(name, size, (0.2, 1.0), (colours,) * views, **more)  # type: ignore[arg-type]


def coordinates(height: int, width: int, levels_per_px: int = 1) -> np.ndarray:
    """An image that says where each pixel lies: red grows with x, green with y."""
    y, x = np.mgrid[:height, :width] * levels_per_px
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def assert_true(view: np.ndarray, geometry: np.ndarray, slack_px: float, levels_per_px: int = 1) -> None:
    """Each pixel of a view of `coordinates` lies where the geometry says, but for a rim in which filters fold."""
    size = len(view)
    x0, y0, x1, y1, flip = geometry.tolist()
    steps = (np.arange(size) + 0.5) / size
    xs = x0 + (x1 - x0) * (1 - steps if flip else steps) - 0.5
    ys = y0 + (y1 - y0) * steps - 0.5
    rim = slice(4, -4)
    assert np.abs(view[size // 2, :, 0] / levels_per_px - xs)[rim].max() <= slack_px
    assert np.abs(view[:, size // 2, 1] / levels_per_px - ys)[rim].max() <= slack_px


def test_geometry_tells_where_each_pixel_came_from() -> None:
    frame, flips = coordinates(200, 250), set()
    for seed in range(12):
        views, geometry = make_views([frame], plan(crop(), crop("local", 24)), np.random.default_rng(seed))
        for name in ("global", "local"):
            for view, where in zip(views[name][:, 0], geometry[name][:, 0], strict=True):
                assert_true(view, where, slack_px=1.0)
                flips.add(where[4])
    assert flips == {0.0, 1.0}


def test_geometry_goes_through_the_clip_crop() -> None:
    frame = coordinates(200, 250)
    for seed in range(8):
        wanted = plan(crop(size=80), clip=ClipCrop(size_px=160, scale=(0.3, 0.9)))
        views, geometry = make_views([frame], wanted, np.random.default_rng(seed))
        x0, y0, x1, y1 = geometry["global"][:, 0, :4].T
        assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 250.001).all() and (y1 <= 200.001).all()
        for view, where in zip(views["global"][:, 0], geometry["global"][:, 0], strict=True):
            assert_true(view, where, slack_px=1.5)  # two roundings to whole levels


@pytest.mark.parametrize("clip", [None, ClipCrop(size_px=28, scale=(0.5, 1.0))])
def test_geometry_is_true_on_frames_decoded_at_half_size(clip: ClipCrop | None) -> None:
    height, width = 51, 63
    half = cv2.resize(coordinates(52, 64, 4), (32, 26), interpolation=cv2.INTER_AREA)  # libjpeg rounds sides up
    wanted, moved = plan(crop(size=16), clip=clip), 0.0
    for seed in range(20):
        draw = draw_views(height, width, wanted, np.random.default_rng(seed))
        views = {"global": np.empty((2, 1, 16, 16, 3), np.uint8)}
        geometry, whole = ({"global": np.empty((2, 1, 5), np.float32)} for _ in range(2))
        cut_views([coordinates(height, width, 4)], wanted, draw, views, whole)
        cut_views([half], wanted, draw, views, geometry, factor=2)
        moved = max(moved, float(np.abs(whole["global"] - geometry["global"]).max()))
        for view, where in zip(views["global"][:, 0], geometry["global"][:, 0], strict=True):
            assert_true(view, where, slack_px=0.5, levels_per_px=4)
    assert 0 < moved <= 2  # to the grid of the smaller image, and off the rim that it holds in part


def test_a_pair_shares_geometry_and_not_colours() -> None:
    frame = pictures.drawn()[0]
    paired = crop(views=3, colours=LOUD, frames=(0, 1))
    views, geometry = make_views([frame, frame], plan(paired, n_frames=2), np.random.default_rng(0))
    boxes = geometry["global"]
    assert np.array_equal(boxes[:, 0], boxes[:, 1])
    assert len(np.unique(boxes[:, 0], axis=0)) == 3  # each view has its own
    assert all((views["global"][v, 0] != views["global"][v, 1]).any() for v in range(3))
    same = replace(paired, shared_photometric=True)
    views, _ = make_views([frame, frame], plan(same, n_frames=2), np.random.default_rng(0))
    assert np.array_equal(views["global"][:, 0], views["global"][:, 1])


def test_without_shared_geometry_each_frame_has_its_own_box() -> None:
    frame = coordinates(200, 250)
    local = crop("local", 24, views=4, frames=(0, 1, 2), shared_geometry=False, flip_p=0.0)
    _, geometry = make_views([frame] * 3, plan(local, n_frames=3), np.random.default_rng(0))
    assert len(np.unique(geometry["local"].reshape(12, 5), axis=0)) == 12
    assert not geometry["local"][..., 4].any()


def test_the_clip_crop_is_one_for_all_frames() -> None:
    frame = coordinates(200, 250)
    wanted = plan(crop(views=1, frames=(0, 1, 2)), n_frames=3, clip=ClipCrop(128, (0.2, 0.5)))
    views, _ = make_views([frame] * 3, wanted, np.random.default_rng(3))
    assert np.array_equal(views["global"][0, 0], views["global"][0, 1])
    assert np.array_equal(views["global"][0, 0], views["global"][0, 2])


def test_groups_take_the_frames_they_ask_for() -> None:
    frames = [np.full((50, 60, 3), level, np.uint8) for level in (10, 90, 200)]
    wanted = plan(crop(views=1, frames=(2, 0)), crop("local", 8, views=1, frames=(1,)), n_frames=3)
    views, _ = make_views(frames, wanted, np.random.default_rng(0))
    assert [int(v.mean()) for v in views["global"][0]] == [200, 10]
    assert int(views["local"].mean()) == 90


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (60, 72)])
def test_a_whole_crop_is_the_largest_centred_box_of_its_ratio(size: tuple[int, int]) -> None:
    """T-CoRe's past and future frames: the frame itself within 3/4 to 4/3, else its middle; never moved or flipped."""
    height, width = size
    whole = crop(views=2, size=24, whole=True, flip_p=0.0, frames=(0, 1), colours=LOUD)
    drawn = [make_views([coordinates(*size)] * 2, plan(whole, n_frames=2), np.random.default_rng(s)) for s in range(3)]
    boxes = np.concatenate([geometry["global"].reshape(-1, 5) for _, geometry in drawn])
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    x, y = (width - w) // 2, (height - h) // 2
    assert np.array_equal(np.unique(boxes, axis=0), [[x, y, x + w, y + h, 0]])
    views = drawn[0][0]["global"].reshape(4, -1)
    assert len(np.unique(views, axis=0)) == 4  # colours are drawn for each view of each frame


def test_whole_crops_are_decoded_as_small_as_they_may_be() -> None:
    wanted = plan(crop(size=50, views=1, whole=True))
    assert smallest_decode(draw_views(480, 640, wanted, np.random.default_rng(0)), wanted) == 8
    assert smallest_decode(draw_views(210, 640, wanted, np.random.default_rng(0)), wanted) == 4
    both = plan(crop(size=50, views=1, whole=True), Crop("local", 50, (0.05, 0.05), (PLAIN,)))
    assert smallest_decode(draw_views(480, 640, both, np.random.default_rng(0)), both) == 2


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_geometry_of_a_whole_crop_is_true_on_frames_decoded_smaller(factor: int) -> None:
    height, width = 203, 251
    small = cv2.resize(coordinates(208, 256), (-(-width // factor), -(-height // factor)), interpolation=cv2.INTER_AREA)
    wanted = plan(crop(size=24, views=1, whole=True))
    draw = draw_views(height, width, wanted, np.random.default_rng(0))
    views, geometry = {"global": np.empty((1, 1, 24, 24, 3), np.uint8)}, {"global": np.empty((1, 1, 5), np.float32)}
    cut_views([small], wanted, draw, views, geometry, factor)
    assert np.abs(geometry["global"][0, 0, :4] - [0, 0, width, height]).max() < factor
    assert_true(views["global"][0, 0], geometry["global"][0, 0], slack_px=0.05 * 251 + 1)


def test_a_clip_may_share_colours_and_draw_the_blurs_sigma_for_each_frame() -> None:
    blurred = Photometric(jitter_p=1.0, grey_p=0.5, blur_p=0.5)
    one = crop(views=4, colours=blurred, frames=(0, 1, 2), shared_photometric=True, blur_sigma_per_frame=True)
    draw = draw_views(60, 60, plan(one, n_frames=3), np.random.default_rng(0))
    sigmas = []
    for view in draw.views["global"]:
        assert len({frame.colour._replace(blur_sigma_px=None) for frame in view}) == 1
        assert len({frame.colour.blur_sigma_px is None for frame in view}) == 1  # to blur or not is the clip's
        sigmas += [frame.colour.blur_sigma_px for frame in view if frame.colour.blur_sigma_px is not None]
    assert len(sigmas) in (3, 6, 9) and len(set(sigmas)) == len(sigmas)
    same = replace(one, blur_sigma_per_frame=False)
    draw = draw_views(60, 60, plan(same, n_frames=3), np.random.default_rng(0))
    assert all(len({frame.colour for frame in view}) == 1 for view in draw.views["global"])


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(2, 120), st.integers(2, 120)),
    side=st.integers(4, 48),
    views=st.integers(1, 3),
    n_frames=st.integers(1, 3),
    clip=st.sampled_from([None, ClipCrop(40, (0.2, 1.0))]),
    shared=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_any_plan_gives_its_shapes_inside_the_frame_and_repeats(
    size: tuple[int, int], side: int, views: int, n_frames: int, clip: ClipCrop | None, shared: bool, seed: int
) -> None:
    height, width = size
    frames = list(np.random.default_rng(0).integers(0, 256, (n_frames, height, width, 3), dtype=np.uint8))
    group = crop(size=side, views=views, colours=Photometric(), frames=tuple(range(n_frames)), shared_geometry=shared)
    wanted = plan(group, n_frames=n_frames, clip=clip)
    cut, geometry = make_views(frames, wanted, np.random.default_rng(seed))
    again, same = make_views(frames, wanted, np.random.default_rng(seed))
    assert cut["global"].shape == view_shapes(wanted)["global"] == (views, n_frames, side, side, 3)
    assert cut["global"].dtype == np.uint8 and geometry["global"].dtype == np.float32
    assert np.array_equal(cut["global"], again["global"]) and np.array_equal(geometry["global"], same["global"])
    x0, y0, x1, y1, flip = np.moveaxis(geometry["global"].astype(float), -1, 0)
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 > x0).all() and (y1 > y0).all()
    assert (x1 <= width + 1e-3).all() and (y1 <= height + 1e-3).all() and np.isin(flip, (0, 1)).all()


def test_the_smallest_decode_is_the_one_that_scales_nothing_up() -> None:
    wanted = plan(crop(size=50, views=4))
    for seed in range(20):
        draw = draw_views(480, 640, wanted, np.random.default_rng(seed))
        shortest = min(min(frame.box.w, frame.box.h) for view in draw.views["global"] for frame in view)
        assert smallest_decode(draw, wanted) == max(f for f in (1, 2, 4, 8) if f == 1 or shortest / f >= 50)
    clip = plan(crop(size=50), clip=ClipCrop(100, (1.0, 1.0), (1.0, 1.0)))
    assert smallest_decode(draw_views(480, 480, clip, np.random.default_rng(0)), clip) == 4


def test_frames_are_left_as_they_were() -> None:
    frame = pictures.drawn()[0]
    before = frame.copy()
    make_views([frame], plan(crop(colours=Photometric(solarise_p=1.0))), np.random.default_rng(0))
    assert np.array_equal(frame, before)


def test_recoloured_views_lie_where_they_lay() -> None:
    """Every recipe takes the new values and keeps its others; boxes and flips are the same draws."""
    published = plan(crop(colours=LOUD), crop("local", 24, 3, Photometric(solarise_p=0.2)))
    mild = published.recoloured(jitter_p=0.25, hue=0.0)
    for before, after in zip(published.crops, mild.crops, strict=True):
        assert after == replace(before, photometric=after.photometric)
        assert after.photometric == tuple(replace(r, jitter_p=0.25, hue=0.0) for r in before.photometric)
    assert published.recoloured() == published
    draws = [draw_views(90, 120, p, np.random.default_rng(3)).views for p in (published, mild)]
    places = [[(v.box, v.flip) for views in draw.values() for frames in views for v in frames] for draw in draws]
    assert places[0] == places[1]
