"""The data page says what stats.json says, stands alone, and shows pairs with their gaps and cuts where they are."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.common.frame_store import Frame, FrameStore, FrameStoreWriter, VideoRow
from components.common.frame_store_writer import TrackBox
from components.common.stage import main
from components.index.__main__ import STAGE, run
from components.index.histogram import histogram

from .conftest import jpeg

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
EVIL = "<script>alert(1)</script>&"


class Page(HTMLParser):
    """Sections by heading: their text and the pictures' (mean brightness, caption)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, list[str]] = {"": []}
        self.images: dict[str, list[tuple[int, str]]] = {"": []}
        self.tags: set[str] = set()
        self.here, self.heading = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.heading = tag == "h2"
        if tag == "img":
            data = base64.b64decode(str(given["src"]).removeprefix("data:image/jpeg;base64,"))
            with Image.open(io.BytesIO(data)) as picture:
                assert picture.size == (int(str(given["width"])), int(str(given["height"])))
                grey = round(float(np.asarray(picture.convert("L")).mean()))
            self.images[self.here].append((grey, str(given["alt"])))

    def handle_data(self, data: str) -> None:
        if self.heading:
            self.here, self.heading = data, False
            self.sections[data], self.images[data] = [], []
        elif data.strip():
            self.sections[self.here].append(data.strip())


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Two videos of six frames, half a second apart; brightness tells frame and video; a cut in the second."""
    with FrameStoreWriter(tmp_path / "frames", objects=True) as store:
        for video, key in enumerate(("plain", EVIL)):
            frames = [
                Frame(
                    jpeg(np.full((64, 96, 3), 100 * video + 20 + 10 * k, np.uint8)),
                    k / 2,
                    k,
                    cut=video == 1 and k == 3,
                    objects=(TrackBox(0, "cat & dog", 0, 0, 20, 20),) if k < 4 else (),
                )
                for k in range(6)
            ]
            store.add(VideoRow(key, f"{key}.mp4", sha256=key, duration_s=3.0), frames)
    FrameStore(tmp_path / "frames").verify()
    draws = {"pair": {"offsets_s": [0, 0.5]}, "together": {"offsets_s": [0, 0.5], "shared": "track"}}
    words = ["--corpus", "c", "--frames", tmp_path / "frames", "--index", tmp_path / "i" / "c"]
    words += ["--leakage", tmp_path / "i" / "l.json", "--param", f"index.c={json.dumps({'draws': draws})}"]
    assert main(STAGE, run, list(map(str, words))) == 0
    return tmp_path / "i" / "c" / "report.html"


def test_it_says_and_shows_what_there_is(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    facts = found.sections[""]
    assert "c: 2 videos, 6 s" in facts
    for value, name in (("12", "frames"), ("2", "videos to train on"), ("1", "cuts found"), ("1", "classes")):
        assert facts[facts.index(name) - 1] == value
    assert "96x64" in found.sections["Lengths, sizes, gaps"]
    assert found.sections["Draws"][4:8] == ["pair", "9", "2", "2"]
    pairs = found.images["Draw “pair”"]
    for (first, said), (second, gap) in zip(pairs[::2], pairs[1::2], strict=True):
        assert gap == "+0.500 s" and abs(second - first - 10) <= 2  # the next frame of the same video
        assert " s  plain" in said or EVIL in said
    (before, _), (after, said) = found.images["Cuts found"]
    assert (abs(before - 140) <= 2, abs(after - 150) <= 2, said) == (True, True, "cut, +0.500 s")
    assert "cat & dog" in found.sections["Classes and tracks"]
    assert "8 boxes in 8 frames, 0 label maps." in found.sections["Classes and tracks"]


def test_it_stands_alone_and_names_cannot_break_out(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "script" not in Page(text).tags
    assert not re.search(r'(?:src|href)="(?!data:)|url\(|@import', text)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser on this machine")
def test_in_a_browser_all_pictures_load_and_nothing_is_too_wide(page: Path, tmp_path: Path) -> None:
    probe = "<script>document.title = [[...document.images].filter(i => !i.naturalWidth).length,"
    probe += "document.documentElement.scrollWidth > document.documentElement.clientWidth].join()</script></body>"
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace(' loading="lazy"', "").replace("</body>", probe))
    command = [str(CHROMIUM), *FLAGS.split(), f"--user-data-dir={tmp_path / 'home'}", "--window-size=420,900"]
    done = subprocess.run([*command, "--dump-dom", f"file://{probed}"], capture_output=True, text=True, timeout=120)
    assert "<title>0,false</title>" in done.stdout


def test_bins_are_half_open_and_the_last_has_no_end() -> None:
    found = histogram(np.array([0, 0.9, 1, 5, 99, np.nan]), (0, 1, 5, float("inf")))
    assert [(bar["from"], bar["to"], bar["count"]) for bar in found] == [(0, 1, 2), (1, 5, 1), (5, None, 2)]
