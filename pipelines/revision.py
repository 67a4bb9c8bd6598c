"""Which code a run is made of: what Kubeflow's cache must see, so that it never serves results of other code."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from components.common import hashing
from components.common.tracking.tracker import git_revision
from pipelines.dag import Node
from pipelines.workspace import ROOT


@dataclass(frozen=True)
class Code:
    """Of one stage: the last commit that touched its files, and the hash of the files as they are."""

    revision: str
    content: str


def head() -> str:
    """The project's revision, `-dirty` where files differ from it."""
    return git_revision()


def code_of(node: Node, folder: Path) -> Code:
    """The code of a node: a commit elsewhere leaves it as it is, and with it Kubeflow's cache.

    Args:
        node: of the DAG.
        folder: where its code dependencies lie.
    """
    hashes = {dep: hashing.tree_hash(folder / dep) for dep in node.code}
    command = ["git", "log", "-1", "--format=%H", "--", *node.code]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
        revision = done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        revision = ""
    return Code(revision or "unknown", hashing.json_hash(hashes))
