"""The MLflow model registry as promote uses it: versions found by their weights, aliases set last.

Every step can be killed and done again: a version is found by the tag `encoder_sha256` before one is made, its tags
are written before an alias points to it, and the alias `champion` moves in one write at the very end.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common.config import parse
from components.common.errors import ExitCode, StageError
from components.common.scores import Score
from components.common.tracking import store
from components.common.tracking.models import ENCODER_TAG
from components.common.tracking.store import exists, shown
from components.promote.decide import Version

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION, CANDIDATE = "champion", "candidate"
__all__ = ["CANDIDATE", "CHAMPION", "Registry", "as_text", "exclusive", "exists", "registry", "score_tags", "shown"]
SCORE_TAG = "score."  # + task
VERSIONS_TAG = "mlflow.modelVersions"  # MLflow's own, on a logged model
SQLITE = "sqlite:///"


class Registry:
    """One registered model."""

    def __init__(self, client: MlflowClient, model: str) -> None:
        self.client, self.model = client, model

    def at(self, alias: str) -> Version | None:
        """The version an alias points to."""
        number = self._aliases().get(alias)
        return None if number is None else self.version(int(number))

    def version(self, number: int) -> Version | None:
        return next((version for version in self.versions() if version.number == number), None)

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        found = self.client.search_model_versions(f"name = '{self.model}'")
        return sorted((_version(entry) for entry in found), key=lambda version: version.number)

    def aliases(self, number: int) -> list[str]:
        return sorted(alias for alias, at in self._aliases().items() if int(at) == number)

    def find(self, sha256: str) -> Version | None:
        """The version of these weights."""
        return next((version for version in self.versions() if version.sha256 == sha256), None)

    def ensure(self, sha256: str, model_id: str, run_id: str, tags: dict[str, str], description: str) -> Version:
        """The version of these weights, made if it is not there yet, with these tags.

        Two processes may make one in the same moment: the lower number stands, the other is taken back by its maker.
        """
        if self.find(sha256) is None:
            self._create_model()
            made = self.client.create_model_version(
                self.model,
                f"models:/{model_id}",
                run_id=run_id,
                model_id=model_id,
                tags={ENCODER_TAG: sha256, **tags},
                description=description,
            )
            first = self.find(sha256)
            if first is not None and first.number != int(made.version):
                self.client.delete_model_version(self.model, made.version)
        found = self.find(sha256)
        assert found is not None
        self._tell(model_id, found.number)
        self.tag(found.number, tags)
        return found

    def _tell(self, model_id: str, number: int) -> None:
        """Let MLflow's page of models name the version, as its own way to register a model does."""
        told = json.loads(self.client.get_logged_model(model_id).tags.get(VERSIONS_TAG, "[]"))
        entry = {"name": self.model, "version": str(number)}
        if entry not in told:
            self.client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps([*told, entry])})

    def tag(self, number: int, tags: dict[str, str]) -> None:
        """Set the tags that are not set to these values yet."""
        version = self.version(number)
        for key, value in tags.items():
            if version is None or version.tags.get(key) != value:
                self.client.set_model_version_tag(self.model, str(number), key, value)

    def untag(self, number: int, key: str) -> None:
        self.client.delete_model_version_tag(self.model, str(number), key)

    def point(self, alias: str, number: int) -> None:
        """Let an alias point to a version, in one write."""
        self.client.set_registered_model_alias(self.model, alias, str(number))

    def _aliases(self) -> dict[str, str]:
        found = self.client.search_registered_models(f"name = '{self.model}'")
        return dict(found[0].aliases) if found else {}

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.model, description="Image encoders learned from unlabelled video")
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _version(entry: ModelVersion) -> Version:
    tags = dict(entry.tags)
    return Version(int(entry.version), tags.get("run", ""), tags.get(ENCODER_TAG, ""), _scores(tags), tags)


def _scores(tags: dict[str, str]) -> dict[str, Score]:
    told = {key.removeprefix(SCORE_TAG): value for key, value in tags.items() if key.startswith(SCORE_TAG)}
    return {task: parse(Score, json.loads(value), f"tag {SCORE_TAG}{task}") for task, value in told.items()}


def score_tags(scores: dict[str, Score]) -> dict[str, str]:
    """Scores as tags of a version, so that a later candidate can be compared without this run's files."""
    return {f"{SCORE_TAG}{task}": as_text(score.model_dump(mode="json")) for task, score in scores.items()}


def as_text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


@contextmanager
def registry(model: str) -> Iterator[Registry]:
    """Open the registry; its failures become one clear line."""
    import mlflow
    import sqlalchemy

    uri = store.tracking_uri()
    try:
        yield Registry(store.client(), model)
    except (mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        if isinstance(error, OSError) and not isinstance(error, ConnectionError):
            raise  # a full disk and the like are told by the stage
        do = "nothing was promoted; run it again once the registry answers"
        first = shown(str(error).strip().splitlines()[0])[:200]
        raise StageError(
            f"the model registry failed, {first}", where=shown(uri), do=do, code=ExitCode.NO_ROOM
        ) from error


@contextmanager
def exclusive() -> Iterator[None]:
    """One promotion at a time on an embedded store. A server has no lock to offer: there, aliases are checked again."""
    uri = store.tracking_uri()
    if not uri.startswith(SQLITE):
        yield
        return
    file = Path(uri.removeprefix(SQLITE) + ".promote.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
