"""Servers on loopback that a submission talks to."""

from __future__ import annotations

import pytest

from tests.pipelines.kfp_server import KfpServer
from tests.pipelines.kube_server import ready_cluster
from tests.pipelines.small_pipeline import compiled


@pytest.fixture
def kfp():
    server = KfpServer()
    yield server
    server.close()


@pytest.fixture
def cluster():
    server = ready_cluster()
    yield server
    server.close()


@pytest.fixture
def kube(cluster, tmp_path):
    """The real client on the hand-written cluster."""
    from pipelines.submit.kube import connect

    return connect("longtake", cluster.kubeconfig(tmp_path))


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("compiled"))
