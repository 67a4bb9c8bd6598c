"""Every recipe and every dataset of the catalogue: valid, named after its card, listed; run by test_recipe_runs.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from components.common.config import deep_merge, parse, read_yaml, section_of
from components.common.errors import StageError
from components.download.cards import card_names, read_card
from components.download.config import params_model
from components.extract_frames.config import ExtractParams
from components.index.config import IndexParams
from pipelines import recipes
from pipelines.workspace import CATALOGUE, dataset_params, merged_params, recipe_file, recipe_names

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
