"""Target objects: patches against painted pixels, crops that show them, and the choice that frames share."""

from __future__ import annotations

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import StageError
from components.common.object_index import FrameObjects
from components.pretrain.objects import (
    Candidates,
    Pixels,
    Region,
    aim,
    candidates,
    grown,
    object_patches,
    object_shapes,
)
from components.pretrain.plan import ClipCrop, Crop, ObjectTargets, Photometric, ViewPlan
from components.pretrain.views import SampleDraw, draw_views

H, W, SIDE, PATCH = 30, 40, 16, 4
PLAIN = (Photometric(),)


def a_plan(targets: ObjectTargets | None = None, **changes: Any) -> ViewPlan:
    """Two large views and a small one of frame 0, two of frame 1."""
    crops = (
        Crop("global", SIDE, (0.25, 1.0), PLAIN * 2),
        Crop("local", SIDE // 2, (0.05, 0.25), PLAIN),
        Crop("neighbour", SIDE, (0.25, 1.0), PLAIN * 2, frames=(1,)),
    )
    targets = targets or ObjectTargets(aware=("global", "neighbour"))
    return dataclasses.replace(ViewPlan("pair", 2, crops, objects=targets, patch_px=PATCH), **changes)


def frame(*objects: tuple[int, int, tuple[float, float, float, float]], labels: Any = None) -> FrameObjects:
    """A frame's objects from (track, category, box)."""
    track, category, box = zip(*objects, strict=True) if objects else ((), (), np.zeros((0, 4)))
    return FrameObjects(np.array(track, np.int32), np.array(category, np.int32), np.array(box, np.float32), labels)


def no_map(*place: int) -> bytes:
    raise AssertionError(f"nobody asked for the label map at {place}")


def box_region(*boxes: tuple[float, float, float, float]) -> Region:
    return Region(np.array(boxes, np.float32).reshape(-1, 4), None, np.zeros(len(boxes), np.int32))


def painted(boxes: Any, height: int = H, width: int = W) -> np.ndarray:
    """Pixels whose centre lies in a box, one by one."""
    picture = np.zeros((height, width), bool)
    for y in range(height):
        for x in range(width):
            picture[y, x] = any(x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1 for x0, y0, x1, y1 in boxes)
    return picture


def naive_view(picture: np.ndarray, view: Any, size: int) -> np.ndarray:
    """Cut a view by its nearest pixels, then mirror it."""
    x0, y0, x1, y1, flip = view
    out = np.zeros((size, size), picture.dtype)
    for i in range(size):
        for j in range(size):
            y = int(np.floor(y0 + (i + 0.5) / size * (y1 - y0)))
            x = int(np.floor(x0 + (j + 0.5) / size * (x1 - x0)))
            out[i, j] = picture[y, x]
    return out[:, ::-1] if flip else out


def naive_patches(seen: np.ndarray, margin: int, as_boxes: bool) -> np.ndarray:
    """Patches with any pixel; pieces found by spreading to eight neighbours; their rectangles grown cell by cell."""
    g = len(seen) // PATCH
    cells = {(i, j) for i in range(g) for j in range(g) if seen[i * PATCH :, j * PATCH :][:PATCH, :PATCH].any()}
    out = np.zeros((g, g), bool)
    left = set(cells)
    while left:
        piece, border = set(), {left.pop()}
        while border:
            piece |= border
            border = {(i + a, j + b) for i, j in border for a in (-1, 0, 1) for b in (-1, 0, 1)} & left
            left -= border
        rows, columns = [i for i, _ in piece], [j for _, j in piece]
        rectangle = {(i, j) for i in range(min(rows), max(rows) + 1) for j in range(min(columns), max(columns) + 1)}
        for i, j in rectangle if as_boxes else piece:
            for a in range(max(0, i - margin), min(g, i + margin + 1)):
                for b in range(max(0, j - margin), min(g, j + margin + 1)):
                    out[a, b] = True
    return out


@st.composite
def views(draw: st.DrawFn) -> tuple[float, float, float, float, float]:
    """Boxes as the loader gives them: whole pixels, or fractions of them within a clip crop."""
    step = draw(st.sampled_from([1.0, 0.37]))
    x0, y0 = draw(st.integers(0, W - 2)), draw(st.integers(0, H - 2))
    x1, y1 = draw(st.integers(x0 + 1, W)), draw(st.integers(y0 + 1, H))
    return x0 * step, y0 * step, x1 * step, y1 * step, draw(st.sampled_from([0.0, 1.0]))


sides = st.tuples(st.integers(-8, W * 4), st.integers(-8, H * 4), st.integers(1, W * 4), st.integers(1, H * 4))
box_lists = st.lists(sides.map(lambda s: (s[0] / 4, s[1] / 4, (s[0] + s[2]) / 4, (s[1] + s[3]) / 4)), max_size=3)


@settings(max_examples=80, deadline=None)
@given(box_lists, views(), st.integers(0, 2), st.booleans(), st.booleans())
def test_patches_equal_a_painted_label_map_cut_like_the_view(
    boxes: list[tuple[float, float, float, float]], view: Any, margin: int, as_boxes: bool, from_map: bool
) -> None:
    picture = painted(boxes)
    region = box_region(*boxes)
    if from_map:
        region = Region(region.boxes[:0], picture.astype(np.uint8) * 7, np.array([7]))
    seen = naive_view(picture, view, SIDE)
    pixels = Pixels.of(view, SIDE)
    np.testing.assert_array_equal(region.seen(pixels), seen)
    assert region.share(pixels) == pytest.approx(seen.mean(), abs=1e-12)
    targets = ObjectTargets(margin=margin, shape="box" if as_boxes else "silhouette")
    plan = ViewPlan("frame", 1, (Crop("global", SIDE, (0.2, 1), PLAIN),), objects=targets, patch_px=PATCH)
    patches = {"global": np.ones((1, 1, SIDE // PATCH, SIDE // PATCH), bool)}
    geometry = {"global": np.array(view, np.float64).reshape(1, 1, 5)}
    object_patches(plan, geometry, {0: region}, np.random.default_rng(0), patches)
    np.testing.assert_array_equal(patches["global"][0, 0], naive_patches(seen, margin, as_boxes))


def test_a_margin_grows_each_piece_alone_and_stays_inside() -> None:
    touched = np.zeros((6, 6), bool)
    touched[0, 0] = touched[3, 4] = touched[4, 5] = True  # the last two touch at a corner: one piece
    expected = np.zeros((6, 6), bool)
    expected[:2, :2] = expected[2:6, 3:6] = True
    np.testing.assert_array_equal(grown(touched, 1, as_boxes=True), expected)
    expected[5, 3] = expected[2, 3] = expected[2, 5] = expected[5, 3] = True
    silhouette = grown(touched, 1, as_boxes=False)
    assert not silhouette[5, 3] and silhouette[2, 3] and not (silhouette & ~expected).any()
    assert not grown(np.zeros((6, 6), bool), 2, as_boxes=True).any()


def test_a_random_margin_takes_every_value_up_to_it() -> None:
    plan = a_plan(ObjectTargets(margin=2, margin_draw="random", aware=("global",)))
    patches = {name: np.zeros(shape, bool) for name, shape in object_shapes(plan).items()}
    geometry = {crop.name: np.tile([0, 0, 16, 16, 0.0], (len(crop.photometric), 1, 1)) for crop in plan.crops}
    target, sizes = {0: box_region((0, 0, 1, 1)), 1: box_region((0, 0, 1, 1))}, set()
    for seed in range(40):
        object_patches(plan, geometry, target, np.random.default_rng(seed), patches)
        sizes |= {int(view.sum()) for view in patches["global"][:, 0]}
    assert sizes == {1, 4, 9}


def test_candidates_are_what_all_used_frames_share() -> None:
    frames = [
        frame((1, 0, (0, 0, 9, 9)), (2, 5, (1, 1, 5, 5)), (4, 5, (20, 20, 25, 25))),
        frame((2, 5, (3, 3, 8, 8)), (3, 0, (0, 0, 4, 4))),
        frame(),
    ]
    plan = a_plan(n_frames=3)  # the third frame shows nothing, and no crop uses it
    found = candidates(plan, frames, no_map)
    assert list(found) == [2] and found[2][1].boxes.tolist() == [[3, 3, 8, 8]]
    by_category = candidates(a_plan(ObjectTargets(by="category"), n_frames=3), frames, no_map)
    assert list(by_category) == [0, 5]
    assert by_category[5][0].boxes.tolist() == [[1, 1, 5, 5], [20, 20, 25, 25]]
    assert candidates(plan, [frames[0], frames[2], frames[1]], no_map) == {}


def test_label_maps_are_read_where_there_is_a_candidate() -> None:
    labels = np.zeros((H, W), np.uint16)
    labels[3:6, 8:20], labels[20:, :5] = 301, 5
    stream = io.BytesIO()
    Image.fromarray(labels).save(stream, "PNG")
    asked = []

    def read(*place: int) -> bytes:
        asked.append(place)
        return stream.getvalue()

    mapped = frame((4, 0, (0, 0, 1, 1)), (300, 1, (8, 3, 20, 6)), labels=(1, 2, 3))
    found = candidates(a_plan(), [mapped, frame((300, 1, (0, 0, 5, 5)))], read)
    assert asked == [(1, 2, 3)] and list(found) == [300]
    np.testing.assert_array_equal(
        found[300][0].seen(Pixels.of((0, 0, W, H, 0), SIDE)), naive_view(labels == 301, (0, 0, W, H, 0), SIDE)
    )
    assert found[300][1].labels is None
    assert candidates(a_plan(), [mapped, frame()], no_map) == {}
    with pytest.raises(StageError, match="a label map of the frame store cannot be decoded"):
        candidates(a_plan(), [mapped, frame((300, 1, (0, 0, 5, 5)))], lambda *place: b"no picture")


def drawn(plan: ViewPlan, seed: int) -> SampleDraw:
    return draw_views(H, W, plan, np.random.default_rng(seed))


def shows(draw: SampleDraw, plan: ViewPlan, name: str, region: Region) -> list[float]:
    """Share of each view of a group (frame by frame) that shows a region, by painting it."""
    crop = next(crop for crop in plan.crops if crop.name == name)
    picture = painted(region.boxes.tolist())
    boxes = [one.box for view in draw.views[name] for one in view]
    return [float(naive_view(picture, (b.x, b.y, b.x + b.w, b.y + b.h, 0), crop.size_px).mean()) for b in boxes]


TWO: Candidates = {
    3: {0: box_region((2, 2, 12, 12)), 1: box_region((20, 10, 30, 20))},
    8: {0: box_region((25, 15, 38, 28)), 1: box_region((0, 0, 9, 9))},
}


@pytest.mark.parametrize("aware", [("global", "neighbour"), ("global", "neighbour", "local"), ("neighbour",)])
def test_aware_crops_show_the_target_and_the_others_stay(aware: tuple[str, ...]) -> None:
    plan = a_plan(ObjectTargets(aware=aware, tries=(200, 200)))
    moved, chosen = 0, set()
    for seed in range(60):
        before = drawn(plan, seed)
        after, target = aim(before, plan, TWO, np.random.default_rng((7, seed)))
        assert target is not None
        chooser = next(crop for crop in plan.crops if crop.name == aware[0])
        assert shows(after, plan, chooser.name, target[chooser.frames[0]])[0] > 0.04
        chosen.add(next(name for name, regions in TWO.items() if regions is target))
        for crop in plan.crops:
            at = crop.frames[0]
            share = shows(after, plan, crop.name, target[at])
            if crop.name in aware:
                assert min(share) > 0
            else:
                assert after.views[crop.name] == before.views[crop.name]
            for old, new in zip(before.views[crop.name], after.views[crop.name], strict=True):
                assert [(one.flip, one.colour) for one in old] == [(one.flip, one.colour) for one in new]
                moved += old != new
        again, _ = aim(before, plan, TWO, np.random.default_rng((7, seed)))
        assert again == after
    assert chosen == {3, 8} and moved > 1


def test_a_crop_that_shows_enough_at_once_is_kept() -> None:
    plan = a_plan()
    everywhere: Candidates = {1: {0: box_region((0, 0, W, H)), 1: box_region((0, 0, W, H))}}
    rng = np.random.default_rng(5)
    for seed in range(5):
        before = drawn(plan, seed)
        after, target = aim(before, plan, everywhere, rng)
        assert after == before and target is everywhere[1]
    assert rng.random() == np.random.default_rng(5).random()  # not one number was drawn


def test_without_a_target_the_sample_is_what_it_was() -> None:
    plan = a_plan(ObjectTargets(min_share=0.5, aware=("global", "neighbour")))
    for seed in range(5):
        before = drawn(plan, seed)
        assert aim(before, plan, {}, np.random.default_rng(0)) == (before, None)
        assert aim(before, plan, TWO, np.random.default_rng(0)) == (before, None)  # neither ever covers half a view


def test_the_largest_or_any_that_covers_enough() -> None:
    both: Candidates = {
        1: {0: box_region((0, 0, W, H)), 1: box_region((0, 0, W, H))},
        2: {0: box_region((0, 0, W, H - 6)), 1: box_region((0, 0, W, H))},
        3: {0: box_region((0, 0, 2, 2)), 1: box_region((0, 0, W, H))},
    }
    whole = (Crop("global", SIDE, (1, 1), PLAIN, whole=True, ratio=(1, 2)),)
    counts = {"largest": [0, 0, 0], "random": [0, 0, 0]}
    for choice, count in counts.items():
        targets = ObjectTargets(choice=choice, min_share=0.1)  # type: ignore[arg-type]
        plan = ViewPlan("frame", 1, whole, objects=targets, patch_px=PATCH)
        for seed in range(60):
            _, target = aim(drawn(plan, seed), plan, both, np.random.default_rng(seed))
            count[next(name for name in both if both[name] is target) - 1] += 1
    assert counts["largest"] == [60, 0, 0]
    assert counts["random"][2] == 0 and min(counts["random"][:2]) > 15


def test_frames_that_share_a_box_all_show_the_target() -> None:
    paired = (Crop("global", SIDE, (0.1, 0.3), PLAIN * 2, frames=(0, 1), shared_geometry=True),)
    plan = ViewPlan("pair", 2, paired, objects=ObjectTargets(tries=(300, 300), min_share=0.01), patch_px=PATCH)
    near: Candidates = {0: {0: box_region((2, 2, 10, 10)), 1: box_region((9, 9, 20, 20))}}
    for seed in range(20):
        after, target = aim(drawn(plan, seed), plan, near, np.random.default_rng(seed))
        assert target is not None
        for first, second in after.views["global"]:
            assert first.box == second.box
        for at in (0, 1):
            own = SampleDraw(H, W, None, {"global": [[view[at]] for view in after.views["global"]]})
            assert min(shows(own, plan, "global", target[at])) > 0


def test_boxes_within_a_clip_crop_are_judged_where_they_lie_in_the_frame() -> None:
    plan = a_plan(ObjectTargets(aware=("global", "neighbour"), tries=(300, 300)), clip_crop=ClipCrop(24, (0.5, 0.9)))
    for seed in range(30):
        draw = drawn(plan, seed)
        after, target = aim(draw, plan, TWO, np.random.default_rng(seed))
        if target is None:  # the clip crop cut both objects off
            continue
        clip = after.clip_box
        assert clip is not None
        for name, at in (("global", 0), ("neighbour", 1)):
            picture = painted(target[at].boxes.tolist())
            for (one,) in after.views[name]:
                x0, y0 = clip.x + one.box.x * clip.w / 24, clip.y + one.box.y * clip.h / 24
                view = (x0, y0, x0 + one.box.w * clip.w / 24, y0 + one.box.h * clip.h / 24, 0)
                shown = naive_view(picture, view, SIDE).any()
                inside = painted([(clip.x, clip.y, clip.x + clip.w, clip.y + clip.h)])
                assert shown or not (picture & inside).any()
