"""The tensors of a checkpoint file. No code of the file is ever run, whatever it holds."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from components.common.errors import StageError
from components.common.model_folder import read_weights

# Names that a wrapper of parallel or compiled training puts into those of the weights, at any depth.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module")
# Beside its weights DINO's family stores the run's arguments: names and values, which cannot do anything.
HARMLESS: list[Any] = [argparse.Namespace]


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a file by dotted name, those of nested dictionaries too (`teacher.backbone.cls_token`).

    Wrappers' names are left out, as the released loaders do: `teacher.module.backbone.cls_token` is the same weight.

    Args:
        file: safetensors, or what `torch.save` wrote (.pth, .pt, .bin, ...).

    Raises:
        StageError: nothing there, damaged, without tensors, or more than tensors and plain values; two tensors of one
            name once wrappers are left out.
    """
    tensors = read_weights(file) if file.suffix == ".safetensors" else flatten(_read_pickled(file))
    if not tensors:
        raise StageError("no named tensors in it", where=file, do="give a file that holds a state dict")
    return unwrapped(tensors, file)


def unwrapped(tensors: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Tensors by their names without those of wrappers; StageError where two would then have one name."""
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        if plain in found:
            raise StageError(f"'{plain}' is in it twice, with and without a wrapper's name", where=where)
        found[plain] = value
    return found


def flatten(tree: Any, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of nested dictionaries with string keys; an optimiser's state, kept by number, is left out."""
    if not isinstance(tree, Mapping):
        return {}
    found: dict[str, Tensor] = {}
    for name, value in tree.items():
        if isinstance(value, Tensor) and isinstance(name, str):
            found[prefix + name] = value
        elif isinstance(name, str):
            found |= flatten(value, f"{prefix}{name}.")
    return found


def _read_pickled(file: Path) -> Any:
    if not file.is_file():
        raise StageError("no such file", where=file)
    try:
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise StageError(_refused(str(error)), where=file, do="save the state dict alone, and import that") from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        what = f"not a whole checkpoint, {' '.join(str(error).split())[:160] or type(error).__name__}"
        raise StageError(what, where=file) from None


def _refused(reason: str) -> str:
    needs = re.search(r"GLOBAL ([\w.]+)", reason)
    if needs is None:
        return "not a checkpoint, or one that holds more than tensors and plain values"
    return f"the file wants to run code ({needs[1]}), which an import never does"
