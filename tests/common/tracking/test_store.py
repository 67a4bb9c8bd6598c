"""A database whose making was cut short must not stand in the way of the next process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow  # imports MLflow in processes of their own
def test_killed_while_the_database_is_made(tmp_path: Path) -> None:
    env = {**os.environ, "LONGTAKE_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": ""}
    command = [
        sys.executable,
        "-c",
        "from components.common.tracking import store; store.client().search_experiments()",
    ]
    process = subprocess.Popen(command, env=env)
    partial = tmp_path / ".mlflow.db.partial"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 0):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists() and not (tmp_path / "mlflow.db").exists()
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mlflow.db").exists() and not partial.exists()
