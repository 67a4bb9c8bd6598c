import ast
import re
from pathlib import Path

import pytest

from pipelines.dag import read_dag

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["download", "extract_frames", "index", "pretrain", "evaluate", "compare", "promote"]


@pytest.fixture(scope="module")
def dag():
    return read_dag(ROOT)


def test_a_stage_has_one_name_everywhere(dag):
    assert {node.stage for node in dag.nodes} == set(STAGES)
    for node in dag.nodes:
        assert re.match(rf"python -m components\.{node.stage}( |$)", node.cmd)
        assert (ROOT / "components" / node.stage / "__main__.py").is_file()
        assert {"components/common", f"components/{node.stage}"} <= set(node.deps)


def test_every_stage_says_what_it_does_and_what_a_cluster_needs(dag):
    for node in dag.nodes:
        assert node.desc
        assert node.meta["image"] in ("data", "train")
        assert {"cpu", "memory_gib", "timeout_h"} <= set(node.meta)


def test_the_command_names_exactly_the_paths_that_dvc_tracks(dag):
    for node in dag.nodes:
        named = {
            word
            for word in node.cmd.split()
            if word.startswith(("data/", "models", "metrics", "results", "report", "promotion"))
        }
        tracked = {path for path in (*node.deps, *node.outs) if not path.startswith("components/")}
        assert named == tracked, node.name


def test_edges_are_paths(dag):
    """An independent reading: an edge where an output is, holds, or lies below a dependency."""

    def touches(a, b):
        a, b = Path(a), Path(b)
        return a == b or a in b.parents or b in a.parents

    expected = {
        (maker.name, user.name)
        for maker in dag.nodes
        for user in dag.nodes
        if maker != user and any(touches(out, dep) for out in maker.outs for dep in user.deps)
    }
    assert dag.edges == expected
    order = [node.name for node in dag.nodes]
    assert all(order.index(maker) < order.index(user) for maker, user in dag.edges)


def _imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module


@pytest.mark.parametrize("stage", [*STAGES, "common"])
def test_a_stage_imports_common_and_itself_only(stage):
    for file in (ROOT / "components" / stage).rglob("*.py"):
        ours = {name.split(".")[1] for name in _imports(file) if name.startswith("components.")}
        assert ours <= {"common", stage}, file
        assert not any(name.startswith("pipelines") for name in _imports(file)), file


def test_nothing_imports_a_task():
    """Neither another task nor what they share."""
    for file in (ROOT / "components/evaluate").rglob("*.py"):
        assert not any(name.startswith("components.evaluate.tasks.") for name in _imports(file)), file


def test_pipelines_import_no_stage():
    for file in (ROOT / "pipelines").rglob("*.py"):
        ours = {name.split(".")[1] for name in _imports(file) if name.startswith("components.")}
        assert ours <= {"common"}, file


@pytest.mark.parametrize("stage", ["pretrain", "evaluate"])
def test_training_and_evaluation_do_without_the_pipeline_packages(stage):
    for file in (ROOT / "components" / stage).rglob("*.py"):
        assert not {"mlflow", "dvc", "kfp"} & {name.split(".")[0] for name in _imports(file)}, file
