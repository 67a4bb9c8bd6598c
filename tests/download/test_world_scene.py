"""The scene: what happens does not depend on how it is filmed, and follows its own laws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.config import parse
from components.common.errors import StageError
from components.download.world.bodies import MAKERS
from components.download.world.body import Clocks
from components.download.world.classes import JOINTS, KINDS, NAMES
from components.download.world.clip import Clip
from components.download.world.config import WorldParams
from components.download.world.ground import EXTENT
from components.download.world.scene import LIFE_S, Shot, make_shot

TINY = {"width_px": 96, "height_px": 64, "clip_s": 1.0, "fps": 4}


def shot(number: int, seed: int = 0, length: float = 10.0, theme: str = "mixed") -> Shot:
    return make_shot(WorldParams(seed=seed), "train", theme, number, 0, length)  # type: ignore[arg-type]


def first_image(split: str, number: int, **params: object) -> np.ndarray:
    clip = Clip(WorldParams(**{**TINY, **params}), split, number)
    return next(clip.frames([0]))[1].image


def test_a_clip_depends_on_seed_split_and_number_alone() -> None:
    base = first_image("train", 3, clips=1, train_clips=9, workers=4)
    np.testing.assert_array_equal(base, first_image("train", 3, clips=50, train_clips=2))
    for other in (
        first_image("val", 3),
        first_image("pretrain", 3),
        first_image("train", 4),
        first_image("train", 3, seed=1),
    ):
        assert np.abs(base.astype(int) - other).mean() > 10


def test_a_scene_has_no_frame_rate() -> None:
    slow = dict(Clip(WorldParams(**TINY), "train", 1).frames())
    fast = dict(Clip(WorldParams(**{**TINY, "fps": 8}), "train", 1).frames())
    for number, frame in slow.items():
        np.testing.assert_array_equal(frame.image, fast[2 * number].image)
        np.testing.assert_array_equal(frame.ids, fast[2 * number].ids)


def test_frames_can_be_asked_for_alone() -> None:
    clip = Clip(WorldParams(**{**TINY, "clip_s": 5.0}), "val", 0)  # longer than a block of poses
    everything = dict(clip.frames())
    assert list(everything) == list(range(20))
    for number in (0, 7, 8, 19):
        ((found, frame),) = clip.frames([number])
        assert found == number
        np.testing.assert_array_equal(frame.image, everything[number].image)
    picture_only = dict(clip.frames([7], truth=False))[7]
    np.testing.assert_array_equal(picture_only.image, everything[7].image)


@given(seed=st.integers(0, 10_000), number=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_toys_enter_and_leave(seed: int, number: int) -> None:
    """At both ends of its life a toy is out of the camera's sight; it moves continuously in between."""
    scene = shot(number, seed)
    aspect = 256 / 192
    for actor in scene.actors:
        ends = np.array(actor.life)
        reach = np.array([aspect / 2, 0.5]) * np.exp(scene.camera.zoom[0]) + 2 * actor.size
        for t in ends:
            time = np.array([t])
            apart = np.abs(actor.position(time) - scene.camera.centre(time))[0]
            assert (apart > reach + actor.size * actor.body.altitude * np.array([0, 1])).any()
        times = np.linspace(actor.meets - LIFE_S, actor.meets + LIFE_S, 2000)
        assert np.abs(np.diff(actor.position(times), axis=0)).max() < 0.05


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_toys_look_where_they_go(seed: int) -> None:
    times = np.linspace(0, 10, 400)
    for actor in shot(0, seed).actors:
        here, there = actor.position(times - 1e-4)[:, 0], actor.position(times + 1e-4)[:, 0]
        speed = (there - here) / 2e-4
        facing = actor.facing(times)
        moving = np.abs(speed) > 1e-3
        assert (np.sign(facing[moving]) == np.sign(speed[moving])).all()
        assert (np.abs(facing) <= 1).all()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_the_camera_stays_over_the_sheet(seed: int) -> None:
    camera = shot(0, seed).camera
    times = np.linspace(0, 3600, 5000)
    assert (camera.centre(times) > 0).all() and (camera.centre(times) < EXTENT).all()
    speed = np.linalg.norm(np.diff(camera.centre(np.linspace(0, 600, 60_001)), axis=0), axis=1).mean() / 0.01
    assert 0.05 < speed < 0.6  # camera_units_per_s is 0.2


def test_a_wheel_rolls_without_slipping() -> None:
    body = MAKERS["car"](np.random.default_rng(0))
    forward = np.array([0.0, 0.05, 0.11])
    pose = body.pose(Clocks(forward, forward, forward))["front"]
    radius = 0.22
    for matrix, gone in zip(pose, forward, strict=True):
        centre = matrix @ (0, 0, 1)
        np.testing.assert_allclose(centre[1], -radius)
        # the rim point that touched the ground at the start has turned forward/radius, clockwise on screen
        rim = (matrix @ (0, radius, 1) - centre)[:2]
        angle = gone / radius
        np.testing.assert_allclose(rim, radius * np.array([-np.sin(angle), np.cos(angle)]), atol=1e-12)


def test_every_kind_has_looks_of_its_own_and_moving_parts() -> None:
    assert len(KINDS) >= 10 and set(MAKERS) == set(NAMES)
    early, late = (np.array([t]) for t in (0.1, 0.37))
    for make in MAKERS.values():
        body = make(np.random.default_rng(5))
        then, now = body.pose(Clocks(early, early, early)), body.pose(Clocks(late, late, late))
        assert any(not np.allclose(then[name], now[name]) for name in then)


def test_each_clip_shows_different_kinds() -> None:
    kinds = [actor.kind for actor in shot(0, length=20.0).actors]
    assert len(set(kinds[: len(NAMES)])) == min(len(kinds), len(NAMES))
    assert {actor.kind for number in range(12) for actor in shot(number).actors} == set(NAMES)


def test_people_clips_follow_a_person_with_fifteen_joints() -> None:
    scene = shot(2, length=60.0, theme="people")
    lead = scene.follows
    assert lead is scene.actors[0] and lead.kind == "person" and lead.action == "jump"
    size = (256, 192)
    for t in (0.0, 30.0, 59.0):
        times = np.array([t])
        x, y = (scene.view(times, size) @ (*(lead.position(times)[0] - (0, 0.5 * lead.size)), 1.0))[0, :2]
        assert abs(x - 128) < 40 and abs(y - 96) < 40
    assert len(JOINTS) == 15


def test_cuts_start_new_shots_and_only_where_they_may() -> None:
    params = WorldParams(**{**TINY, "clip_s": 12.0, "cuts_per_s": 0.5})
    clip = Clip(params, "pretrain", 0, cut_allowed=True)
    assert clip.cuts and all(0 < cut < params.n_frames for cut in clip.cuts)
    spans = [(start, end) for start, end, _ in clip.shots()]
    assert spans[0][0] == 0 and spans[-1][1] == params.n_frames
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    images = {number: frame.image.astype(int) for number, frame in clip.frames(truth=False)}
    steps = {number: np.abs(images[number] - images[number - 1]).mean() for number in list(images)[1:]}
    within = [step for number, step in steps.items() if number not in clip.cuts]
    assert min(steps[cut] for cut in clip.cuts) > np.median(within)
    assert Clip(params, "pretrain", 0).cuts == []


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"width_px": 97}, "must be even"),
        ({"objects": [5, 2]}, "objects must be"),
        ({"objects": [5, 200]}, "at most 100"),
        ({"object_size": [0.5, 1.4]}, "at most 1"),
        ({"layouts": ["davis", "davis"]}, "twice"),
        ({"layouts": ["davis"], "train_clips": 0, "val_clips": 0}, "both 0"),
        ({"layouts": ["devis"]}, "'layouts.0' = 'devis'"),
        ({"clip_seconds": 3}, "did you mean"),
        ({"fps": 0}, "'fps' = 0"),
    ],
)
def test_wrong_parameters_are_named(section: dict[str, object], message: str) -> None:
    with pytest.raises(StageError, match=message):
        parse(WorldParams, section, "params.yaml")


def test_kubeflow_turns_integers_into_floats() -> None:
    params = parse(WorldParams, {"clips": 2.0, "objects": [3.0, 4.0], "seed": 1.0}, "params.yaml")
    assert (params.clips, params.objects, params.seed) == (2, (3, 4), 1)
