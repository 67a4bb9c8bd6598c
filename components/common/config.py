"""Typed parameters: every number comes from params.yaml and is checked before a stage starts.

A stage's section may hold one sub-section per key (`pretrain.dino`) and a `shared` one that each key inherits.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.common.errors import StageError

Section = dict[str, Any]
SHARED = "shared"


class Params(BaseModel):
    """Base of every parameter model: unknown keys are errors, values cannot change after reading.

    Integers may arrive as floats (Kubeflow turns every number of a JSON parameter into one); 2.0 is taken for 2.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StageParams(Params):
    """Parameters of a stage. `seed` comes from the top level of params.yaml unless the section has its own."""

    seed: int = Field(0, ge=0)


def read_yaml(file: Path) -> Section:
    """Read a YAML mapping; raises StageError when the file is missing or is not one."""
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError("no parameter file", where=file, do="name one with --params") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StageError(f"not readable as YAML, {' '.join(str(error).split())}", where=file) from None
    if not isinstance(document, dict):
        raise StageError("expected a mapping of parameters", where=file)
    return document


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Section:
    """`base` with `over` laid on it, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = deep_merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def section_of(document: Mapping[str, Any], stage: str, key: str | None, where: str = "params.yaml") -> Section:
    """The section `stage` (or `stage.key`, laid over `stage.shared`), with the top level's seed."""
    section = document.get(stage, {})
    if not isinstance(section, Mapping):
        raise StageError(f"'{stage}' must be a mapping", where=where)
    if key is not None:
        if key not in section:
            known = [k for k in section if k != SHARED]
            raise StageError(f"no entry '{key}' under '{stage}'{nearest(key, known)}", where=where)
        own = section[key] or {}
        if not isinstance(own, Mapping):
            raise StageError(f"'{stage}.{key}' must be a mapping", where=where)
        section = deep_merge(section.get(SHARED) or {}, own)
    seeded = {"seed": document["seed"]} if "seed" in document else {}
    return deep_merge(seeded, section)


P = typing.TypeVar("P", bound=Params)


def parse(model: type[P], section: Mapping[str, Any], where: str) -> P:
    """Validate `section`; a StageError names each wrong key, its value, and what is allowed."""
    try:
        return model.model_validate(section)
    except ValidationError as error:
        raise StageError("; ".join(_explain(model, section, e) for e in error.errors()), where=where) from None


def nearest(word: str, known: list[str]) -> str:
    """`, did you mean 'x'?` for a mistyped name, else the known names."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    if close:
        return f", did you mean '{close[0]}'?"
    return f"; known: {', '.join(sorted(map(str, known)))}" if known else ""


def _explain(model: type[BaseModel], section: Mapping[str, Any], error: Any) -> str:
    path = _keys(section, error["loc"])
    name = ".".join(path)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{name}'{nearest(path[-1], _fields_at(model, path[:-1]))}"
    if error["type"] == "missing":
        return f"missing key '{name}'"
    return f"'{name}' = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _keys(section: Mapping[str, Any], location: tuple[str | int, ...]) -> list[str]:
    """The keys of a pydantic location as the user wrote them; the names of union members among them are left out."""
    keys: list[str] = []
    value: Any = section
    for i, part in enumerate(location):
        last = i + 1 == len(location)
        if isinstance(value, Mapping) and (part in value or last):
            keys.append(str(part))
            value = value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int) and part < len(value):
            keys.append(str(part))
            value = value[part]
    return keys


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Field names of the model found by following `path` (union members and containers looked through)."""
    models = [model]
    for part in path:
        steps = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        if steps:  # an index or a union's tag in the path stays where it is
            models = [found for step in steps for found in _models_in(step)]
    return sorted({name for m in models for name in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for inner in typing.get_args(annotation) for found in _models_in(inner)]
