"""Where people look at a run in MLflow."""

from __future__ import annotations

import os

PAGE_TIMEOUT_S = 5.0


def mlflow_page(pipeline_run: str, address: str | None = None) -> str:
    """The pipeline's run in MLflow; its list of runs where that one is not made yet; else the server's address.

    Args:
        pipeline_run: Kubeflow's run id, which the stages tag their runs with.
        address: of the server, as people open it; default: MLFLOW_TRACKING_URI.
    """
    import requests

    from components.common.tracking.store import experiment_name

    base = (address or os.environ.get("MLFLOW_TRACKING_URI", "")).rstrip("/")
    if not base.startswith(("http://", "https://")):
        return f"tag pipeline_run = {pipeline_run} (its address: --mlflow URL)"
    api = f"{base}/api/2.0/mlflow"
    try:
        named = {"experiment_name": experiment_name()}
        answer = requests.get(f"{api}/experiments/get-by-name", params=named, timeout=PAGE_TIMEOUT_S)
        answer.raise_for_status()
        experiment = answer.json()["experiment"]["experiment_id"]
    except (requests.RequestException, ValueError, KeyError):
        return f"{base} (no answer from here; tag pipeline_run = {pipeline_run})"
    return f"{base}/#/experiments/{experiment}/runs?searchFilter=tags.pipeline_run%20%3D%20%22{pipeline_run}%22"
