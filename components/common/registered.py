"""Encoders out of MLflow's model registry: `models:/NAME@ALIAS` or `models:/NAME/VERSION` as a model folder.

A version never changes, so it is fetched once, whole, into the cache; what nobody used for a week goes with the next
fetch. MLflow is imported here and only when such a name is asked for.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from components.common import hashing
from components.common.claims import Claim
from components.common.config import nearest
from components.common.context import LEFT_AFTER_S, cache_root
from components.common.errors import ExitCode, StageError
from components.common.outputs import remove, stage_path
from components.common.tracking import store
from components.common.tracking.models import ENCODER_TAG, WEIGHTS

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

PREFIX = "models:/"
FORM = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w-]+)|/(?P<version>\d+))")
INSIDE = "artifacts/encoder"  # where the model folder lies in a version of ours
POLL_S = 0.5


def fetch_encoder(uri: str) -> tuple[Path, str]:
    """The model folder of a registered version, in the cache, and the version's own name `models:/NAME/NUMBER`.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        StageError: no such model, alias or version; the version holds no encoder of ours; no answer.
    """
    form = FORM.fullmatch(uri)
    if form is None:
        raise StageError("not a registered model's name", where=uri, do="models:/NAME@ALIAS or models:/NAME/VERSION")
    with _answers():
        client = store.client()
        version = _version(client, form["name"], form["alias"], form["version"])
        folder = _fetched(version)
    return folder, f"{PREFIX}{version.name}/{version.version}"


def _version(client: MlflowClient, name: str, alias: str | None, number: str | None) -> ModelVersion:
    known = {model.name: model for model in client.search_registered_models(f"name = '{name}'")}
    if name not in known:
        names = [model.name for model in client.search_registered_models()]
        raise StageError(f"no registered model '{name}'{nearest(name, names)}", where=store.shown(store.tracking_uri()))
    aliases = dict(known[name].aliases)
    if alias is not None and alias not in aliases:
        raise StageError(f"model '{name}' has no alias '{alias}'{nearest(alias, list(aliases))}")
    wanted = str(aliases[alias] if alias is not None else number)
    versions = {str(entry.version): entry for entry in client.search_model_versions(f"name = '{name}'")}
    if wanted not in versions:
        raise StageError(f"model '{name}' has no version {wanted}{nearest(wanted, list(versions))}")
    return versions[wanted]


def _fetched(version: ModelVersion) -> Path:
    """The version's model folder, downloaded unless it is there; one process at a time, whole or not at all."""
    facts = [store.tracking_uri(), version.name, str(version.version), version.creation_timestamp]
    root = cache_root() / "registered"
    place, claim = root / hashing.json_hash(facts), Claim([root], cache_root() / "locks")
    while not claim.take():
        time.sleep(POLL_S)
    try:
        if not place.exists():
            _drop_unused(root)
            _download(version, place)
    finally:
        claim.release()
    os.utime(place)
    return place


def _download(version: ModelVersion, place: Path) -> None:
    import mlflow

    partial = stage_path(place)
    remove(partial)
    partial.mkdir(parents=True)
    try:
        uri = f"{PREFIX}{version.name}/{version.version}"
        got = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(partial), tracking_uri=store.tracking_uri()))
        encoder = got / INSIDE
        if not (encoder / WEIGHTS).is_file():
            raise StageError("the version holds no encoder of ours", where=uri, do="register it by promote")
        told = version.tags.get(ENCODER_TAG)
        if told and hashing.file_hash(encoder / WEIGHTS) != told:
            raise StageError(f"the weights are not those that were registered ({told[:12]})", where=uri)
        encoder.rename(place)
    finally:
        remove(partial)


def _drop_unused(root: Path) -> None:
    for folder in root.iterdir() if root.is_dir() else ():
        if time.time() - folder.stat().st_mtime > LEFT_AFTER_S:
            remove(folder)


@contextmanager
def _answers() -> Iterator[None]:
    """The registry's trouble as one clear line."""
    if not store.exists():
        where = store.shown(store.tracking_uri())
        raise StageError("there is no model registry", where=where, do="set MLFLOW_TRACKING_URI, or run the pipeline")
    import mlflow
    import sqlalchemy

    try:
        yield
    except (mlflow.exceptions.MlflowException, sqlalchemy.exc.SQLAlchemyError, ConnectionError) as error:
        first = store.shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
        where = store.shown(store.tracking_uri())
        raise StageError(f"the model registry failed, {first}", where=where, code=ExitCode.UNREACHABLE) from error
