"""The report as a whole: complete, standing alone, the same bytes twice, and working in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from components.common.stage import main
from components.compare.__main__ import STAGE, run

Finished = Any  # tests/compare/conftest.py
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}


def compare(finished: Finished) -> Path:
    assert main(STAGE, run, finished.argv) == 0
    return Path(finished.report)


class Page(HTMLParser):
    """Checks that tags are balanced and collects addresses, ids and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                self.addresses.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text += data


def test_the_page_is_whole_and_stands_alone(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    report = compare(finished)
    html = (report / "index.html").read_text()
    page = Page(html)
    assert page.open == []
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert "@import" not in html and not re.search(r"url\((?!#)", html)
    for said in (
        "0.550",
        "+0.240",
        "clip-001",
        "mushroom",
        "arXiv:2310.08584",
        "dvc repro evaluate@dora-vos",
        "tracker",
    ):
        assert said in page.text, said
    assert html.count("data:image/gif") == 4 * 2 + 1 and html.count("data:image/png") == 4 * 2
    assert html.count("<svg") == 3 + 5  # a chart a task, a chart a curve
    assert "*0.550 (+0.240)" in capsys.readouterr().out  # the table that ends `make repro`
    assert (report / "leaderboard.txt").read_text() and (report / "leaderboard.md").read_text()
    told = json.loads((report / "leaderboard.json").read_text())
    assert [row["run"] for row in told["rows"]][-1] == "random"
    plots = sorted(file.name for file in (report / "plots").iterdir())
    assert plots == [f"curve-{c}.png" for c in ("feature-std", "loss", "lr", "rankme", "teacher-entropy")] + [
        "knn.png",
        "voc_linear.png",
        "vos.png",
    ]
    assert all(Image.open(report / "plots" / name).width > 400 for name in plots)


def test_same_input_same_bytes(finished: Finished) -> None:
    first = {file.name: file.read_bytes() for file in compare(finished).rglob("*") if file.is_file()}
    second = {file.name: file.read_bytes() for file in compare(finished).rglob("*") if file.is_file()}
    assert first == second
    assert str(finished.root).encode() not in first["index.html"]


def test_failed_missing_and_stale_are_shown(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    finished.set_params({"curves": 0})
    (finished.metrics / "next_frame-knn.json").unlink()
    (finished.metrics / "dora-voc_linear.json").write_text('{"error": "out of memory at image 3"}')
    shutil.rmtree(finished.results / "dora-voc_linear")
    weights = finished.models / "dino" / "encoder.safetensors"
    weights.write_bytes((finished.models / "dora" / "encoder.safetensors").read_bytes())
    text = Page((compare(finished) / "index.html").read_text()).text
    assert "next_frame on knn: missing, not evaluated: dvc repro evaluate@next_frame-knn" in text
    assert "dora on voc_linear: failed, out of memory at image 3" in text
    assert "dino on vos: failed, measured on other weights than the model folder holds" in text
    assert "warning: dora on voc_linear: failed" in capsys.readouterr().err


class Tables(HTMLParser):
    """Every table below an element of this id, as rows of cells."""

    def __init__(self, html: str, section: str) -> None:
        super().__init__()
        self.section, self.inside = section, False
        self.tables: list[list[list[str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.inside = dict(attrs).get("id") == self.section
        if self.inside and tag == "table":
            self.tables.append([])
        if self.inside and tag == "tr":
            self.tables[-1].append([])
        if self.inside and tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_data(self, data: str) -> None:
        if self.inside and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data.strip()


def test_figures_of_two_protocols_stand_in_no_table_together(finished: Finished) -> None:
    finished.set_params({"curves": 0})
    finished.score("dora", "vos", 0.9, protocol="cropmae propagation")
    report = compare(finished)
    tables = Tables((report / "index.html").read_text(), "task-vos").tables
    assert [table[0][1:] for table in tables] == [["next_frame", "dino", "random"], ["dora"]]
    assert [row[0] for row in tables[1][1:]] == ["jf_mean", "a_second_figure"] and tables[1][1][1] == "0.900"
    told = json.loads((report / "leaderboard.json").read_text())
    first, second = [column for column in told["columns"] if column["task"] == "vos"]
    assert (first["protocol"], second["protocol"]) == (
        "dino propagation, short side 96",
        "cropmae propagation",
    )
    assert {"data_variant", "benchmark_hash", "params"} <= set(first)
    head = (report / "leaderboard.txt").read_text().splitlines()[0].split()
    assert first["key"] in head and second["key"] in head and first["key"] != second["key"]


def test_many_evaluations_stand_below_each_other(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    """Seven beside each other at most; one protocol a row, and the failures are the last thing that is said."""
    finished.set_params({"curves": 0})
    for number in range(8):
        finished.score("dino", f"task{number}", 0.1 * number, protocol=f"protocol {number}")
    finished.score("dora", "vos", 0.9, protocol="cropmae propagation")
    (finished.metrics / "dino-knn.json").write_text('{"error": "out of memory"}')
    report = compare(finished)
    (table,) = Tables((report / "index.html").read_text(), "leaderboard").tables
    assert len(table) == 1 + 12 + 1 and {len(row) for row in table} == {5}  # two settings of vos, two rows
    assert sorted(table[0][1:]) == ["dino", "dora", "next_frame", "randombaseline"]
    column = table[0].index("dino")
    assert [row[column] for row in table if row[0].startswith("task3")] == ["0.300"]
    assert [row[column] for row in table if row[0].startswith("knn")] == ["failed"]
    told = capsys.readouterr()
    lines = [line.split() for line in told.out.splitlines()]
    assert ["task3", "main", "*0.300"] in [line[:2] + [w for w in line if w.startswith("*")] for line in lines]
    last = told.err.splitlines()[-1]
    assert "1 of 20 evaluations failed (reasons above, and in the page): dino-knn" in last
    assert "| task3 | main |" in (report / "leaderboard.md").read_text()


def test_names_cannot_break_out_of_the_page(finished: Finished) -> None:
    finished.set_params({"curves": 0})
    evil = "<script>alert(1)</script>"
    finished.score("dino", "knn", 0.5, protocol=evil, data_variant=evil, params={"x": evil})
    html = (compare(finished) / "index.html").read_text()
    assert evil not in html and "&lt;script&gt;alert(1)" in html


def test_large_pictures_stay_outside(finished: Finished) -> None:
    finished.set_params({"picture_max_kib": 1, "curves": 0})
    html = (compare(finished) / "index.html").read_text()
    assert "data:image/gif" not in html and "dora-vos/clip-000.gif: 0.0 MiB, not copied" in html


def test_corpus_facts_are_shown_where_given(finished: Finished) -> None:
    finished.set_params({"curves": 0})
    frames, index = finished.root / "frames", finished.root / "index"
    frames.mkdir()
    index.mkdir()
    (frames / "store.json").write_text(json.dumps({"videos": 4242, "files": {"a.tar": {"sha256": "f" * 64}}}))
    (index / "stats.json").write_text(json.dumps({"hours": 1.25, "frames": {"train": 20}}))
    Image.new("RGB", (40, 30)).save(index / "contact_sheet.jpg")
    extra = ["--frames", str(frames), "--index", str(index)]
    assert main(STAGE, run, [*finished.argv, *extra]) == 0
    html = (finished.report / "index.html").read_text()
    text = Page(html).text
    assert "4242" in text and "frames.train" in text and "f" * 64 not in text and "data:image/jpeg" in html


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: [file.unlink() for file in f.metrics.iterdir()], "no usable metrics"),
        (lambda f: f.set_params({"baseline": "random", "chart_row": 3}), "did you mean 'chart_rows'?"),
        (lambda f: f.set_params({"png_dpi": 0}), "'png_dpi' = 0"),
        (lambda f: shutil.rmtree(f.models), "input 'models' does not exist"),
    ],
)
def test_bad_input_is_one_clear_line(
    finished: Finished, capsys: pytest.CaptureFixture[str], spoil: Any, said: str
) -> None:
    spoil(finished)
    assert main(STAGE, run, finished.argv) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not finished.report.exists()


def browse(page: Path, home: Path) -> tuple[str, str]:
    """(DOM, console) of a page in headless Chromium that can reach no host."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update"
    command = [browser, "--headless", "--no-sandbox", *quiet.split(), "--disable-sync", f"--user-data-dir={home}"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    env = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


PROBE = """
<script>
const heads = [...document.querySelectorAll('#leaderboard thead button')];
const rows = () => [...document.querySelectorAll('#leaderboard tbody th')];
const order = () => rows().map((th) => th.innerText.split(/\\s/)[0]).join(',');
const orders = [order()];
for (const i of [1, 1, 4, 0]) { heads[i].click(); orders.push(order()); }
const first = document.querySelector('img.grows');
first.click();
const grown = document.getElementById('large').open && document.querySelector('#large img').src === first.src;
const broken = [...document.images].filter((i) => i.complete && !i.naturalWidth).length;
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const told = document.createElement('p');
told.id = 'probe';
told.textContent = `${orders.join('|')};${document.images.length},${broken},${wide},${grown}`;
document.body.append(told);
</script></body>"""


def test_in_a_browser_it_sorts_and_says_no_error(finished: Finished, tmp_path: Path) -> None:
    (finished.metrics / "dora-vos.json").unlink()
    html = (compare(finished) / "index.html").read_text()
    probed = finished.root / "probed.html"
    probed.write_text(html.replace(' loading="lazy"', "").replace("</body>", PROBE))
    dom, console = browse(probed, tmp_path / "home")
    assert console == ""
    found = re.search(r'<p id="probe">([^<]*)</p>', dom)
    assert found is not None
    orders, figures = found[1].split(";")
    assert orders.split("|") == [
        "next_frame,dino,random,dora",  # as written: by mean rank, dora has none
        "dora,dino,next_frame,random",  # knn, best first
        "random,next_frame,dino,dora",  # knn, turned
        "next_frame,dino,random,dora",  # mean rank, rows without one last
        "dino,dora,next_frame,random",  # by name
    ]
    images, broken, wide, grown = figures.split(",")
    assert int(images) == 17 + 1 and (broken, wide, grown) == ("0", "false", "true")
