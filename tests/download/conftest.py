"""Shared by the tests of the download stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.common.progress import Progress
from components.common.stage import main
from components.download.__main__ import STAGE, run
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


class Download:
    """The stage, run in this process on one entry, into `data`."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"

    def __call__(self, **section: Any) -> int:
        given = ["--dataset", "d", "--data", str(self.data), "--param", f"download.d={json.dumps(section)}"]
        return main(STAGE, run, given)

    def said(self, file: str) -> Any:
        return json.loads((self.data / file).read_text())


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    return Download(tmp_path)
