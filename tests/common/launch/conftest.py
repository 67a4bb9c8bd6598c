"""The real `kubernetes` client against an API on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.common.kube_api import KubeApi
from tests.common.launch.trainjob_world import ROOT, World


@pytest.fixture
def api() -> Iterator[KubeApi]:
    api = KubeApi()
    yield api
    api.close()


@pytest.fixture
def world(tmp_path: Path, api: KubeApi, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_PIPELINE_RUN", "run-1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never in a manifest")
    monkeypatch.setenv("HOSTNAME", "launcher")
    for name in ("KFP_POD_NAME", "POD_NAMESPACE", "LONGTAKE_GIT_REVISION"):
        monkeypatch.delenv(name, raising=False)
    return World(tmp_path, api)
