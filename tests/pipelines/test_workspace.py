import pytest
import yaml

from components.common.errors import StageError
from pipelines.workspace import ROOT, make_workspace, merged_params, recipe_file


def test_a_recipe_is_laid_over_the_parameters_and_its_lists_replace(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "methods: [dino]\ndatasets: {clips: raw, vos: benchmarks}\ndownload: {clips: {source: local, path: ../x}}\n"
    )
    params = merged_params(recipe, [{"pretrain": {"shared": {"trainer": {"epochs": 3}}}}])
    own = yaml.safe_load((ROOT / "params.yaml").read_text())
    assert params["methods"] == {"dino": "components/pretrain/scratch"}
    assert params["datasets"] == {"clips": "raw", "vos": "benchmarks"}
    assert set(params["download"]) == {"clips", *own["download"]}  # unused entries do no harm
    assert params["download"]["clips"]["path"] == str((ROOT / ".." / "x").resolve())
    assert params["pretrain"]["shared"]["trainer"]["epochs"] == 3
    assert params["pretrain"]["shared"]["encoder"] == own["pretrain"]["shared"]["encoder"]
    assert params["evaluate"] == own["evaluate"]


def test_a_recipe_brings_its_own_gates(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("promote: {must_not_lose: {knn: {margin: 0.1}}}\n")
    own = yaml.safe_load((ROOT / "params.yaml").read_text())["promote"]
    gates = merged_params(recipe, [])["promote"]
    assert gates == {**own, "must_not_lose": {"knn": {"margin": 0.1}}}


def test_an_unknown_recipe_is_named_with_the_known_ones():
    with pytest.raises(StageError, match=r"no recipe 'nope' \(known: "):
        recipe_file("nope")


def test_a_workspace_holds_the_code_and_keeps_its_results(tmp_path):
    folder = make_workspace(tmp_path / "w", {"seed": 1})
    (folder / "models").mkdir()
    (folder / "components" / "gone.py").write_text("")
    before = (folder / "components" / "common" / "stage.py").stat().st_mtime_ns
    make_workspace(folder, {"seed": 2})
    assert (folder / "models").is_dir()
    assert not (folder / "components" / "gone.py").exists()
    assert (folder / "components" / "common" / "stage.py").stat().st_mtime_ns == before
    assert yaml.safe_load((folder / "params.yaml").read_text()) == {"seed": 2}
    assert (folder / "components" / "common" / "stage.py").read_bytes() == (
        ROOT / "components" / "common" / "stage.py"
    ).read_bytes()


def test_methods_replace_those_of_the_parameters_and_may_name_their_start():
    named = {"dino": "components/pretrain/scratch", "next_frame": "models/dino"}
    assert merged_params(None, [{"methods": named}])["methods"] == named
    assert merged_params(None, [{"methods": named}, {"methods": ["dora"]}])["methods"] == {
        "dora": "components/pretrain/scratch"
    }
