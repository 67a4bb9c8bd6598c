"""A workspace: a folder in which one recipe runs, with a snapshot of the code and its own DVC state.

The project's own folder is the workspace of params.yaml. A recipe never edits that file: its values are laid over it
in `runs/<recipe>/`, so that several recipes stand side by side and each can be repeated.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from components.common.config import deep_merge, nearest, read_yaml
from components.common.errors import StageError
from components.common.outputs import write_text

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = "components/pretrain/scratch"  # what `methods` names for an encoder without weights to start from
CATALOGUE = ROOT / "recipes" / "catalogue.yaml"
SNAPSHOT = ("components", "pipelines", "dvc.yaml", ".dvcignore")


def recipe_file(name: str) -> Path:
    """The file of a recipe, by path or by its name below recipes/."""
    for candidate in (Path(name), ROOT / "recipes" / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    raise StageError(f"no recipe '{name}'", do=f"known: {', '.join(recipe_names())}")


def recipe_names() -> list[str]:
    """All recipes, by their names below recipes/; the catalogue is none."""
    files = (file for file in (ROOT / "recipes").rglob("*.yaml") if file != CATALOGUE)
    return sorted(file.relative_to(ROOT / "recipes").with_suffix("").as_posix() for file in files)


def make_workspace(folder: Path, params: dict[str, Any]) -> Path:
    """Create or refresh a workspace: the code as it is now, and `params` as its params.yaml.

    Outputs, caches and the DVC state of an earlier run stay, so that only what changed runs again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in SNAPSHOT:
        _copy(ROOT / name, folder / name)
    write_text(folder / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    if not (folder / ".dvc").is_dir():
        dvc = [sys.executable, "-m", "dvc"]
        subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
        shutil.copyfile(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        subprocess.run([*dvc, "config", "core.no_scm", "true"], cwd=folder, check=True)
    return folder


def merged_params(recipe: Path | None, changes: list[dict[str, Any]]) -> dict[str, Any]:
    """params.yaml, the recipe laid over it, then single changes.

    A recipe's lists (tasks, corpora), its `methods`, `datasets` and gates, and a dataset that names its `source`
    or `card` replace those of params.yaml. Relative paths of local sources are taken from the project's folder.
    """
    params = read_yaml(ROOT / "params.yaml")
    if recipe is not None:
        over = recipe_params(recipe)
        if "datasets" in over:
            del params["datasets"]
        gates = {
            **params.get("promote", {}),
            **over.get("promote", {}),
        }  # a gate of params.yaml may judge an absent task
        params = {**_laid_over(params, over), "promote": gates}
    for change in changes:
        params = _laid_over(params, change)
    return _placed(params)


def recipe_params(recipe: Path) -> dict[str, Any]:
    """What a recipe says, over the recipes that it names under `with`, over the catalogue's entries of its datasets.

    A dataset that it gives a `source` or `card` of its own takes nothing from the catalogue, in no stage.

    Raises:
        StageError: a recipe under `with` is not there, or has such a list itself.
    """
    over = read_yaml(recipe)
    below: dict[str, Any] = {}
    for name in over.pop("with", []):
        other = read_yaml(recipe_file(name))
        if "with" in other:
            raise StageError("a recipe that others build on has `with` itself", where=f"recipes/{name}.yaml")
        below = _laid_over(below, other) if below else other
    named = deep_merge(below.get("datasets", {}), over.get("datasets", {}))
    own = _own_sources(below) | _own_sources(over)
    return _laid_over(_laid_over(catalogue_entries([name for name in named if name not in own]), below), over)


def catalogue_entries(names: list[str]) -> dict[str, Any]:
    """The sections that recipes/catalogue.yaml has for these datasets.

    The snapshot of a workspace holds no catalogue: what it runs is whole in its params.yaml.
    """
    if not CATALOGUE.is_file():
        return {}
    catalogue = read_yaml(CATALOGUE)
    sections = {stage: catalogue[stage] for stage in ("download", "extract_frames", "index")}
    return {
        stage: {name: section[name] for name in names if name in section}
        for stage, section in sections.items()
        if any(name in section for name in names)
    }


def dataset_params(names: list[str], changes: list[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """(parameters, targets) that take datasets of the catalogue from their source to their index, and no further.

    Raises:
        StageError: the catalogue has no such dataset.
    """
    kinds = read_yaml(CATALOGUE)["datasets"]
    if unknown := [name for name in names if name not in kinds]:
        raise StageError(f"no dataset '{unknown[0]}' in the catalogue{nearest(unknown[0], list(kinds))}")
    corpora = [name for name in names if kinds[name] == "raw"]
    params = read_yaml(ROOT / "params.yaml")
    datasets = {name: kinds[name] for name in names}
    if corpora:
        params |= {"corpora": corpora, "corpus": corpora[0]}
        if len(corpora) == len(names):
            datasets["vos"] = "benchmarks"  # the index looks for leaks into some benchmark: the sample world's
    params = _laid_over(_laid_over({**params, "datasets": datasets}, catalogue_entries(names)), {})
    for change in changes:
        params = _laid_over(params, change)
    stages = {"raw": "index", "benchmarks": "download"}
    return _placed(params), [f"{stages[kinds[name]]}@{name}" for name in names]


def _placed(params: dict[str, Any]) -> dict[str, Any]:
    """`params` with the paths of sources taken from the project's folder."""
    for entry in params.get("download", {}).values():
        if isinstance(entry, dict) and isinstance(entry.get("path"), str):
            entry["path"] = str((ROOT / Path(entry["path"]).expanduser()).resolve())
    return params


def _laid_over(params: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = deep_merge(params, over)
    if isinstance(methods := over.get("methods"), list):  # a plain list: all of them learn from scratch
        merged["methods"] = dict.fromkeys(methods, SCRATCH)
    elif methods is not None:
        merged["methods"] = methods
    own = _own_sources(over)
    if "download" in merged:
        merged["download"] = {**merged["download"], **own}  # another source has other keys
    return merged


def _own_sources(over: dict[str, Any]) -> dict[str, Any]:
    """The datasets that say where they come from."""
    entries = (over.get("download") or {}).items()
    return {name: entry for name, entry in entries if {"source", "card"} & set(entry or {})}


def _copy(source: Path, target: Path) -> None:
    """Mirror a file or package; files that are equal keep their time, so that DVC need not hash them again."""
    if source.is_file():
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return
    names = {entry.name for entry in source.iterdir() if entry.name != "__pycache__"}
    target.mkdir(parents=True, exist_ok=True)
    for entry in target.iterdir():
        if entry.name not in names:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for name in sorted(names):
        _copy(source / name, target / name)
