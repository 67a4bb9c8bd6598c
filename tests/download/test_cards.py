"""Cards: valid, complete, printed without torch; and the rules by which a folder is compared with one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.common.errors import StageError
from components.download.cards import FOLDER, Card, card_names, read_card
from components.download.verify import check_sums, find_root, verify
from tests.download import miniatures
from tests.download.miniatures import lines, picture

ROOT = Path(__file__).resolve().parents[2]
DATASETS = {  # of the five papers, and of their evaluations
    "walking_tours", "walking_tours_venice", "vidor", "kinetics400", "davis2016", "davis2017", "youtube_vos", "mose",
    "visor", "voc2007", "voc2012", "voc2012_aug", "ade20k", "coco2014", "coco2017", "imagenet1k", "jhmdb", "vip",
    "got10k",
}  # fmt: skip
BASE = {
    "title": "T", "used_for": "u", "page": "https://x", "licence": "l", "terms": "t", "citation": "c", "fetch": "f",
    "disk": {"before_gb": 1, "after_gb": 1},
}  # fmt: skip


def card(**more: object) -> Card:
    return Card.model_validate({**BASE, "counts": [{"what": "files", "expected": 1, "files": "**/*"}], **more})


def test_every_dataset_has_a_card_and_every_card_a_miniature() -> None:
    assert set(card_names()) == DATASETS == set(miniatures.WRITERS)


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_cards_are_valid_and_say_what_people_need(name: str) -> None:
    read = read_card(name)
    assert read.title and read.licence and read.terms and read.traps
    assert any(year in read.citation for year in map(str, range(2009, 2027)))
    assert all(file.url.startswith("http") for file in read.files)
    assert set(yaml.safe_load((FOLDER / f"{name}.yaml").read_text())) <= set(Card.model_fields)


def test_the_list_answers_without_torch_and_an_unknown_card_is_named() -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--list'];"
        "\ntry: runpy.run_module('components.download', run_name='__main__')"
        "\nexcept SystemExit as end: assert not end.code"
        "\nassert not {'torch', 'numpy', 'boto3', 'mlflow', 'yt_dlp'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(any(row.startswith(name) for row in done.stdout.splitlines()) for name in DATASETS)
    command = [sys.executable, "-m", "components.download", "--list", "davis2071"]
    wrong = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "no card 'davis2071', did you mean 'davis2017'?" in wrong.stderr


def test_a_card_that_is_wrong_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.download.cards.FOLDER", tmp_path)
    (tmp_path / "x.yaml").write_text(json.dumps({**BASE, "counts": [], "licnece": "MIT"}))
    with pytest.raises(StageError, match=r"unknown key 'licnece', did you mean 'licence'\?.*: cards/x\.yaml"):
        read_card("x")


def test_counts_are_compared_and_missing_parts_are_passed_over(tmp_path: Path) -> None:
    lines(tmp_path / "sets/train.txt", "a", "", "b")
    for name in ("a", "b"):
        picture(tmp_path / f"pictures/{name}.jpg")
    counts = [
        {"what": "pictures", "expected": 2, "files": "pictures/*.jpg"},
        {"what": "names", "expected": 2, "lines": "sets/train.txt", "split": "train"},
        {"what": "test pictures", "expected": 9, "files": "test/*", "part": "test"},
    ]
    found = verify(tmp_path, card(counts=counts))
    assert found.line("x") == "x: 2 pictures, 2 names, as published"
    assert found.splits == {"train": 2}
    (tmp_path / "pictures/a.jpg").unlink()
    found = verify(tmp_path, card(counts=counts))
    assert found.line("x") == "x: 1 of 2 pictures, 2 names"
    assert found.amiss == ["not as published: 1 of 2 pictures; is everything unpacked?"]


def test_what_is_amiss_is_one_line_each(tmp_path: Path) -> None:
    for name in ("a/0", "a/1", "b/0"):
        picture(tmp_path / f"left/{name}.jpg")
    for name in ("a/0", "c/7"):
        picture(tmp_path / f"right/{name}.png")
    lines(tmp_path / "list.txt", "a", "z")
    (tmp_path / "bad.json").write_text('{"a": [')
    (tmp_path / "half.mp4.part").write_bytes(b"x")
    (tmp_path / "empty.mp4").touch()
    checked = card(
        counts=[{"what": "folders", "expected": 2, "folders": "left/*"}],
        pairs=[{"what": ["frames", "masks"], "left": ["left"], "right": ["right"]}],
        listed=[{"names": "list.txt", "place": "left/{}"}],
        unique="left/*/*.jpg",
        json_files=["*.json"],
    )
    lost = verify(tmp_path, checked).amiss
    assert lost[0] == "list.txt names 2, of which 1 are not there: z"
    assert lost[1] == "2 frames have no masks: a/1, b/0"
    assert lost[2] == "1 masks belong to no frames: c/7"
    assert lost[3] == "1 names are used by two videos or more: 0; all are kept"
    assert lost[4].startswith("bad.json does not parse as JSON, ")
    assert lost[5] == "2 files are empty or unfinished: empty.mp4, half.mp4.part"
    assert len(lost) == 6


def test_the_folder_is_found_by_what_it_holds_and_not_by_its_depth(tmp_path: Path) -> None:
    inner = tmp_path / "a/b/VOC"
    for name in ("JPEGImages", "ImageSets"):
        (inner / name).mkdir(parents=True)
    wanted = card(holds=[["JPEGImages", "ImageSets"]])
    assert find_root(tmp_path, wanted) == inner
    assert find_root(inner, wanted) == inner
    assert find_root(tmp_path / "a", card(holds=[["nothing"]])) == tmp_path / "a"
    for name in ("JPEGImages", "ImageSets"):
        (tmp_path / "a/c/VOC" / name).mkdir(parents=True)
    with pytest.raises(StageError, match=r"2 folders look like this dataset: a/b/VOC, a/c/VOC.*\(say with `root`"):
        find_root(tmp_path, wanted)


def test_archives_are_compared_with_their_published_sums(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"abc")
    check_sums(tmp_path, {"a.tar": "900150983cd24fb0d6963f7d28e17f72", "other.tar": "0" * 32})  # RFC 1321
    with pytest.raises(StageError, match=r"the MD5 of a\.tar differs: published 0000"):
        check_sums(tmp_path, {"a.tar": "0" * 32})
