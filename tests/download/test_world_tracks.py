"""Tracks beside the videos of a corpus, held against the id buffer; the videos' bytes do not depend on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.common.progress import Progress
from components.download.world import write_world
from components.download.world.config import WorldParams
from components.download.world.layouts import WRITERS
from tests.download.small_world import PARAMS, frames


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    places = {tracks: tmp_path_factory.mktemp(f"tracks-{tracks}") for tracks in (False, True)}
    for tracks, place in places.items():
        params = WorldParams.model_validate(PARAMS.model_dump() | {"layouts": ["videos"], "tracks": tracks})
        with Progress(0, "clips") as progress:
            write_world(params, place, tmp_path_factory.mktemp("scratch"), progress)
    return places


def test_every_visible_toy_has_the_box_of_its_pixels(corpora: dict[bool, Path]) -> None:
    n_boxes = 0
    for number, clip in enumerate(WRITERS["videos"].clips(PARAMS)):
        notes = json.loads((corpora[True] / "annotations" / f"clip-{number:06d}.json").read_text())
        drawn = frames("videos", "pretrain", number)
        size = {"width": 128, "height": 96, "fps": 6.0, "frame_count": len(drawn)}
        assert notes | size == notes and len(notes["trajectories"]) == len(drawn)
        categories = {entry["tid"]: entry["category"] for entry in notes["subject/objects"]}
        owner: dict[int, tuple[int, int]] = {}
        for k, entries in enumerate(notes["trajectories"]):
            ids, shot = drawn[k].ids, sum(k >= cut for cut in clip.cuts)
            kinds = {seen.number: seen.kind for seen in drawn[k].seen}
            large = [n for n in np.unique(ids[ids > 0]).tolist() if (ids == n).sum() >= PARAMS.min_object_px]
            for entry, toy in zip(entries, large, strict=True):
                assert owner.setdefault(entry["tid"], (shot, toy)) == (shot, toy)  # one toy of one shot
                assert categories[entry["tid"]] == kinds[toy]
                rows, columns = np.nonzero(ids == toy)
                sides = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert list(entry["bbox"].values()) == sides
                n_boxes += 1
    assert n_boxes > 20


def test_videos_have_the_bytes_they_have_without_tracks(corpora: dict[bool, Path]) -> None:
    without, with_tracks = ({f.name: f.read_bytes() for f in place.glob("*.mp4")} for place in corpora.values())
    assert without == with_tracks and len(without) == 2
    assert not (corpora[False] / "annotations").exists()
