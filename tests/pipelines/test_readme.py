"""What the README says is what dvc.yaml holds."""

import itertools
import re
from pathlib import Path

from pipelines.dag import read_dag

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_picture_of_the_dag_is_the_dag():
    drawn = set()
    for row in re.search(r"```mermaid\n(.*?)```", README, re.S).group(1).splitlines()[1:]:
        names = row.strip().split(" --> ")
        drawn |= set(itertools.pairwise(names))
    edges = {tuple(name.partition("@")[0] for name in edge) for edge in read_dag(ROOT).edges}
    assert drawn == edges


def test_every_file_it_names_is_there():
    named = re.findall(r"\]\(([^)#:]+)\)", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
