"""recipes/published/evaluate.yaml states the defaults of the propagation tasks; params.yaml has a profile of each."""

from __future__ import annotations

import subprocess
import sys
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


def test_scores_need_no_torch() -> None:
    """Each task file is also a command on files alone."""
    names = ", ".join(f"components.evaluate.tasks.{name}" for name in ("vos", "pose", "parts", "tracking"))
    code = f"import sys, {names}; sys.exit('torch' in sys.modules or 'mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("name", ["vos", "pose", "parts", "tracking"])
def test_the_sample_profile_is_valid(name: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    get_task(name).Args.model_validate(params["evaluate"][name])
    assert params["download"][name]["source"] == "procedural"
