"""The folder of a trained encoder: weights, timm config, model card, and the snippet that loads them.

Nothing in it depends on the day, the machine or the path, so the same training gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.common.errors import StageError
from components.common.outputs import atomic_file, write_text
from components.common.vit import IMAGENET_MEAN, IMAGENET_STD, TimmModel, exported_args

WEIGHTS, CONFIG, CARD, SNIPPET = "encoder.safetensors", "config.json", "README.md", "load.py"

LOAD_LINES = """\
import json, pathlib, timm
from safetensors.torch import load_file
folder = pathlib.Path(__file__).parent
config = json.loads((folder / "config.json").read_text())
model = timm.create_model(config["architecture"], **config["model_args"]).eval()
model.load_state_dict(load_file(folder / "encoder.safetensors"))
"""


def write_model_folder(
    folder: Path,
    model: TimmModel,
    *,
    architecture: str,
    model_args: Mapping[str, Any],
    longtake: Mapping[str, Any],
    figures: Mapping[str, float] | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> None:
    """Write `encoder.safetensors`, `config.json`, `load.py` and `README.md` into `folder`.

    Args:
        folder: an existing folder; files of these names are replaced.
        model: the timm VisionTransformer to export.
        architecture, model_args: what `build_vit` was given.
        longtake: facts of the run (`method`, `run`, hashes); JSON values, no times and no paths.
        figures: final training figures for the card.
        mean, std: what images are normalised with, RGB in 0..1.
    """
    weights = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    with atomic_file(folder / WEIGHTS) as partial:
        save_file(weights, partial, metadata={"format": "pt"})
    config = model_config(model, architecture, model_args, longtake, mean, std)
    write_text(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
    write_text(folder / SNIPPET, LOAD_LINES)
    write_text(folder / CARD, model_card(config, sum(w.numel() for w in weights.values()), figures or {}))


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder; StageError when it is missing or lacks what timm needs."""
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StageError(
            f"no {CONFIG} in the model folder", where=folder, do="give a folder that pretrain wrote"
        ) from None
    except ValueError as error:
        raise StageError(f"not readable as JSON, {error}", where=file) from None
    config = config if isinstance(config, dict) else {}
    look = config.get("pretrained_cfg") or {}
    lacking = [key for key in ("architecture", "model_args", "pretrained_cfg") if key not in config]
    lacking += [f"pretrained_cfg.{key}" for key in ("mean", "std") if "pretrained_cfg" in config and key not in look]
    if lacking:
        raise StageError(f"not the config of a model, it lacks {', '.join(lacking)}", where=file)
    return config


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; StageError when it is missing or damaged. Never unpickles."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise StageError("no such weights", where=file) from None
    except (SafetensorError, OSError) as error:
        raise StageError(f"not a whole safetensors file, {' '.join(str(error).split())}", where=file) from None


def model_config(
    model: TimmModel,
    architecture: str,
    model_args: Mapping[str, Any],
    longtake: Mapping[str, Any],
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> dict[str, Any]:
    """config.json: how timm rebuilds the encoder, how images are prepared, and which run made it."""
    height, width = model.patch_embed.img_size
    return {
        "architecture": architecture,
        "model_args": exported_args(model_args),
        "num_features": model.num_features,
        "pretrained_cfg": {
            "mean": mean,
            "std": std,
            "input_size": [3, height, width],
            "interpolation": "bicubic",
        },
        "longtake": dict(longtake),
    }


def model_card(config: Mapping[str, Any], n_weights: int, figures: Mapping[str, float]) -> str:
    """The model card in markdown."""
    made, look = config["longtake"], config["pretrained_cfg"]
    patch = config["model_args"].get("patch_size")
    rows = [f"| {name} | {value:.4g} |" for name, value in sorted(figures.items())]
    origin = f"learnt from unlabelled video by Longtake with the method `{made.get('method', '?')}`"
    if "source" in made:
        origin = f"imported from `{made['source']}`, a file in the layout of {made['layout']} ({made['role']})"
    table = ["", "## Training figures", "", "| figure | last value |", "|---|---|", *rows] if rows else []
    facts = [f"- {name}: `{value}`" for name, value in sorted(made.items())]
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-feature-extraction, self-supervised, video]",
        "---",
        f"# {made.get('run', 'encoder')}",
        "",
        f"An image encoder {origin}: "
        f"timm `{config['architecture']}`, {n_weights / 1e6:.2f} M weights, features of width "
        f"{config['num_features']}" + (f", {patch}-pixel patches." if patch else "."),
        "",
        "## Load",
        "",
        "```python",
        LOAD_LINES.rstrip(),
        "```",
        "",
        "In a notebook, set `folder` by hand. `model(images)` gives the class token (B, D); "
        "`model.forward_features(images)` gives all tokens. Images are RGB in 0..1, then normalised with mean "
        f"{list(look['mean'])} and std {list(look['std'])}; any size that is a multiple of the patch will do.",
        "",
        "## Made by",
        "",
        *facts,
        *table,
        "",
        "## Limits",
        "",
        "Learnt without labels: the encoder carries whatever its videos show, and omits what they do not. "
        "It has not been checked for fairness or safety in any use.",
    ]
    return "\n".join(lines) + "\n"
