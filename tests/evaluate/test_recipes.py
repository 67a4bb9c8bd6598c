"""The recipes of the evaluations: whole, valid, and equal to the tasks' own published constants."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Any

import pytest

from components.common.config import parse, read_yaml
from components.evaluate import tasks
from components.evaluate.task import get_task
from pipelines.workspace import merged_params

RECIPES = Path(__file__).parents[2] / "recipes"
HERE = sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))
PUBLISHED: dict[str, Any] = read_yaml(RECIPES / "published" / "evaluate.yaml")


@pytest.mark.parametrize("task", HERE)
def test_published_constants_are_written_out_and_are_the_defaults(task: str) -> None:
    args, told = get_task(task).Args, PUBLISHED["evaluate"].get(task)
    assert told is not None, f"no section {task} in recipes/published/evaluate.yaml"
    given = parse(args, told, "evaluate.yaml").model_dump(exclude=set(args.beside_protocol))
    assert given == parse(args, {}, "nothing").model_dump(exclude=set(args.beside_protocol))
    assert set(given) <= set(told), f"not written out: {sorted(set(given) - set(told))}"
    assert task in PUBLISHED["tasks"] and PUBLISHED["datasets"][task] == "benchmarks"


def test_the_recipe_of_all_tasks_holds_every_one() -> None:
    params = merged_params(RECIPES / "all_tasks.yaml", [])
    assert set(HERE) <= set(params["tasks"]) and len(params["tasks"]) == 16
    assert set(params["datasets"]) == {"sample", *params["tasks"]}
    assert list(params["methods"]) == ["random", "dino"]


@pytest.mark.parametrize("task", HERE)
def test_the_sample_profile_of_a_task(task: str) -> None:
    params = merged_params(RECIPES / "all_tasks.yaml", [])
    parse(get_task(task).Args, params["evaluate"][task], f"params.yaml, evaluate.{task}")
    assert task in params["download"]
