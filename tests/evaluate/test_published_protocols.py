"""recipes/published/evaluate.yaml states the defaults of the propagation tasks; params.yaml has a profile of each."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.evaluate.task import get_task

ROOT = Path(__file__).parents[2]
BESIDE = {"workers"}  # speed, not protocol


@pytest.mark.parametrize("name", ["vos", "pose", "parts", "tracking"])
def test_the_recipe_states_the_defaults(name: str) -> None:
    section = yaml.safe_load((ROOT / "recipes/published/evaluate.yaml").read_text())["evaluate"][name]
    args = get_task(name).Args
    told, default = args.model_validate(section), args.model_validate({})
    assert told.model_dump(exclude=BESIDE) == default.model_dump(exclude=BESIDE)
    assert set(args.model_fields) - args.beside_protocol <= {*section, "pos_quirk"}  # every constant is written out


@pytest.mark.parametrize("name", ["vos", "pose", "parts", "tracking"])
def test_the_sample_profile_is_valid(name: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    get_task(name).Args.model_validate(params["evaluate"][name])
    assert params["download"][name]["source"] == "procedural"
