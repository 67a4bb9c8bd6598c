"""Where released files keep an encoder, and what they call its weights.

| code             | place of the encoder                                | what timm calls otherwise                |
|------------------|-----------------------------------------------------|------------------------------------------|
| DINO, DoRA       | teacher.backbone, student.backbone, or alone        | -                                        |
| iBOT             | the same, or state_dict                             | layer scale gamma_1; masked_embed        |
| ODIS, Cross-Time | as iBOT                                             | obj_token, with a row of pos_embed       |
| TimeT            | feature_extractor.backbone, teacher.backbone        | -                                        |
| DINOv2, T-CoRe   | teacher.backbone, or alone                          | register_tokens, mask_token, blocks.0.11 |
| timm             | alone                                               | -                                        |

An encoder is found by its patch embedding, so a prefix needs no entry here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components.common.errors import StageError

ANCHOR = "patch_embed.proj.weight"  # every ViT has it, nothing else does
LEFT_OUT = r"(mask_token|masked_embed|head\..*|head_dist\..*)$"  # of training or of a classifier, beside the blocks
RENAMED = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 in chunks; a block keeps its number in the whole
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),  # SwiGLU
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
MARKS = (  # what only this layout's files have; the first that fits names it
    ("TimeT", r"(^|\.)feature_extractor\."),
    ("ODIS or Cross-Time", r"(^|\.)obj_token$"),
    ("DINOv2 or T-CoRe", r"(^|\.)(register_tokens|mask_token$|dino_head\.)"),
    ("iBOT", r"(^|\.)(masked_embed$|gamma_1$|head\.last_layer2\.)"),
    ("DINO or DoRA", r"(^|\.)head\.last_layer\."),
    ("ViT in timm's names", ""),
)


@dataclass(frozen=True)
class Found:
    """One encoder of a file.

    Attributes:
        layout: whose files look like this, in words.
        role: `teacher`, `student`, or `encoder` where the file does not say.
        weights: under timm's names, float32.
        no_embed_class: the position table covers the patches alone.
        left_out: names in the file that are no part of the encoder.
    """

    layout: str
    role: str
    weights: dict[str, Tensor]
    no_embed_class: bool
    left_out: tuple[str, ...]


def find_encoder(tensors: Mapping[str, Tensor], which: str | None, where: Path) -> Found:
    """The encoder of a file; StageError when there is none of the role that was asked for, or it is left open which.

    Args:
        tensors: by dotted name.
        which: `teacher` or `student`; None takes the teacher where there is one, of TimeT the student, whose
            released teacher follows it with the weights exchanged (and so is its copy).
        where: the file, for messages.
    """
    prefixes = _encoders(tensors, where)
    layout = next(name for name, mark in MARKS if any(re.search(mark, key) for key in tensors))
    order = ("student", "teacher", "encoder") if layout == "TimeT" else ("teacher", "student", "encoder")
    role = which or next(role for role in order if role in prefixes)
    if role not in prefixes:
        raise StageError(f"no {role} in it, only {' and '.join(sorted(prefixes))}", where=where)
    prefix = _only(prefixes[role], role, where)
    inside = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    kept, no_embed_class = timm_names(inside, where)
    _check_finite(kept, where)
    dropped = [name for name in inside if re.match(LEFT_OUT, name)]
    beside = [] if prefix == "" else _beside(tensors, prefix)
    return Found(layout, role, kept, no_embed_class, tuple(sorted({*dropped, *beside})))


def timm_names(weights: Mapping[str, Tensor], where: Path) -> tuple[dict[str, Tensor], bool]:
    """An encoder's weights as timm calls them, and whether its position table covers the patches alone.

    - DINOv2 adds positions to class token and patches and then inserts the registers. timm has no such order: the
      class token's row goes into the class token.
    - An object token (ODIS) that sees all patches is a register with positions of its own, so outputs stay equal.
    """
    kept = {_renamed(name): value.float() for name, value in weights.items() if not re.match(LEFT_OUT, name)}
    lacking = [name for name in ("cls_token", "pos_embed") if name not in kept]
    if lacking:
        raise StageError(f"the encoder lacks {' and '.join(lacking)}", where=where)
    if "register_tokens" in weights:
        kept["cls_token"] = kept["cls_token"] + kept["pos_embed"][:, :1]
        kept["pos_embed"] = kept["pos_embed"][:, 1:]
    if "obj_token" in kept:
        kept |= _object_tokens(kept.pop("obj_token"), kept["pos_embed"])
    return kept, _is_square(kept["pos_embed"].shape[1])


def _object_tokens(token: Tensor, table: Tensor) -> dict[str, Tensor]:
    """O object tokens as registers; one that O slots share, or one row of the table that they share, stands O times."""
    rows = next((n for n in range(1, table.shape[1]) if _is_square(table.shape[1] - 1 - n)), 1)
    count = max(rows, token.shape[1])
    cls, own, patches = table.split([1, rows, table.shape[1] - 1 - rows], dim=1)
    positions = torch.cat([cls, own.expand(-1, count, -1), patches], dim=1)
    return {"reg_token": token.expand(-1, count, -1), "pos_embed": positions}


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _encoders(tensors: Iterable[str], where: Path) -> dict[str, list[str]]:
    """What stands before the names of each encoder of a file, by role; StageError when there is none."""
    prefixes: dict[str, list[str]] = {}
    for name in tensors:
        if name.endswith(ANCHOR):
            prefixes.setdefault(_role(name), []).append(name.removesuffix(ANCHOR))
    if not prefixes:
        raise StageError("no vision transformer in it", where=where, do=f"it would have a '{ANCHOR}'")
    return prefixes


def _only(prefixes: list[str], role: str, where: Path) -> str:
    """The one encoder of a role; StageError naming all where the file leaves it open."""
    if len(prefixes) > 1:
        places = " and ".join(f"'{prefix.removesuffix('.')}'" for prefix in prefixes)
        what = f"it holds more than one {role}, under {places}"
        raise StageError(what, where=where, do="save the one that is meant alone, and import that")
    return prefixes[0]


def _check_finite(weights: Mapping[str, Tensor], where: Path) -> None:
    broken = [name for name, value in weights.items() if not bool(value.isfinite().all())]
    if broken:
        raise StageError(f"weights that are no finite numbers: {', '.join(broken[:4])}", where=where)


def _role(name: str) -> str:
    parts = name.split(".")
    if "teacher" in parts:
        return "teacher"
    return "student" if {"student", "feature_extractor"} & set(parts) else "encoder"


def _beside(tensors: Iterable[str], prefix: str) -> list[str]:
    """Names next to the encoder in the same network: its heads, prototypes and the like."""
    network = prefix.removesuffix("backbone.")
    return [name for name in tensors if name.startswith(network) and not name.startswith(prefix)]


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
