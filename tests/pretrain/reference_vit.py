"""A ViT in the names and with the slips of the released code, so that imports can be held against its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
DIM, DEPTH, HEADS, PATCH, GRID = 24, 2, 3, 8, 4
FACTS: dict[str, Any] = {"embed_dim": DIM, "depth": DEPTH, "num_heads": HEADS, "patch_size": PATCH, "img_size": 32}


def draw_weights(
    *, registers: int = 0, objects: int = 0, scale: str | None = None, gated: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Random weights under the released names; `scale` names layer scale as iBOT (`gamma`) or DINOv2 (`ls`) does."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    weights = {
        "cls_token": normal(1, 1, DIM),
        "pos_embed": normal(1, 1 + objects + GRID**2, DIM),
        "patch_embed.proj.weight": normal(DIM, 3, PATCH, PATCH),
        "patch_embed.proj.bias": normal(DIM),
        "norm.weight": normal(DIM),
        "norm.bias": normal(DIM),
    }
    weights |= {"register_tokens": normal(1, registers, DIM)} if registers else {}
    weights |= {"obj_token": normal(1, objects, DIM)} if objects else {}
    first, second = ("mlp.w12", "mlp.w3") if gated else ("mlp.fc1", "mlp.fc2")
    shapes = {"attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM), first: (4 * DIM, DIM)}
    shapes |= {second: (DIM, 2 * DIM if gated else 4 * DIM)}
    for i in range(DEPTH):
        for name, shape in shapes.items():
            weights[f"blocks.{i}.{name}.weight"] = normal(*shape)
            weights[f"blocks.{i}.{name}.bias"] = normal(shape[0])
        for name in ("norm1", "norm2"):
            weights |= {f"blocks.{i}.{name}.weight": normal(DIM), f"blocks.{i}.{name}.bias": normal(DIM)}
        for n in (1, 2):
            named = {"gamma": f"gamma_{n}", "ls": f"ls{n}.gamma"}
            weights |= {f"blocks.{i}.{named[scale]}": normal(DIM)} if scale else {}
    return weights


def forward(weights: Weights, images: Tensor) -> Tensor:
    """All tokens after the final norm: class token, objects or registers, patches."""
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=PATCH)
    grid, batch = (x.shape[-2], x.shape[-1]), len(x)
    x = x.flatten(2).transpose(1, 2)
    table, registers = weights["pos_embed"], weights.get("register_tokens")
    prefix = [weights["cls_token"]] + ([weights["obj_token"]] if "obj_token" in weights else [])
    n = sum(token.shape[1] for token in prefix)
    x = torch.cat([*(token.expand(batch, -1, -1) for token in prefix), x], dim=1)
    x = x + torch.cat([table[:, :n], positions(table[:, n:], grid, antialias=registers is not None)], dim=1)
    if registers is not None:  # DINOv2 puts them in when positions are added already
        x = torch.cat([x[:, :1], registers.expand(batch, -1, -1), x[:, 1:]], dim=1)
    for i in range(DEPTH):
        x = block({k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}, x)
    return norm(weights, "norm", x)


def positions(cells: Tensor, grid: tuple[int, int], *, antialias: bool) -> Tensor:
    """DINO scales by (n + 0.1) / 4; DINOv2 with registers asks for the size and smooths."""
    if grid == (GRID, GRID):
        return cells
    square = cells.reshape(1, GRID, GRID, DIM).permute(0, 3, 1, 2)
    if antialias:
        resized = F.interpolate(square, size=grid, mode="bicubic", antialias=True)
    else:
        resized = F.interpolate(square, scale_factor=tuple((n + 0.1) / GRID for n in grid), mode="bicubic")
    return resized.permute(0, 2, 3, 1).reshape(1, -1, DIM)


def block(w: Weights, x: Tensor) -> Tensor:
    y = attention(w, norm(w, "norm1", x))
    x = x + w.get("gamma_1", w.get("ls1.gamma", torch.ones(()))) * y
    y = norm(w, "norm2", x)
    if "mlp.w12.weight" in w:
        gate, value = linear(w, "mlp.w12", y).chunk(2, dim=-1)
        y = linear(w, "mlp.w3", F.silu(gate) * value)
    else:
        y = linear(w, "mlp.fc2", F.gelu(linear(w, "mlp.fc1", y)))
    return x + w.get("gamma_2", w.get("ls2.gamma", torch.ones(()))) * y


def attention(w: Weights, x: Tensor) -> Tensor:
    q, k, v = linear(w, "attn.qkv", x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / math.sqrt(DIM // HEADS)).softmax(dim=-1)
    return linear(w, "attn.proj", (weights @ v).transpose(1, 2).flatten(2))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (DIM,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)
