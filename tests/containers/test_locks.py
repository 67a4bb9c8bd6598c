"""The locks of the images: what each image may hold, and that they say the same as the lock of the laptop."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ("data", "train")
PIN = re.compile(r"^([a-zA-Z0-9._-]+)==([^ \\;]+)", re.MULTILINE)


def lock_text(image: str | None) -> str:
    return (ROOT / (f"containers/{image}.lock" if image else "requirements.lock")).read_text(encoding="utf-8")


def pins(image: str | None) -> dict[str, set[str]]:
    """Package -> the versions a lock names for it (more than one where Python's version decides)."""
    found: dict[str, set[str]] = {}
    for name, version in PIN.findall(lock_text(image)):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def asked(extra: str) -> Iterator[Requirement]:
    """What pyproject.toml asks for under an extra, extras within extras followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for line in [*project["dependencies"], *project["optional-dependencies"][extra]]:
        requirement = Requirement(line)
        if requirement.name == project["name"]:
            for inner in requirement.extras:
                yield from asked(inner)
        else:
            yield requirement


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_versions_of_the_laptop(image):
    laptop = pins(None)
    differing = {name: versions for name, versions in pins(image).items() if not versions <= laptop.get(name, set())}
    assert not differing, f"run `make lock`: containers/{image}.lock differs from requirements.lock in {differing}"


@pytest.mark.parametrize("image", IMAGES)
def test_a_lock_holds_what_pyproject_asks_for(image):
    locked = pins(image)
    for requirement in asked(image):
        versions = locked.get(canonicalize_name(requirement.name), set())
        assert versions, f"run `make lock`: {requirement.name} is not in containers/{image}.lock"
        assert all(version in requirement.specifier for version in versions), requirement


@pytest.mark.parametrize("image", [None, *IMAGES])
def test_a_lock_holds_hashes_and_no_addresses(image):
    text = lock_text(image)
    assert "://" not in text and "--index-url" not in text and "--find-links" not in text
    for entry in re.split(r"\n(?=\S)", text.strip()):
        assert "--hash=sha256:" in entry, entry


def test_an_image_holds_nothing_that_its_stages_do_not_need():
    assert not {"torch", "triton", "timm", "kfp", "mlflow", "pytest"} & set(pins("data"))
    assert not {"dvc", "kfp", "docker-pycreds", "imageio-ffmpeg", "pytest"} & set(pins("train"))
    assert {"dvc-s3", "boto3", "mlflow-skinny", "imageio-ffmpeg"} <= set(pins("data"))
    assert {"torch", "timm", "boto3", "mlflow", "kubernetes", "jinja2"} <= set(pins("train"))
