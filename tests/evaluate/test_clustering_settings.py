"""The published recipe and the sample profile speak the tasks' keys, and the recipe's numbers are the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.common.config import parse, section_of
from components.evaluate.task import TaskParams, get_task

ROOT = Path(__file__).parents[2]
TASKS = ("video_clustering", "voc_clustering", "foreground", "retrieval")


@pytest.mark.parametrize("task", TASKS)
def test_published_recipe_is_the_defaults(task: str) -> None:
    section = yaml.safe_load((ROOT / "recipes/published/evaluate.yaml").read_text())["evaluate"][task]
    args = get_task(task).Args
    usual = args.model_validate({"workers": section["workers"]})
    assert args.model_validate(section) == usual
    protocol = set(args.model_fields) - set(TaskParams.model_fields) - args.beside_protocol
    assert protocol <= set(section)  # each constant is written out


@pytest.mark.parametrize("task", TASKS)
def test_sample_profile_is_read(task: str) -> None:
    from components.download.world import WorldParams

    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    parse(get_task(task).Args, section_of(params, "evaluate", task), task)
    world = parse(WorldParams, section_of(params, "download", task), task)
    assert world.val_clips > 0
