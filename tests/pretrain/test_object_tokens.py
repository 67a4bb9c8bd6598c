"""The object token against attention written row by row, and what it may and may not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from components.common.vit import build_vit
from components.pretrain import speed
from components.pretrain.blocks.object_tokens import ObjectToken, attention_mask, object_tokens


def network(depth: int = 2, **args: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": depth, "num_heads": 3}
        model = build_vit("vit_tiny_patch16_224", sizes | args).double()
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
        return model


def token() -> ObjectToken:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ObjectToken(24).double()


def pictures(size: int = 2, side: int = 32) -> Tensor:
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def some_objects(size: int = 2) -> Tensor:
    objects = torch.zeros(size, 4, 4, dtype=torch.bool)
    objects[0, 1:3, 0:2] = True
    objects[1:, 0, 3] = True
    return objects


def may_read(row: int, column: int, own: int, first: int, objects: list[bool], readers: str) -> bool:
    """The rule, in words of one case each."""
    if row == column:
        return True
    if row == own:
        return column < first or objects[column - first]
    if column == own and readers == "none":
        return False
    if column == own and readers == "own":
        return row >= first and objects[row - first]
    return True


def attend_row_by_row(layer: Any, x: Tensor, allowed: list[list[bool]]) -> Tensor:
    """Multi-head attention of one sequence (S, D), every row and head by itself."""
    n, heads = len(x), layer.num_heads
    q, k, v = (layer.qkv.weight @ x.T + layer.qkv.bias[:, None]).T.reshape(n, 3, heads, -1).unbind(1)
    rows = []
    for i in range(n):
        parts = []
        for h in range(heads):
            seen = [j for j in range(n) if allowed[i][j]]
            weights = [(q[i, h] @ k[j, h] / q.shape[-1] ** 0.5).exp() for j in seen]
            parts.append(sum(w / sum(weights) * v[j, h] for w, j in zip(weights, seen, strict=True)))
        rows.append(layer.proj(torch.cat(parts)))
    return torch.stack(rows)


def naive(model: Any, image: Tensor, extra: ObjectToken | None, objects: Tensor, readers: str) -> Tensor:
    """The final sequence (S, D) of one image."""
    n_prefix = model.num_prefix_tokens
    x = model._pos_embed(model.patch_embed(image[None]))[0]
    own, first = (0, n_prefix) if extra is None else (n_prefix, n_prefix + 1)
    if extra is not None:
        x = torch.cat([x[:own], extra.value + extra.position, x[own:]])
    flat = objects.flatten().tolist()
    allowed = [[may_read(i, j, own, first, flat, readers) for j in range(len(x))] for i in range(len(x))]
    for block in model.blocks:
        x = x + attend_row_by_row(block.attn, block.norm1(x), allowed)
        x = x + block.mlp(block.norm2(x))
    return model.norm(x)


@pytest.mark.parametrize("registers", [0, 2])
@pytest.mark.parametrize("readers", ["all", "own", "none", "replaces"])
def test_tokens_and_gradients_equal_the_loop(readers: Any, registers: int) -> None:
    model, extra = network(img_size=(16, 24), reg_tokens=registers), None if readers == "replaces" else token()
    objects, images = some_objects()[:, 1:3, 1:4], pictures()[..., :16, :24]  # few patches: the loop is slow
    objects[1, 1, 2] = True
    found = object_tokens(model, images, extra, objects, readers="all" if extra is None else readers)
    rows = torch.stack([naive(model, images[b], extra, objects[b], readers) for b in range(2)])
    own, first = (0, 1 + registers) if extra is None else (1 + registers, 2 + registers)
    expected = (rows[:, 0], rows[:, own], rows[:, first:])
    weights = torch.randn(3, 24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parameters = [*model.parameters(), *(extra.parameters() if extra else ())]
    ours, theirs = (
        torch.autograd.grad(sum((part * w).sum() for part, w in zip(parts, weights, strict=True)), parameters)
        for parts in (found, expected)
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("depth", [1, 2])
def test_the_token_reads_nothing_outside_the_object_in_one_block(depth: int) -> None:
    """Deeper, patches mix, and what lies outside arrives by way of them."""
    model, objects, images = network(depth), some_objects(), pictures()
    changed = images.clone()
    inside = objects.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(images)
    changed[~inside] += 1
    before, after = (object_tokens(model, x, token(), objects) for x in (images, changed))
    assert not torch.allclose(before.cls, after.cls)
    assert torch.equal(before.obj, after.obj) == (depth == 1)


def test_a_changed_object_changes_the_token_even_in_one_block() -> None:
    model, objects, images = network(1), some_objects(), pictures()
    changed = images.clone()
    changed[0, :, 8:24, 0:16] += 1
    before, after = (object_tokens(model, x, token(), objects).obj for x in (images, changed))
    assert not torch.allclose(before[0], after[0]) and torch.equal(before[1], after[1])


@pytest.mark.parametrize("objects", [None, some_objects()])
def test_without_readers_the_rest_is_the_plain_vit(objects: Tensor | None) -> None:
    model, images = network(), pictures()
    plain = model.forward_features(images)
    found = object_tokens(model, images, token(), objects, readers="none")
    torch.testing.assert_close(found.cls, plain[:, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.patches, plain[:, 1:], rtol=1e-12, atol=1e-12)
    read = object_tokens(model, images, token(), objects, readers="all")
    assert not torch.allclose(read.patches, plain[:, 1:])


def test_in_the_class_tokens_place_it_is_the_plain_vit_where_all_is_object() -> None:
    model, images = network(), pictures()
    plain = model.forward_features(images)
    for objects in (None, torch.ones(2, 4, 4, dtype=torch.bool)):
        found = object_tokens(model, images, None, objects)
        torch.testing.assert_close(found.obj, plain[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.patches, plain[:, 1:], rtol=1e-12, atol=1e-12)
        assert torch.equal(found.cls, found.obj)


@pytest.mark.parametrize("readers", ["all", "own", "none"])
def test_no_object_mask_is_an_object_everywhere(readers: Any) -> None:
    model, images = network(), pictures(side=16)  # another size than the table's, as local crops are
    every = torch.ones(2, 2, 2, dtype=torch.bool)
    a, b = (object_tokens(model, images, token(), o, readers=readers) for o in (None, every))
    for mine, other in zip(a, b, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


def test_no_object_leaves_the_token_a_row_to_read() -> None:
    model, images = network(1), pictures()
    none = torch.zeros(2, 4, 4, dtype=torch.bool)
    found = object_tokens(model, images, token(), none)
    assert bool(found.obj.isfinite().all()) and torch.equal(found.obj[0], found.obj[1])  # it sees no pixel at all
    assert attention_mask(none.flatten(1), 1, 2, "none")[0, 0].any(-1).all()


def test_leading_axes_and_masked_patches() -> None:
    """Hidden patches are replaced before the token is added; views and samples are rows of one pass."""
    model, images, objects = network(), pictures(4), some_objects(4)
    hidden = torch.zeros(4, 4, 4, dtype=torch.bool)
    hidden[:, 2] = True
    standin = torch.randn(1, 24, dtype=torch.float64)
    flat = object_tokens(model, images, token(), objects, mask=hidden, mask_token=standin)
    fold = [x.unflatten(0, (2, 2)) for x in (images, objects, hidden)]
    folded = object_tokens(model, fold[0], token(), fold[1], mask=fold[2], mask_token=standin)
    for a, b in zip(flat, folded, strict=True):
        assert torch.equal(a, b.flatten(0, 1))
    other = images.clone()
    other[:, :, 16:24] = 0  # pixels of the hidden row
    unseen = object_tokens(model, other, token(), objects, mask=hidden, mask_token=standin)
    for a, b in zip(flat, unseen, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_autocast() -> None:
    model, extra, objects = network().float(), token().float(), some_objects()
    full = object_tokens(model, pictures().float(), extra, objects)
    with torch.autocast("cpu", torch.bfloat16):
        half = object_tokens(model, pictures().float(), extra, objects)
    assert half.obj.isfinite().all()
    torch.testing.assert_close(half.obj.float(), full.obj, rtol=0.1, atol=0.15)


@pytest.mark.slow
def test_compiled_blocks_take_the_mask() -> None:
    model, extra, objects, images = network().float(), token().float(), some_objects(), pictures().float()
    eager = object_tokens(model, images, extra, objects)
    assert speed.compile_blocks(torch.nn.ModuleDict({"backbone": model})) == 2
    compiled = object_tokens(model, images, extra, objects)
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
