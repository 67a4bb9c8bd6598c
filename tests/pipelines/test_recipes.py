"""Every recipe and every dataset of the catalogue: valid, named after its card, and run on a miniature of its data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.config import deep_merge, parse, read_yaml, section_of
from components.common.errors import StageError
from components.common.stage import main
from components.download.cards import card_names, read_card
from components.download.config import params_model
from components.extract_frames.config import ExtractParams
from components.index.config import IndexParams
from pipelines import recipes
from pipelines.workspace import CATALOGUE, dataset_params, make_workspace, merged_params, recipe_file, recipe_names
from tests.download import miniatures
from tests.pipelines import tiny

PUBLISHED = [name for name in recipe_names() if name.startswith("published/") and name != "published/evaluate"]
KINDS = read_yaml(CATALOGUE)["datasets"]
RAW = [name for name, kind in KINDS.items() if kind == "raw"]


def check(params: Mapping[str, Any]) -> None:
    """Every section of the datasets is one that its stage takes."""
    for name in params["datasets"]:
        section = section_of(params, "download", name)
        parse(params_model(name, section), section, name)
    for corpus in params["corpora"]:
        if corpus in params["datasets"]:
            parse(ExtractParams, section_of(params, "extract_frames", corpus), corpus)
            parse(IndexParams, section_of(params, "index", corpus), corpus)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_valid(name: str) -> None:
    check(merged_params(recipe_file(name), []))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_name_cards_and_the_published_protocols(name: str) -> None:
    params = merged_params(recipe_file(name), [])
    for dataset in params["datasets"]:
        read_card(section_of(params, "download", dataset)["card"])
    own = read_yaml(recipe_file("published/evaluate"))
    assert params["evaluate"] == deep_merge(params["evaluate"], own["evaluate"])
    assert set(params["tasks"]) <= set(own["tasks"]) and set(params["tasks"]) < set(params["datasets"])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_dataset_of_the_catalogue_is_valid(name: str) -> None:
    params, targets = dataset_params([name], [])
    assert targets == [f"{'index' if KINDS[name] == 'raw' else 'download'}@{name}"]
    check(params)


def test_the_catalogue_has_every_card() -> None:
    entries = read_yaml(CATALOGUE)
    assert {entry["card"] for entry in entries["download"].values()} == set(card_names())
    assert set(entries["download"]) == set(KINDS)
    assert set(entries["extract_frames"]) == set(entries["index"]) == set(RAW)
    with pytest.raises(StageError, match="no dataset 'vidro' in the catalogue, did you mean 'vidor'"):
        dataset_params(["vidro"], [])


def test_a_recipe_takes_from_the_catalogue_what_it_does_not_say(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "datasets: {vidor: raw, davis2017: benchmarks}\ncorpora: [vidor]\ncorpus: vidor\n"
        "download: {vidor: {path: /data/vidor}, davis2017: {source: local, path: /data/DAVIS}}\n"
        "index: {vidor: {val_share: 0.5}}\n"
    )
    params = merged_params(recipe, [])
    assert params["download"]["vidor"] == {"card": "vidor", "path": "/data/vidor"}
    assert params["download"]["davis2017"] == {"source": "local", "path": "/data/DAVIS"}  # a source of its own
    catalogue = read_yaml(CATALOGUE)
    assert params["extract_frames"]["vidor"] == catalogue["extract_frames"]["vidor"]
    assert params["index"]["vidor"] == {**catalogue["index"]["vidor"], "val_share": 0.5}
    assert "youtube_vos" not in params["download"]


def test_recipes_are_listed_with_what_they_take(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(recipes, "recipe_names", lambda: ["own_videos", "published/dora", "published/evaluate"])
    assert recipes.main([]) == 0
    head, own, dora, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "learns", "from", "methods", "judged", "by", "images", "operations", "storage"]
    assert own.startswith("own_videos ") and own.endswith("how many videos 'clips' will hold cannot be seen from here")
    # 100 epochs of the clips of 6,600 s at 60 a second, in whole batches of 128 clips of 8 frames
    images = 100 * ((6600 - 7) * 60 // 128) * 128 * 8
    assert dora.startswith("published/dora  ") and f" {images / 1e6:.3g} M " in dora
    assert not rest[0] and len(rest) == 2


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """card -> its miniature, written once."""
    made: dict[str, Path] = {}

    def of(card: str) -> Path:
        if card not in made:
            made[card] = tmp_path_factory.mktemp("packed") / card
            miniatures.write(card, made[card], tmp_path_factory.mktemp("work"))
        return made[card]

    return of


def stage(name: str, key: str, params: Mapping[str, Any], *args: object) -> None:
    """A stage in this process on its section of `params`."""
    from importlib import import_module

    module = import_module(f"components.{name}.__main__")
    section = json.dumps(section_of(params, name, key))
    flag = "--dataset" if name == "download" else "--corpus"
    assert main(module.STAGE, module.run, [flag, key, "--param", f"{name}.{key}={section}", *map(str, args)]) == 0


def to_index(params: dict[str, Any], corpus: str, packed: Any, folder: Path) -> Path:
    """Source to index of a corpus, from the miniature of its card."""
    entry = params["download"][corpus]
    params["download"] = {corpus: {"card": entry["card"], "path": str(packed(entry["card"]))}}
    data, frames, index = folder / "data", folder / "frames", folder / "index"
    stage("download", corpus, params, "--data", data)
    stage("extract_frames", corpus, params, "--videos", data, "--frames", frames)
    stage("index", corpus, params, "--frames", frames, "--index", index, "--leakage", folder / "leakage.json")
    return index


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    return tmp_path


def unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.download.stage.check_sums", lambda *_: None)  # of the real archives


def drawn(index: Path) -> dict[str, int]:
    """Rows of every draw."""
    return {name: told["rows"] for name, told in json.loads((index / "stats.json").read_text())["draws"].items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_gets_as_far_as_its_index(name: str, packed: Any, alone: Path) -> None:
    params = merged_params(recipe_file(name), [])
    rows = drawn(to_index(params, params["corpus"], packed, alone))
    assert set(rows) == set(read_yaml(recipe_file(name))["index"][params["corpus"]]["draws"]) and min(rows.values()) > 0
    expected = {"wt_venice": {"clip": 90, "frame": 300}, "kinetics400": {"frame": 120, "span": 6}, "ytvos": {"span": 8}}
    for draw, count in expected.get(params["corpus"], {}).items():
        assert rows.get(draw, count) == count


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_a_corpus_of_the_catalogue_gets_as_far_as_its_index(name: str, packed: Any, alone: Path) -> None:
    params, _ = dataset_params([name], [])
    rows = drawn(to_index(params, name, packed, alone))
    assert set(rows) == set(params["index"][name]["draws"]) and min(rows.values()) > 0
    if name == "vidor":
        draws = {draw: np.load(alone / "index/draws" / f"{draw}.npy") for draw in ("pair", "object_pair")}
        assert all(len(np.unique(found)) == found.size for found in draws.values())  # no frame in two pairs


@pytest.mark.slow
def test_your_own_videos_and_folders_of_frames(alone: Path) -> None:
    """Three lines name a folder that holds both, at several depths, two of one name among them."""
    for place in ("a.mp4", "x/a.mp4", "x/y/b.mkv"):
        miniatures.video(alone / "mine" / place, 3, seed=len(place))
    for number in range(12):
        miniatures.picture(alone / f"mine/frames/walk/{number:04d}.png", number // 4)
    own = {"download": {"clips": {"path": str(alone / "mine")}}, "extract_frames": {"clips": {"source_fps": 4}}}
    params = merged_params(recipe_file("own_videos"), [own])
    stage("download", "clips", params, "--data", alone / "data")
    stage("extract_frames", "clips", params, "--videos", alone / "data", "--frames", alone / "frames")
    params["index"]["clips"] |= {"val_share": 0.0}
    out = ("--index", alone / "index", "--leakage", alone / "leakage.json")
    stage("index", "clips", params, "--frames", alone / "frames", *out)
    assert json.loads((alone / "index/stats.json").read_text())["videos"]["all"] == 4
    assert min(drawn(alone / "index").values()) > 0


NETWORK = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}
SMALL: dict[str, Any] = {
    "download": {"vos": tiny.TINY["download"]["vos"]},
    "pretrain": {
        "shared": {"encoder": {"model_args": NETWORK}},
        "random": {"trainer": {"batch_size": 4}, "args": {"global_size_px": 32, "local_size_px": 16}},
        "cross_time_odis": {
            "trainer": {
                "batch_size": 4, "epochs": 1000, "max_steps": 3, "warmup_epochs": 0, "workers": 0, "compile": False,
                "processes": 1,
            },
            "args": {
                "out_dim": 64, "hidden_dim": 32, "bottleneck_dim": 16, "global_size_px": 32, "local_size_px": 16,
                "local_crops": 2, "warmup_teacher_temp_epochs": 0, "warmup_patch_temp_epochs": 0,
            },
        },
    },
    "evaluate": {"vos": {"input_px": 64, "long_side_multiple_px": 8, "radius_cells": 3}},
    "promote": {"must_beat": {}, "must_not_lose": {}, "rank_by": ["vos"]},
}  # fmt: skip


@pytest.mark.slow
def test_a_published_recipe_goes_on_to_its_scores(packed: Any, tmp_path: Path) -> None:
    """Cross-time ODIS on VidOR, by DVC: videos and annotations become pairs that share a track, an encoder, J&F."""
    vidor = {"download": {"vidor": {"card": "vidor", "path": str(packed("vidor"))}}, "tasks": ["vos"]}
    params = merged_params(recipe_file("published/cross_time_odis"), [SMALL, vidor])
    params["datasets"] = {"vidor": "raw", "vos": "benchmarks"}
    folder = make_workspace(tmp_path / "world", params)
    done = tiny.repro(folder, "evaluate@cross_time_odis-vos")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-3000:]
    assert json.loads((folder / "data/raw/vidor/CARD.json").read_text())["splits"] == {"train": 2, "val": 1}
    scores = json.loads((folder / "metrics/cross_time_odis-vos.json").read_text())["metrics"]
    assert 0 < scores["jf_mean"] < 1
