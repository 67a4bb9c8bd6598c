"""Encoders as MLflow LoggedModels: logged once each, loadable from code and safetensors, never from a pickle.

The steps are taken one by one instead of through `mlflow.pyfunc.log_model`: a LoggedModel left half-made by a kill
is found by its tag and completed, and no global "active run" is opened or changed.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.common import hashing
from components.common.errors import StageError

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.tracking import MlflowClient

SCRIPT = Path(__file__).resolve().parent.parent / "mlflow_model.py"
NEEDS = ("mlflow", "torch", "timm", "safetensors", "numpy", "pillow")  # what the script imports; never inferred
ENCODER_TAG = "encoder_sha256"
NO_WEIGHTS_TAG = "longtake.no_weights"  # of a model that was judged, but whose weights MLflow does not hold
WEIGHTS, CONFIG = "encoder.safetensors", "config.json"


def log_encoder_model(uri: str, run_id: str, folder: Path, name: str) -> str:
    """Log the encoder of `folder` as an output of the run and return the LoggedModel's id.

    The same weights in the same experiment are the same LoggedModel, however often this is called. Afterwards
    `mlflow.pyfunc.load_model(f"models:/{model_id}")` embeds images, and its artifacts hold the folder as it is.

    Args:
        uri: the tracking store.
        run_id: the run that made the encoder.
        folder: model folder with encoder.safetensors and config.json.
        name: name of the LoggedModel, for people.

    Raises:
        StageError: the folder is no model folder.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    config, sha256 = read_config(folder), hashing.file_hash(_weights(folder))
    run = client.get_run(run_id)
    found = find_model(client, run.info.experiment_id, sha256)
    if found is None:
        found = client.create_logged_model(
            run.info.experiment_id,
            name=name,
            source_run_id=run_id,
            params={**_described(config), **run.data.params},
            tags={ENCODER_TAG: sha256, **_origin(config, run.data.tags)},
            model_type="encoder",
        )
    if str(found.status) != str(LoggedModelStatus.READY) or NO_WEIGHTS_TAG in found.tags:
        _upload(client, found, folder)
        if NO_WEIGHTS_TAG in found.tags:
            client.delete_logged_model_tag(found.model_id, NO_WEIGHTS_TAG)
        client.finalize_logged_model(found.model_id, LoggedModelStatus.READY)
    if found.model_id not in [output.model_id for output in run.outputs.model_outputs]:
        client.log_outputs(run_id, models=[LoggedModelOutput(found.model_id, step=0)])
    return str(found.model_id)


def find_model(client: MlflowClient, experiment_id: str, sha256: str) -> LoggedModel | None:
    """The LoggedModel of these weights, a finished one first; the oldest where there are several."""
    found = client.search_logged_models([experiment_id], filter_string=f"tags.{ENCODER_TAG} = '{sha256}'")
    ordered = sorted(found, key=lambda model: (str(model.status) != "READY", model.creation_timestamp, model.model_id))
    return ordered[0] if ordered else None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder; StageError where it is missing or lacks what loading needs."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(f"no {CONFIG} in the model folder", where=folder, do="run pretrain first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StageError(f"not readable as JSON, {error}", where=folder / CONFIG) from None
    missing = {"architecture", "model_args", "pretrained_cfg"} - set(config)
    if missing:
        raise StageError(f"missing {', '.join(sorted(missing))}", where=folder / CONFIG)
    return dict(config)


def _weights(folder: Path) -> Path:
    if not (folder / WEIGHTS).is_file():
        raise StageError(f"no {WEIGHTS} in the model folder", where=folder, do="run pretrain first")
    return folder / WEIGHTS


def _upload(client: MlflowClient, model: LoggedModel, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="longtake-") as scratch:
        place = Path(scratch) / "model"
        save_pyfunc(folder, place, run_id=model.source_run_id, model_id=model.model_id)
        client.log_model_artifacts(model.model_id, str(place))


def save_pyfunc(folder: Path, place: Path, *, run_id: str | None = None, model_id: str | None = None) -> None:
    """Write the encoder as an MLflow model folder: MLmodel, the script, and `artifacts/encoder/`: `folder`, copied."""
    import mlflow
    from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
    from mlflow.models import Model

    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # uv's environments have no pip: no news
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="longtake-") as scratch:
        named = Path(scratch) / "encoder"  # MLflow names its copy after the folder, and follows no link
        shutil.copytree(folder, named)
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(SCRIPT),
            artifacts={"encoder": str(named)},
            mlflow_model=Model(model_uuid=model_id, run_id=run_id, model_id=model_id),
            signature=_signature(int(read_config(folder).get("num_features", -1))),
            pip_requirements=requirements(),
            input_example=_example(),
        )


def requirements() -> list[str]:
    """What loading needs, pinned to the versions at hand, without build tags (`+cu130`) or addresses."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in NEEDS]


def _signature(dim: int) -> Any:
    """Output and options; the input stays open, since an MLflow tensor schema would refuse encoded images."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    options = [ParamSpec("features", "string", "cls"), ParamSpec("batch_size", "long", 64)]
    return ModelSignature(outputs=Schema([TensorSpec(np.dtype("float32"), (-1, dim))]), params=ParamSchema(options))


def _example() -> Any:
    """Two small uint8 images, a ramp each: shows shape and dtype in the UI, a few kilobytes as JSON."""
    import numpy as np

    ramp = np.linspace(0, 255, 16 * 16 * 3).astype(np.uint8).reshape(16, 16, 3)
    return np.stack([ramp, ramp[::-1]])


def _described(config: dict[str, Any]) -> dict[str, str]:
    about = {key: value for key, value in config.get("longtake", {}).items() if isinstance(value, str | int | float)}
    return {"architecture": str(config["architecture"]), **{f"longtake.{key}": str(v) for key, v in about.items()}}


def _origin(config: dict[str, Any], run_tags: dict[str, str]) -> dict[str, str]:
    method = str(config.get("longtake", {}).get("method", run_tags.get("method", "")))
    return {"method": method, "git_revision": run_tags.get("git_revision", "unknown")}
