"""The rasteriser against naive ones: every toy drawn alone, every part warped by scipy over the whole frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from components.download.world.classes import JOINTS, PART
from components.download.world.config import WorldParams
from components.download.world.render import Frame, Renderer
from components.download.world.scene import Actor, Shot, make_shot

PARAMS = WorldParams(width_px=160, height_px=120, objects=(5, 7))
SIZE = (160, 120)


def draw(shot: Shot, *times: float) -> list[Frame]:
    return list(Renderer(PARAMS, shot).frames(np.array(times)))


@pytest.fixture(scope="module")
def crowd() -> Shot:
    return make_shot(PARAMS, "train", "mixed", 11, 0, 4.0)


@pytest.fixture(scope="module")
def walker() -> Shot:
    return make_shot(PARAMS, "val", "people", 0, 0, 4.0)


def alone(shot: Shot, actor: Actor) -> Shot:
    return replace(shot, actors=(actor,))


def depth(actor: Actor, t: float) -> tuple[bool, float, int]:
    """What flies is before what stands; then the nearer (larger y); then the later number."""
    return actor.body.altitude > 0, float(actor.position(np.array([t]))[0, 1]), actor.number


def test_the_nearest_toy_owns_each_pixel(crowd: Shot) -> None:
    overlaps = 0
    for t in (0.0, 1.3, 2.9):
        (together,) = draw(crowd, t)
        expected = np.zeros_like(together.ids)
        whole = {}
        for actor in sorted(crowd.actors, key=lambda a: depth(a, t)):
            mask = draw(alone(crowd, actor), t)[0].ids > 0
            overlaps += np.count_nonzero(mask & (expected > 0))
            expected[mask] = actor.number
            whole[actor.number] = int(mask.sum())
        np.testing.assert_array_equal(together.ids, expected)
        assert {seen.number: seen.whole_px for seen in together.seen} == {n: px for n, px in whole.items() if px}
    assert overlaps > 200  # the case is there to be tested


def test_masks_agree_with_scipy(crowd: Shot) -> None:
    """Masks from scipy's bilinear interpolation of each part over the whole frame: equal up to rounding at contours."""
    t = np.array([1.3])
    actor = max(crowd.actors, key=lambda a: len(a.body.parts))
    shot = alone(crowd, actor)
    renderer = Renderer(PARAMS, shot)
    (frame,) = renderer.frames(t)
    place = shot.view(t, SIZE)[0] @ actor.stand(t)[0]
    mask = np.zeros((120, 160), bool)
    for name, pose in actor.body.pose(actor.clocks(t)).items():
        sprite = renderer.sprites[actor.number][name]
        back = np.linalg.inv(place @ pose[0] @ sprite.to_part)  # frame (x, y) -> sprite (x, y)
        rows_first = back[:2, :2][::-1, ::-1]
        alpha = affine_transform(
            sprite.pixels[..., 3].astype(float), rows_first, back[:2, 2][::-1], (120, 160), order=1, mode="constant"
        )
        mask |= alpha > 127.5
    assert mask.sum() > 300
    assert np.count_nonzero(mask != (frame.ids > 0)) <= 0.01 * mask.sum()


def test_pictures_change_only_where_the_toy_or_its_shadow_is(crowd: Shot) -> None:
    actor = next(a for a in crowd.actors if draw(alone(crowd, a), 1.3)[0].seen)
    empty, full = draw(replace(crowd, actors=()), 1.3)[0], draw(alone(crowd, actor), 1.3)[0]
    changed = (empty.image != full.image).any(axis=2)
    assert changed[full.ids > 0].mean() > 0.97
    np.testing.assert_array_equal(empty.ground, full.ground)
    outside = changed & (full.ids == 0)
    darker = full.image.astype(int).sum(axis=2) <= empty.image.astype(int).sum(axis=2) + 3
    # outside the mask there are its soft edge (less than half covered) and the shadow, which only darkens
    assert darker[outside].mean() > 0.5


def test_joints_lie_on_the_person(walker: Shot) -> None:
    lead = walker.follows
    assert lead is not None
    for frame in draw(replace(walker, actors=(lead,)), 0.0, 0.7, 1.9, 3.1):
        (seen,) = frame.seen
        assert seen.joints is not None and seen.joints.shape == (15, 2)
        rows, columns = np.nonzero(frame.ids == seen.number)
        for x, y in seen.joints:
            assert np.hypot(columns - x, rows - y).min() < 1.5
        box = np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()])
        assert (seen.joints >= box[0] - 1).all() and (seen.joints <= box[1] + 1).all()


def test_bones_keep_their_length(walker: Shot) -> None:
    lead = walker.follows
    assert lead is not None
    times = np.linspace(0, 3.9, 30)
    frames = draw(replace(walker, actors=(lead,)), *times)
    index = {name: k for k, name in enumerate(JOINTS)}
    # undo the camera and the paper-thin turning: bones are rigid in body coordinates
    back = np.linalg.inv(walker.view(times, SIZE) @ lead.stand(times))
    for a, b in (("right_knee", "right_ankle"), ("left_shoulder", "left_elbow"), ("right_elbow", "right_wrist")):
        lengths = []
        for frame, undo in zip(frames, back, strict=True):
            joints = frame.seen[0].joints
            assert joints is not None
            ends = (undo @ np.c_[joints[[index[a], index[b]]], np.ones(2)].T)[:2].T
            lengths.append(np.linalg.norm(ends[0] - ends[1]))
        np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)


@pytest.mark.parametrize("heading", [1.0, -1.0])
def test_sides_swap_when_a_person_looks_the_other_way(walker: Shot, heading: float) -> None:
    """The near leg is the right one looking to the right of the picture, the left one looking to the left."""
    lead = walker.follows
    assert lead is not None
    calm = replace(lead, course=np.array([heading, 0.0]), wobble=np.zeros((2, 3)), speed=0.3)
    shot = replace(walker, actors=(calm,), follows=calm)
    for frame in draw(shot, 0.3, 0.9):
        joints = frame.seen[0].joints
        assert joints is not None
        named = dict(zip(JOINTS, joints, strict=True))
        for side in ("right", "left"):
            rows, columns = np.nonzero(frame.parts == PART[f"{side}-shoe"])
            if len(rows) > 8:
                shoe = np.array([columns.mean(), rows.mean()])
                other = "left" if side == "right" else "right"
                own_far = np.linalg.norm(shoe - named[f"{side}_ankle"])
                if np.linalg.norm(named["right_ankle"] - named["left_ankle"]) > 8:
                    assert own_far < np.linalg.norm(shoe - named[f"{other}_ankle"])
        # the near leg is drawn over the far one, so it shows at least as many pixels of shoe
        near = "right" if heading > 0 else "left"
        far = "left" if heading > 0 else "right"
        assert np.count_nonzero(frame.parts == PART[f"{near}-shoe"]) > 0
        assert named[f"{near}_hip"] @ (heading, 0) < named[f"{far}_hip"] @ (heading, 0)


def test_parts_cover_people_and_nothing_else(walker: Shot) -> None:
    for frame in draw(walker, 0.0, 2.0):
        people = [seen.number for seen in frame.seen if seen.kind == "person"]
        np.testing.assert_array_equal(frame.parts > 0, np.isin(frame.ids, people))
        assert frame.parts.max() < len(PART)


def test_light_changes_over_time(crowd: Shot) -> None:
    still = replace(crowd, actors=(), camera=replace(crowd.camera, swing=np.zeros(2), zoom=(0, 0, 0), roll=(0, 0, 0)))
    times = np.linspace(0, 12, 9)
    levels = [frame.image.mean() for frame in Renderer(PARAMS, still).frames(times)]
    gains = still.light.gains(times).mean(axis=1)
    assert np.ptp(levels) > 1
    assert np.corrcoef(levels, gains)[0, 1] > 0.98
