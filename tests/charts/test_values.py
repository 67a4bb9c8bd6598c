"""The values: closed, described, and refused where they contradict one another."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from tests.charts.conftest import CHART, EXTERNAL, Helm
from tests.charts.tools import Unavailable, tool

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "typo at the top": ({"netwrokPolicy": {}}, "netwrokPolicy"),
    "typo below": ({"mlflow": {"replica": 2}}, "replica"),
    "typo in a list": ({"pipelines": {"gpuPool": {"tolerations": [{"keys": "x"}]}}}, "keys"),
    "number as text": ({"mlflow": {"replicas": "two"}}, "/mlflow/replicas"),
    "none": ({"mlflow": {"replicas": 0}}, "/mlflow/replicas"),
    "text as number": ({"quota": {"pods": 200}}, "/quota/pods"),
    "moving tag": ({"mlflow": {"image": {"tag": "latest-full"}}}, "/mlflow/image/tag"),
    "moving tag of the pipeline": (
        {"pipelines": {"images": {"data": "longtake/data:latest"}}},
        "/pipelines/images/data",
    ),
    "a section taken away": ({"mlflow": None}, "mlflow"),
    "a value taken away": ({"mlflow": {"replicas": None}}, "replicas"),
    "no tag": ({"pipelines": {"images": {"train": "longtake/train"}}}, "/pipelines/images/train"),
    "root": ({"pipelines": {"runAsUser": 0}}, "/pipelines/runAsUser"),
    "size without unit": ({"pipelines": {"cache": {"storage": "500"}}}, "/pipelines/cache/storage"),
    "database nowhere": ({"database": {"embedded": {"enabled": False}}}, "/database/external/host"),
    "database twice": ({"database": {"external": {"host": "db"}}}, "/database/external/host"),
    "external database without a secret": (
        {"database": {"embedded": {"enabled": False}, "external": {"host": "db"}}},
        "/database/external/existingSecret",
    ),
    "store nowhere": ({"s3": {"embedded": {"enabled": False}, "existingSecret": "keys"}}, "/s3/external/endpoint"),
    "store twice": ({"s3": {"external": {"endpoint": "http://minio:9000"}}}, "/s3/external/endpoint"),
    "external store without a secret": (
        {"s3": {"embedded": {"enabled": False}, "external": {"endpoint": "http://minio:9000"}}},
        "/s3/existingSecret",
    ),
    "keys in an address": (
        {"s3": {**EXTERNAL["s3"], "external": {"endpoint": "https://key:secret@s3.example.org"}}},
        "/s3/external/endpoint",
    ),
    "ingress without a host": ({"mlflow": {"ingress": {"enabled": True}}}, "/mlflow/ingress/host"),
    "route without a gateway": (
        {"mlflow": {"httpRoute": {"enabled": True, "host": "ml.example.org"}}},
        "/mlflow/httpRoute/parentRefs",
    ),
    "any web origin": ({"mlflow": {"corsAllowedOrigins": ["*"]}}, "/mlflow/corsAllowedOrigins"),
    "any host": ({"mlflow": {"allowedHosts": ["*"]}}, "/mlflow/allowedHosts"),
    "metadata as a store": (
        {"networkPolicy": {"externalCidrs": ["169.254.169.254/32"]}},
        "/networkPolicy/externalCidrs",
    ),
    "a block around metadata": (
        {"networkPolicy": {"apiServer": {"cidrs": ["128.0.0.0/1"]}}},
        "/networkPolicy/apiServer",
    ),
    "metadata as a resolver": (
        {"networkPolicy": {"dns": {"cidrs": ["169.254.169.254/32"]}}},
        "/networkPolicy/dns/cidrs",
    ),
    "every pod of the namespace as a pipeline": (
        {"networkPolicy": {"pipelinePods": {"pipelines.kubeflow.org/v2_component": None}}},
        "/networkPolicy/pipelinePods",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_place_named(case: str, template: Helm) -> None:
    values, place = REFUSED[case]
    process = template(values)
    assert process.returncode != 0 and process.stdout == ""
    assert place in process.stderr, process.stderr


def _mappings(schema: Any) -> list[dict[str, Any]]:
    if isinstance(schema, list):
        return [m for item in schema for m in _mappings(item)]
    if not isinstance(schema, dict):
        return []
    return [schema, *(m for item in schema.values() for m in _mappings(item))]


def test_every_mapping_of_the_schema_is_closed() -> None:
    declared = [m for m in _mappings(SCHEMA) if m.get("type") == "object" and "properties" in m]
    assert len(declared) > 25
    assert [m for m in declared if m.get("additionalProperties") is not False] == []


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _compare(values: Any, schema: dict[str, Any], where: str) -> list[str]:
    """Keys that only one of the two has."""
    schema = _resolve(schema)
    if "properties" not in schema or not isinstance(values, dict):
        return []
    keys = set(schema["properties"]) - {"global"}
    # what may be left out of an open list of settings (a LimitRange) is in the schema alone
    only = sorted(keys ^ set(values)) if values else []
    below = [
        p for key in keys & set(values) for p in _compare(values[key], schema["properties"][key], f"{where}.{key}")
    ]
    return [f"{where}.{key}" for key in only] + below


def _required(values: Any, schema: dict[str, Any], where: str) -> list[str]:
    """Keys of the values that the schema lets be taken away by a null, after which a template would fail."""
    if "$ref" in schema or "properties" not in schema or not values:
        return []
    free = set(values) - set(schema.get("required", []))
    below = [p for key in values for p in _required(values[key], schema["properties"][key], f"{where}.{key}")]
    return [f"{where}.{key}" for key in sorted(free)] + below


def test_no_value_can_be_taken_away() -> None:
    assert _required(VALUES, SCHEMA, "") == []


def test_schema_and_values_have_the_same_keys() -> None:
    assert _compare(VALUES, SCHEMA, "") == []


def test_every_value_is_described() -> None:
    """The generated table has a row for each value; none may have an empty description."""
    rows = re.findall(r"^\| (\S+) \|.*\|([^|]*)\|$", (CHART / "README.md").read_text(), flags=re.MULTILINE)
    described = {name: text.strip() for name, text in rows}
    assert len(described) > 50
    assert [name for name, text in described.items() if not text] == []


@pytest.fixture
def helm_docs(pytestconfig: pytest.Config) -> str:
    try:
        return str(tool("helm-docs", build="not slow" not in (pytestconfig.getoption("markexpr") or "")))
    except Unavailable as error:
        pytest.skip(str(error))


def test_readme_is_what_the_values_generate(helm_docs: str) -> None:
    command = [helm_docs, "--chart-search-root", str(CHART), "--dry-run", "--sort-values-order", "file"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == (CHART / "README.md").read_text().strip(), "make it anew: docs/cluster.md says how"
