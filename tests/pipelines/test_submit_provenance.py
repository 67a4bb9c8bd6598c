"""What a task was made of, read from a compiled pipeline: the golden file of the compiler, which has a fan-out."""

import copy
from pathlib import Path

import pytest

from components.common.errors import StageError
from pipelines.submit import spec
from pipelines.submit.provenance import executions

GOLDEN = Path(__file__).with_name("golden") / "pipeline.yaml"


@pytest.fixture(scope="module")
def golden():
    return spec.read_documents(GOLDEN)


def changed(documents, given):
    """Tasks whose fingerprint differs from that of the defaults."""
    before, after = executions(documents, {}), executions(documents, given)
    return {key for key in before if before[key].fingerprint != after[key].fingerprint}


def test_every_task_below_the_exit_handler_has_an_execution(golden):
    found = executions(golden, {})
    keys = {task.key for task in spec.tasks(golden)} - {"finish"}
    inner = {key for key in keys if key.endswith(("-part", "-merge"))}
    assert set(found) == (keys - inner) | {key.removesuffix("-merge") for key in inner if key.endswith("-merge")}
    assert inner


def test_the_output_of_a_fan_out_is_written_by_the_task_that_merges(golden):
    found = executions(golden, {})
    group = next(key for key in found if key.startswith("extract-frames"))
    assert found[group].outputs == {"frames": (f"{group}-merge", "frames")}
    assert found["compare"].outputs["report"] == ("compare", "report")


def test_values_are_the_runs_where_given_and_else_the_defaults(golden):
    defaults = spec.inputs(golden)
    found = executions(golden, {"seed": 7})
    index = next(found[key] for key in found if key.startswith("index"))
    assert index.values["seed"] == 7
    name = next(name for name in index.values if name.startswith("index__"))
    assert index.values[name] == defaults[name]
    assert index.values["code_hash"]


def test_a_change_shows_in_all_that_comes_after_it_and_nowhere_else(golden):
    name = next(name for name in spec.inputs(golden) if name.startswith("index__"))
    value = {**spec.inputs(golden)[name], "tolerance_s": 9.0}
    after = changed(golden, {name: value})
    assert not {key for key in after if key.startswith(("download", "extract"))}
    assert {"compare", "promote"} <= after
    assert {key for key in executions(golden, {}) if key.startswith(("index", "pretrain", "evaluate"))} <= after
    assert changed(golden, {"git_revision": "another"}) == set()
    assert changed(golden, {"seed": 0}) == set()  # the default is 0.0


@pytest.mark.parametrize("prefix", ["exec-download", "exec-extract"])
def test_another_image_is_another_execution_also_inside_a_group(golden, prefix):
    other = copy.deepcopy(golden)
    executors = other[0]["deploymentSpec"]["executors"]
    for label in [label for label in executors if label.startswith(prefix)]:
        executors[label]["container"]["image"] = "another"
    before, after = executions(golden, {}), executions(other, {})
    first = prefix.removeprefix("exec-")
    assert all(before[key].fingerprint != after[key].fingerprint for key in before if key.startswith(first))
    assert all(before[key].fingerprint != after[key].fingerprint for key in before if key.startswith("index"))


@pytest.mark.parametrize("text", ["", "a: 1\n", "[]\n---\n{}\n"])
def test_a_file_that_is_no_pipeline_is_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(StageError, match="not a compiled pipeline"):
        spec.read_documents(tmp_path / "x.yaml")
