"""python -m components.pretrain import --from FILE --out models/NAME"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from components.common import hashing
from components.common.errors import StageError
from components.common.model_folder import CONFIG, write_model_folder
from components.common.outputs import check_new_output, mark, put_in_place, remove, stage_path
from components.common.vit import IMAGENET_MEAN, IMAGENET_STD, build_vit, load_exact, resize_positions
from components.pretrain.importing.architecture import architecture_of
from components.pretrain.importing.layouts import Found, find_encoder
from components.pretrain.importing.reading import read_tensors

LOOKS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    args = parser().parse_args(argv)
    try:
        for line in import_checkpoint(args):
            print(line)
    except StageError as error:
        print(f"import: {error}", file=sys.stderr)
        return int(error.code)
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m components.pretrain import",
        description="A published checkpoint as a model folder: the encoder as a plain timm ViT, heads left out.",
    )
    made.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="checkpoint of DINO, "
                      "iBOT, DoRA, ODIS, Cross-Time, TimeT, T-CoRe, DINOv2 or timm (.pth, .safetensors)")  # fmt: skip
    made.add_argument("--out", type=Path, required=True, metavar="models/NAME", help="the model folder to write")
    made.add_argument("--which", choices=("teacher", "student"), help="default: the teacher; of TimeT the student")
    made.add_argument("--heads", type=int, help="attention heads; default: one for each 64 of the width")
    made.add_argument("--img-size", type=int, metavar="PX", help="resize the position table to this image size")
    made.add_argument(
        "--pos-quirk", action="store_true", help="resize it as DINO's code does, not as timm and T-CoRe do"
    )
    made.add_argument("--normalise", choices=LOOKS, default="imagenet", help="mean and std of images (half: timm's)")
    return made


def import_checkpoint(args: argparse.Namespace) -> list[str]:
    """Read, translate, check and write; returns what a person should know."""
    check_new_output(args.out, like=CONFIG)
    found = find_encoder(read_tensors(args.source), args.which, args.source)
    architecture, model_args = architecture_of(found.weights, found.no_embed_class, args.heads, args.source)
    if args.img_size is not None:
        _resize(found, model_args, args.img_size, args.pos_quirk)
    model = build_vit(architecture, model_args)
    load_exact(model, found.weights, args.source)
    facts = {
        "method": "imported",
        "run": args.out.name,
        "layout": found.layout,
        "role": found.role,
        "source": args.source.name,
        "source_sha256": hashing.file_hash(args.source),
    }
    mean, std = LOOKS[args.normalise]
    partial = stage_path(args.out)
    remove(partial)
    partial.mkdir(parents=True)
    write_model_folder(
        partial, model, architecture=architecture, model_args=model_args, longtake=facts, mean=mean, std=std
    )
    mark(partial, "pretrain", "model")
    put_in_place(partial, args.out)
    return [_described(found, model_args), _left_out(found), f"{args.out}: {architecture} {model_args}"]


def _resize(found: Found, model_args: dict[str, Any], size: int, quirk: bool) -> None:
    """Change the position table in place, as DINO's code does (`quirk`) or as timm does; patches must fit the size."""
    patch = model_args["patch_size"]
    if size < patch or size % patch:
        raise StageError(f"--img-size {size} is no multiple of the {patch}-pixel patches")
    n_prefix = 0 if found.no_embed_class else 1 + model_args.get("reg_tokens", 0)
    grid = (size // patch, size // patch)
    found.weights["pos_embed"] = resize_positions(
        found.weights["pos_embed"], grid, n_prefix=n_prefix, quirk=quirk, antialias=not quirk
    )
    model_args["img_size"] = size


def _described(found: Found, args: dict[str, Any]) -> str:
    registers = f", {args['reg_tokens']} registers" if args.get("reg_tokens") else ""
    return (
        f"{found.layout}, {found.role}: width {args['embed_dim']}, {args['depth']} blocks, {args['num_heads']} heads, "
        f"{args['patch_size']}-pixel patches of {args['img_size']}-pixel images{registers}"
    )


def _left_out(found: Found, shown: int = 6) -> str:
    if not found.left_out:
        return "left out: nothing"
    more = f" and {len(found.left_out) - shown} more" if len(found.left_out) > shown else ""
    return f"left out: {', '.join(found.left_out[:shown])}{more}"
