"""The Docker engine under a local run: whether it answers, and whether anything of a killed run still works there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.common.errors import StageError

REVISION = "org.opencontainers.image.revision"
LABEL = "longtake.run"  # marks a run's containers with the folder they write to


@contextlib.contextmanager
def engine() -> Iterator[Any]:
    """A client; raises StageError when no engine answers."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
    except DockerException as error:
        why = " ".join(str(error).split())[:200]
        raise StageError(f"no Docker engine answers: {why}", do="start Docker, or use make repro") from None
    with contextlib.closing(client):
        yield client


def check_images(images: dict[str, str], revision: str) -> list[str]:
    """Raises StageError when an image is missing; returns those that hold another revision of the code."""
    from docker.errors import ImageNotFound

    other = []
    with engine() as client:
        for image in images.values():
            try:
                labels = client.images.get(image).labels
                if labels.get(REVISION) != revision:
                    other.append(f"{image} holds {labels.get(REVISION, 'an unknown revision')}")
            except ImageNotFound:
                raise StageError("an image is missing", where=image, do="make images") from None
    return other


def stop_containers(root: Path) -> None:
    """End the containers that write to `root`: a killed run leaves one that nobody waits for."""
    from docker.errors import APIError

    with engine() as client:
        for container in client.containers.list(filters={"label": f"{LABEL}={root}"}):
            with contextlib.suppress(APIError):  # gone by itself
                container.remove(force=True)
