"""What lies in a workspace already, and whether DVC knows it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from components.common import outputs
from components.common.s3.artifact import Artifact


def holds(place: Path, artifact: Artifact) -> bool:
    """Is this output in its place already, byte for byte?"""
    single = artifact.objects.get("")
    if single is None:
        return place.is_dir() and _marked(place) == artifact.content == outputs.content_hash(place)
    return place.is_file() and place.stat().st_size == single.size and f'"{_md5(place)}"' == single.etag


def is_known(folder: Path, file: Path) -> bool:
    """Is a file an output that dvc.lock records as it is now?"""
    try:
        lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return False
    path = file.relative_to(folder).as_posix()
    stages: dict[str, Any] = (lock or {}).get("stages") or {}
    recorded = {
        out.get("md5") for stage in stages.values() for out in stage.get("outs") or [] if out.get("path") == path
    }
    return bool(recorded) and _md5(file) in recorded


def _marked(place: Path) -> str:
    try:
        return str(json.loads((place / outputs.MARKER).read_text(encoding="utf-8"))["content"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()
