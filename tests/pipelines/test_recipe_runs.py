"""Every published recipe, from its datasets to its scores, on miniatures; and every corpus of the catalogue."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components.common.config import read_yaml, section_of
from pipelines.workspace import CATALOGUE, dataset_params, merged_params, recipe_file, recipe_names
from tests.download import miniatures
from tests.pipelines import recipe_run
from tests.pipelines.recipe_run import Shelf, stage

PUBLISHED = [name for name in recipe_names() if name.startswith("published/") and name != "published/evaluate"]
RAW = [name for name, kind in read_yaml(CATALOGUE)["datasets"].items() if kind == "raw"]
ROWS = {"wt_venice": {"clip": 90, "frame": 300}, "kinetics400": {"frame": 120, "span": 6}, "ytvos": {"span": 8}}


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")
    monkeypatch.setattr("components.download.stage.check_sums", lambda *_: None)  # of the real archives
    return tmp_path


def drawn(index: Path) -> dict[str, int]:
    """Rows of every draw."""
    return {name: told["rows"] for name, told in json.loads((index / "stats.json").read_text())["draws"].items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_only_sizes_differ_from_the_recipe(name: str) -> None:
    """What the run below does is what the recipe says, but for the lists of sizes in recipe_run.py."""
    from components.evaluate.task import get_task
    from components.pretrain.config import params_model

    params = merged_params(recipe_file(name), [])
    small = recipe_run.small(params)
    assert {key: small[key] for key in small if key not in ("pretrain", "evaluate")} == {
        key: params[key] for key in params if key not in ("pretrain", "evaluate")
    }
    allowed = {f"trainer.{key}" for key in recipe_run.TRAINER} | {f"args.{key}" for key in recipe_run.ARGS}
    allowed |= {f"encoder.model_args.{key}" for key in recipe_run.ENCODER} | {"encoder.start_from"}
    for method in params["methods"]:
        published, ours = (section_of(each, "pretrain", method) for each in (params, small))
        found = recipe_run.changed(params_model(method, published), published, ours)
        assert found <= allowed and len(found) > 5
        assert published["colours"] == dict.fromkeys(published["colours"]), "the sample run's colours show through"
    for task in params["tasks"]:
        published, ours = (section_of(each, "evaluate", task) for each in (params, small))
        assert recipe_run.changed(get_task(task).Args, published, ours) == {*recipe_run.EVALUATE[task], "strict"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_runs_from_its_datasets_to_its_scores(name: str, shelf: Shelf, alone: Path) -> None:
    params = merged_params(recipe_file(name), [])
    small = recipe_run.small(params)
    models = recipe_run.train(small, shelf, alone)
    rows = drawn(alone / "index")
    assert set(rows) == set(params["index"][params["corpus"]]["draws"]) and min(rows.values()) > 0
    assert all(rows.get(draw, count) == count for draw, count in ROWS.get(params["corpus"], {}).items())
    method = next(each for each in models if each != "random")
    told = json.loads((models[method] / "metrics.json").read_text())
    assert told["step"] == recipe_run.STEPS and math.isfinite(told["loss"]) and told["loss"] > 0
    weights = [(models[each] / "encoder.safetensors").read_bytes() for each in models]
    assert weights[0] != weights[1]
    for task in params["tasks"]:
        found = recipe_run.judge(task, method, models[method], small, shelf, alone)
        assert 0 <= found["metrics"][found["primary"]] <= 1, found
        assert all(math.isfinite(value) for value in found["metrics"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", RAW)
def test_a_corpus_of_the_catalogue_gets_as_far_as_its_index(name: str, shelf: Shelf, alone: Path) -> None:
    params, _ = dataset_params([name], [])
    rows = drawn(recipe_run.index(name, params, shelf, alone))
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
    params["index"]["clips"] |= {"val_share": 0.0}
    data, frames, index, keys = alone / "data", alone / "frames", alone / "index", {"corpus": "clips"}
    stage("download", {"dataset": "clips"}, params, data=data)
    stage("extract_frames", keys, params, videos=data, frames=frames)
    stage("index", keys, params, frames=frames, index=index, leakage=alone / "leakage.json")
    assert json.loads((index / "stats.json").read_text())["videos"]["all"] == 4
    assert min(drawn(index).values()) > 0
