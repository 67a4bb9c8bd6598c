"""Manifests against Kubernetes' OpenAPI types, as the generated Python client carries them: no field too many, no value
of another type, nothing required left out. An API server takes unknown fields without a word; here they are errors."""

from __future__ import annotations

from typing import Any

from kubernetes import client

API = {
    "v1": "V1",
    "apps/v1": "V1",
    "batch/v1": "V1",
    "policy/v1": "V1",
    "networking.k8s.io/v1": "V1",
    "rbac.authorization.k8s.io/v1": "V1",
}
SCALARS: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "datetime": str,
    "object": object,
}


def problems(manifest: dict[str, Any]) -> list[str]:
    """What is wrong with an object of Kubernetes' own kinds; empty: nothing."""
    model = API[manifest["apiVersion"]] + manifest["kind"]
    return list(_check(manifest, model, manifest["kind"]))


def _check(value: Any, declared: str, where: str) -> list[str]:
    """`declared` as the client writes types: V1Pod, list[V1Container], dict(str, str), int."""
    if declared.startswith("list["):
        if not isinstance(value, list):
            return [f"{where}: {value!r} is no list"]
        return [p for i, item in enumerate(value) for p in _check(item, declared[5:-1], f"{where}[{i}]")]
    if declared.startswith("dict("):
        if not isinstance(value, dict):
            return [f"{where}: {value!r} is no mapping"]
        inner = declared[5:-1].split(", ", 1)[1]
        return [p for key, item in value.items() for p in _check(item, inner, f"{where}.{key}")]
    if declared in SCALARS:
        wrong = not isinstance(value, SCALARS[declared]) or (isinstance(value, bool) and declared in ("int", "float"))
        return [f"{where}: {value!r} is no {declared}"] if wrong else []
    return _check_model(value, getattr(client, declared), where)


def _check_model(value: Any, model: Any, where: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {model.__name__}"]
    fields = {key: (attribute, model.openapi_types[attribute]) for attribute, key in model.attribute_map.items()}
    found = [f"{where}: no field {key!r} in {model.__name__}" for key in value if key not in fields]
    for key, item in value.items():
        if key in fields:
            found += _check(item, fields[key][1], f"{where}.{key}")
    return found + _missing(value, model, where)


def _missing(value: dict[str, Any], model: Any, where: str) -> list[str]:
    """The client's constructors refuse None where a field is required."""
    known = {attribute: value.get(key) for attribute, key in model.attribute_map.items()}
    try:
        model(**known)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []
