"""Shared by the tests of the download stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.common.progress import Progress
from components.download.world import write_world
from tests.download.small_world import ALL, PARAMS, drawn_frames


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world")
    with Progress(0, "clips") as progress:
        summary = write_world(PARAMS, out, tmp_path_factory.mktemp("scratch"), progress)
    assert summary["layouts"].split(",") == ALL and summary["clips"] == 2 * len(ALL)
    assert summary["frames"] == sum(drawn_frames(name) for name in ALL)
    return out
