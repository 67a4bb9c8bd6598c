"""Samples with a target object, end to end: coloured boxes in frames, found again in the views the loader cuts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch

from components.common.clip_index import write_index
from components.common.errors import StageError
from components.common.frame_store import FrameStore
from components.common.frame_store_writer import Frame, FrameStoreWriter, TrackBox, VideoRow
from components.index.objects import read_objects
from components.pretrain.data import Batch, ClipDataset, to_device
from components.pretrain.plan import Crop, ObjectTargets, Photometric, ViewPlan
from components.pretrain.sampler import Key

H, W, PATCH, FRAMES = 96, 128, 8, 4
COLOURS = {0: (230, 20, 20), 1: (20, 20, 230)}
PLAIN = (Photometric(jitter_p=0, grey_p=0, blur_p=0),) * 2
PLAN = ViewPlan(
    "pair",
    2,
    (
        Crop("global", 32, (0.25, 1.0), PLAIN),
        Crop("local", 16, (0.05, 0.25), PLAIN),
        Crop("neighbour", 32, (0.25, 1.0), PLAIN, frames=(1,)),
    ),
    both_ways=True,
    objects=ObjectTargets(aware=("global", "neighbour")),
    patch_px=PATCH,
)


def boxes_of(video: int, k: int) -> tuple[TrackBox, ...]:
    """Red moves right, blue comes down over it; video 1 shows nothing."""
    red = TrackBox(0, "red", 8 + 6 * k, 40, 40 + 6 * k, 72)
    blue = TrackBox(1, "blue", 70, 4 + 5 * k, 110, 44 + 5 * k)
    return (red, blue) if video == 0 else ()


def picture(boxes: tuple[TrackBox, ...]) -> bytes:
    image = np.full((H, W, 3), 128, np.uint8)
    for box in boxes:
        image[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = COLOURS[box.track]
    return simplejpeg.encode_jpeg(image, quality=97, colorsubsampling="444")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("objects")
    with FrameStoreWriter(folder / "frames", objects=True) as writer:
        for video in range(2):
            boxes = [boxes_of(video, k) for k in range(FRAMES)]
            frames = [Frame(picture(own), k / 2, k, objects=own) for k, own in enumerate(boxes)]
            writer.add(VideoRow(f"v{video}", f"v{video}.mp4"), frames)
    store = FrameStore(folder / "frames")
    names = ("video", "pts_s", "shard", "offset", "size", "height", "width")
    columns = {name: store.frames[name].to_numpy() for name in names}
    columns |= {"segment": columns["video"], "split": np.zeros(2 * FRAMES, np.int8)}
    objects = read_objects(store, {name: store.frames[name].to_numpy() for name in ("video", "frame")})
    assert objects is not None
    rows = [[4 * video + k, 4 * video + k + 1] for video in range(2) for k in range(FRAMES - 1)]
    write_index(folder / "index", columns, {"pair": rows}, objects=(objects.columns, objects.categories))
    write_index(folder / "bare", columns, {"pair": rows})
    return folder / "frames", folder / "index"


def has_colour(views: torch.Tensor, track: int, within: int) -> np.ndarray:
    """bool (..., S, S): pixels no channel of which is farther than `within` from an object's colour."""
    distance = np.abs(views.numpy().astype(int) - np.array(COLOURS[track]))
    return np.asarray((distance <= within).all(axis=-1))


def by_pixel(patches: torch.Tensor) -> np.ndarray:
    return patches.numpy().repeat(PATCH, axis=-2).repeat(PATCH, axis=-1)


@pytest.mark.parametrize("decode_scaled", [False, True])
def test_patches_lie_where_the_views_show_the_target(corpus: tuple[Path, Path], decode_scaled: bool) -> None:
    dataset = ClipDataset(*corpus, PLAN, seed=3, decode_scaled=decode_scaled)
    seen: dict[int, int] = {0: 0, 1: 0}
    n_hidden = 0
    for sample in range(6):  # both ways through the three pairs of the first video
        for epoch in range(4):
            batch = dataset[Key(epoch, sample)]
            shown = [t for t in COLOURS if _all_within(batch, t)]
            assert shown, "no track's colour stays within the patches of all views"
            for track in shown:
                seen[track] += 1
            for name in ("global", "neighbour"):
                assert batch.objects[name].any(-1).any(-1).all()
            n_hidden += int((~batch.objects["local"].any(-1).any(-1)).sum())
    assert min(seen.values()) > 2 and n_hidden > 0


def _all_within(batch: Batch, track: int) -> bool:
    """One track's colour lies inside the patches of every view, and each view with patches shows it."""
    for name, views in batch.views.items():
        inside = by_pixel(batch.objects[name])
        if (has_colour(views, track, 30) & ~inside).any():
            return False
        near = (has_colour(views, track, 105) & inside).any(axis=(-1, -2))  # an edge may be half grey
        if (inside.any(axis=(-1, -2)) & ~near).any():
            return False
    return True


def test_samples_without_objects_are_those_of_a_plan_without(corpus: tuple[Path, Path]) -> None:
    everywhere = ObjectTargets(aware=PLAN.names)  # small views, too: they often miss the object at first
    with_objects = ClipDataset(*corpus, dataclasses.replace(PLAN, objects=everywhere), seed=3)
    without = ClipDataset(*corpus, dataclasses.replace(PLAN, objects=None), seed=3)
    changed = 0
    for sample in range(12):
        ours, plain = with_objects[Key(1, sample)], without[Key(1, sample)]
        assert plain.objects == {} and set(ours.objects) == {"global", "local", "neighbour"}
        same = all(torch.equal(ours.views[name], plain.views[name]) for name in plain.views)
        if sample >= 6:
            assert same and not any(patches.any() for patches in ours.objects.values())
        changed += not same
    assert changed > 0


def test_a_sample_does_not_depend_on_its_batch(corpus: tuple[Path, Path]) -> None:
    dataset = ClipDataset(*corpus, PLAN, seed=3)
    keys = [Key(2, sample) for sample in (5, 7, 0)]
    batch = dataset.batch(keys)
    ready = to_device(batch, torch.device("cpu"), (0, 0, 0), (1, 1, 1))
    assert ready["local_object"].shape == (3, 2, 1, 2, 2) and ready["local_object"].dtype == torch.bool
    for b, key in enumerate(keys):
        alone = dataset[key]
        for name in PLAN.names:
            assert torch.equal(alone.views[name], batch.views[name][b])
            assert torch.equal(alone.objects[name], ready[f"{name}_object"][b])


def test_an_index_without_objects(corpus: tuple[Path, Path]) -> None:
    frames, index = corpus
    with pytest.raises(StageError, match="the index knows of no objects, the method's views need them"):
        ClipDataset(frames, index.parent / "bare", PLAN, seed=3)
    assert PLAN.objects is not None
    optional = dataclasses.replace(PLAN, objects=dataclasses.replace(PLAN.objects, required=False))
    batch = ClipDataset(frames, index.parent / "bare", optional, seed=3)[Key(0, 0)]
    assert batch.objects["global"].shape == (2, 1, 4, 4) and not batch.objects["global"].any()


def test_plans_that_cannot_be_carried_out() -> None:
    with pytest.raises(ValueError, match="32 px must be patches of 5 px"):
        dataclasses.replace(PLAN, patch_px=5)
    with pytest.raises(ValueError, match=r"sought in crop groups \('big',\)"):
        dataclasses.replace(PLAN, objects=ObjectTargets(aware=("big",)))
    with pytest.raises(ValueError, match="objects need a crop group"):
        ObjectTargets(aware=())
