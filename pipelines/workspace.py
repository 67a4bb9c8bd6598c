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

from components.common.config import deep_merge, read_yaml
from components.common.errors import StageError
from components.common.outputs import write_text

ROOT = Path(__file__).resolve().parent.parent
SCRATCH = "components/pretrain/scratch"  # what `methods` names for an encoder without weights to start from
SNAPSHOT = ("components", "pipelines", "dvc.yaml", ".dvcignore")


def recipe_file(name: str) -> Path:
    """The file of a recipe, by path or by its name below recipes/."""
    for candidate in (Path(name), ROOT / "recipes" / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = sorted(
        p.relative_to(ROOT / "recipes").with_suffix("").as_posix() for p in (ROOT / "recipes").rglob("*.yaml")
    )
    raise StageError(f"no recipe '{name}'", do=f"known: {', '.join(known)}")


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
    replace those of params.yaml. Relative paths of local sources are taken from the project's folder.
    """
    params = read_yaml(ROOT / "params.yaml")
    if recipe is not None:
        over = read_yaml(recipe)
        if "datasets" in over:
            del params["datasets"]
        gates = {
            **params.get("promote", {}),
            **over.get("promote", {}),
        }  # a gate of params.yaml may judge an absent task
        params = {**_laid_over(params, over), "promote": gates}
    for change in changes:
        params = _laid_over(params, change)
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
    own = {name: entry for name, entry in (over.get("download") or {}).items() if "source" in (entry or {})}
    merged["download"] = {**merged.get("download", {}), **own}  # another source has other keys
    return merged


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
