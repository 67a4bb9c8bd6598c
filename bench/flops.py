"""Operations, pixels and weights of one training sample of each method, counted on one sample on this CPU.

python -m bench.flops --write                              # params.yaml and recipes/, into the forecast's table
python -m bench.flops --params params.yaml --method dino   # one count, as JSON
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from components.common.config import parse, read_yaml, section_of
from components.common.outputs import write_text
from components.pretrain.budget import cost_of
from components.pretrain.config import params_model
from components.pretrain.run import build_method, view_plan
from components.pretrain.views import view_shapes
from pipelines.forecast.counts import STORED, Count, Counts, settings_hash
from pipelines.workspace import merged_params


def count(document: dict[str, Any], key: str) -> Count:
    """What one sample of `pretrain.<key>` takes. A minute for DoRA at its published size, seconds for the others."""
    section = section_of(document, "pretrain", key)
    params = parse(params_model(key, section), section, f"pretrain.{key}")
    method = build_method(params, math.inf)
    plan = view_plan(params)
    shapes = view_shapes(plan)
    backbone: Any = method.encoder
    return Count(
        method=params.method,
        draw=plan.draw,
        frames=plan.n_frames,
        views=sum(v * frames for v, frames, *_ in shapes.values()),
        view_px=sum(v * frames * side * side for v, frames, side, *_ in shapes.values()),
        flops=cost_of(method, plan).flops,
        student_weights=weights(method.student),
        teacher_weights=weights(method.teacher),
        encoder_weights=weights(backbone),
        dim=backbone.num_features,
        depth=len(backbone.blocks),
        patch_px=backbone.patch_embed.patch_size[0],
    )


def weights(module: torch.nn.Module) -> int:
    """Numbers in a module's parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def stored(recipes: list[Path]) -> Counts:
    """A count for every method that params.yaml and the recipes run; settings that many share are counted once."""
    found: dict[str, Count] = {}
    for recipe in [None, *recipes]:
        document = merged_params(recipe, [])
        for key in document["methods"]:
            name, example = settings_hash(document, key), f"{recipe or 'params.yaml'}, {key}"
            if name not in found:
                found[name] = count(document, key).model_copy(update={"example": example})
                print(f"{example:45} {found[name].flops / 1e9:9.2f} GFLOP a sample", flush=True)
    return Counts(counts=found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--method", help="key below `pretrain`")
    parser.add_argument("--write", action="store_true", help="count everything and renew the table")
    args = parser.parse_args()
    if args.write:
        counts = stored(sorted(Path("recipes").rglob("*.yaml")))
        write_text(STORED, json.dumps(counts.model_dump(), indent=1, sort_keys=True) + "\n")
        return
    if args.method is None:
        parser.error("--method or --write is needed")
    print(json.dumps(count(read_yaml(args.params), args.method).model_dump()))


if __name__ == "__main__":
    main()
