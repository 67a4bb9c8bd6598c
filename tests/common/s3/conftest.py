"""A bucket on a real server, reached through a proxy that can hurt requests."""

from __future__ import annotations

import itertools
import json

import pytest
import requests

from components.common.s3.params import S3Params
from components.common.s3.store import Store
from tests.common.s3.proxy import Proxy
from tests.common.s3.servers import KEYS, moto

FAST = {
    "retries": 3,
    "backoff_s": 0.01,
    "timeout_s": 2,
    "part_mib": 5,
    "workers": 3,
    "block_mib": 0.0625,
    "cache_gib": 0.01,
}
_numbers = itertools.count()


@pytest.fixture(scope="session")
def endpoint():
    with moto() as running:
        yield running


@pytest.fixture
def s3_env(endpoint, monkeypatch, tmp_path):
    """What a stage finds in its environment: the store, the settings, a cache of its own."""
    for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint, "LONGTAKE_S3": json.dumps(FAST)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)


@pytest.fixture(scope="module")
def module_proxy(endpoint):
    running = Proxy(endpoint)
    yield running
    running.shutdown()
    running.server_close()


@pytest.fixture
def proxy(module_proxy, s3_env, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", module_proxy.endpoint)
    module_proxy.hurt()
    return module_proxy


@pytest.fixture
def store(proxy):
    """Through the proxy, with little patience."""
    return Store(S3Params.of_environment())


@pytest.fixture
def bucket(endpoint, s3_env):
    """Address of a new bucket."""
    name = f"films-{next(_numbers)}"
    requests.put(f"{endpoint}/{name}", timeout=10).raise_for_status()  # moto checks no signature
    return f"s3://{name}"
