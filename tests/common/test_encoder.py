"""Encoders: what is saved is what is loaded, features equal timm's, and nothing that does not fit gets in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from components.common import vit
from components.common.encoder import Encoder, load_encoder, write_model_folder
from components.common.errors import StageError

NAME = "vit_tiny_patch16_224"
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 3}


@pytest.fixture
def model() -> vit.TimmModel:
    torch.manual_seed(0)
    built = vit.build_vit(NAME, SMALL, drop_path_rate=0.1)
    with torch.no_grad():  # as if trained: every weight and bias away from its start
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return built.eval()


@pytest.fixture
def folder(model: vit.TimmModel, tmp_path: Path) -> Path:
    write(tmp_path, model)
    return tmp_path


def write(where: Path, model: vit.TimmModel) -> None:
    facts = {"method": "dino", "run": "first", "seed": 0}
    write_model_folder(where, model, architecture=NAME, model_args=SMALL, longtake=facts, figures={"loss": 1.5})


def images(height: int = 32, width: int = 32, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_folder_round_trip(model: vit.TimmModel, folder: Path) -> None:
    encoder = load_encoder(folder)
    x = images(32, 48)
    tokens = model.forward_features(x)
    torch.testing.assert_close(encoder.cls(x), tokens[:, 0], rtol=0, atol=0)
    torch.testing.assert_close(encoder.patches(x), tokens[:, 1:].reshape(2, 4, 6, 24), rtol=0, atol=0)
    assert (encoder.patch_size, encoder.dim, encoder.mean) == (8, 24, vit.IMAGENET_MEAN)
    assert encoder.origin == "first"
    assert not any(p.requires_grad for p in encoder.model.parameters())


def test_same_training_same_bytes(model: vit.TimmModel, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    write(again, model)
    names = {"encoder.safetensors", "config.json", "load.py", "README.md"}
    assert {file.name for file in again.iterdir()} == names
    assert all((again / name).read_bytes() == (folder / name).read_bytes() for name in names)
    assert str(tmp_path) not in (folder / "README.md").read_text() + (folder / "config.json").read_text()


def test_snippet_needs_nothing_of_ours(model: vit.TimmModel, folder: Path, tmp_path: Path) -> None:
    lines = (folder / "load.py").read_text().splitlines()
    assert len(lines) == 6 and "components" not in "".join(lines)
    assert "\n".join(lines) in (folder / "README.md").read_text()
    out = tmp_path / "features.npy"
    code = [
        "import runpy, sys, numpy, torch",
        f"model = runpy.run_path({str(folder / 'load.py')!r})['model']",
        "x = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))",
        f"numpy.save({str(out)!r}, model(x).detach().numpy())",
        "assert 'components' not in sys.modules",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(out), model(images(32, 48)).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_taps_are_the_last_blocks_through_the_final_norm(model: vit.TimmModel, folder: Path) -> None:
    x, seen = images(), []
    for block in model.blocks:
        block.register_forward_hook(lambda _m, _i, output: seen.append(model.norm(output)))
    model.forward_features(x)
    for (cls, patches), expected in zip(load_encoder(folder).taps(x, 2), seen[1:], strict=True):
        torch.testing.assert_close(cls, expected[:, 0])
        torch.testing.assert_close(patches.flatten(1, 2), expected[:, 1:])
    with pytest.raises(StageError, match="asked for 4 blocks of a ViT that has 3"):
        load_encoder(folder).taps(x, 4)


@pytest.mark.parametrize("fused", [True, False])
def test_last_attention_equals_a_naive_one(model: vit.TimmModel, fused: bool) -> None:
    model, x = model.double(), images().double()
    for block in model.blocks:
        block.attn.fused_attn = fused
    tokens, attention, queries, keys = vit.tokens_and_attention(model, x)
    torch.testing.assert_close(tokens, model.forward_features(x))

    inner = model.patch_embed(x).flatten(1, 2)
    inner = torch.cat([model.cls_token.expand(2, -1, -1), inner], dim=1) + model.pos_embed
    for block in model.blocks[:-1]:
        inner = block(inner)
    last = model.blocks[-1]
    qkv = last.attn.qkv(last.norm1(inner))  # (B, 17, 72)
    q, k = qkv[..., :24], qkv[..., 24:48]
    torch.testing.assert_close(queries, q[:, 1:])
    torch.testing.assert_close(keys, k[:, 1:])
    for b in range(2):
        for head in range(3):
            part = slice(8 * head, 8 * head + 8)
            row = torch.stack([(q[b, 0, part] * k[b, i, part]).sum() / 8**0.5 for i in range(17)]).exp()
            torch.testing.assert_close(attention[b, head], row[1:] / row.sum())


@pytest.mark.parametrize(
    ("change", "size"),
    [({}, (32, 48)), ({"reg_tokens": 3, "no_embed_class": True}, (32, 32)), ({"depth": 1, "qk_norm": True}, (40, 24))],
)
def test_attention_equals_the_whole_matrix(change: dict[str, object], size: tuple[int, int]) -> None:
    """Every block token by token, and of the last one the full softmax, row of the class token."""
    torch.manual_seed(3)
    model = timm.create_model(NAME, **{**SMALL, **change, "num_classes": 0, "dynamic_img_size": True}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    fused = [block.attn.fused_attn for block in model.blocks]
    x = images(*size).double()
    found = Encoder(model).attention(x)
    inner = model._pos_embed(model.patch_embed(x))
    for block in model.blocks[:-1]:
        inner = block(inner)
    attn = model.blocks[-1].attn
    qkv = attn.qkv(model.blocks[-1].norm1(inner)).reshape(2, -1, 3, 3, 8)  # batch, token, which, head, width
    n, (rows, columns) = model.num_prefix_tokens, (size[0] // 8, size[1] // 8)
    assert found.shape == (2, 3, rows, columns)
    for b in range(2):
        for head in range(3):
            q, k = attn.q_norm(qkv[b, :, 0, head]), attn.k_norm(qkv[b, :, 1, head])
            matrix = torch.softmax(q @ k.T / 8**0.5, dim=-1)
            torch.testing.assert_close(found[b, head].flatten(), matrix[0, n:])
    assert [block.attn.fused_attn for block in model.blocks] == fused
    assert not model.blocks[-1]._forward_pre_hooks


def test_attention_needs_a_class_token() -> None:
    for name, args in (("resnet10t", {}), (NAME, {**SMALL, "class_token": False, "global_pool": "avg"})):
        encoder = load_encoder(f"timm:{name}", model_args=args)
        with pytest.raises(StageError, match="class attention needs a timm VisionTransformer with a class token"):
            encoder.attention(images(32, 32))


def cubic(t: float, a: float = -0.75) -> float:
    t = abs(t)
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0


def naive_bicubic(cells: np.ndarray, size: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
    """Sample (H, W, D) at (i + 0.5) / scale - 0.5 with the cubic kernel, borders repeated."""
    result = np.zeros((*size, cells.shape[-1]))
    for i, j in np.ndindex(*size):
        y, x = (i + 0.5) / scale[0] - 0.5, (j + 0.5) / scale[1] - 0.5
        for r in range(int(np.floor(y)) - 1, int(np.floor(y)) + 3):
            for c in range(int(np.floor(x)) - 1, int(np.floor(x)) + 3):
                cell = cells[min(max(r, 0), len(cells) - 1), min(max(c, 0), cells.shape[1] - 1)]
                result[i, j] += cubic(y - r) * cubic(x - c) * cell
    return result


@pytest.mark.parametrize("grid", [(6, 6), (10, 17), (14, 14)])
@pytest.mark.parametrize("quirk", [False, True])
def test_positions_equal_naive_bicubic(grid: tuple[int, int], quirk: bool) -> None:
    table = torch.randn(1, 1 + 14 * 14, 2, generator=torch.Generator().manual_seed(0)) * 0.5
    resized = vit.resize_positions(table, grid, quirk=quirk)
    scale = tuple((n + 0.1 * quirk) / 14 for n in grid)
    expected = naive_bicubic(table[0, 1:].reshape(14, 14, 2).double().numpy(), grid, scale)
    np.testing.assert_allclose(resized[0, 1:].reshape(*grid, 2).numpy(), expected, atol=1e-4)
    assert torch.equal(resized[:, 0], table[:, 0])


def test_quirk_switch_fits_the_table_to_each_size(model: vit.TimmModel, folder: Path) -> None:
    plain, quirk = load_encoder(folder), load_encoder(folder, pos_quirk=True)
    square, wide = images(), images(32, 64)
    for _ in range(2):  # there and back: always from the original table
        assert torch.equal(quirk.patches(square), plain.patches(square))
        model.pos_embed.data = vit.resize_positions(quirk.table, (4, 8), quirk=True)
        model.patch_embed.set_input_size(img_size=(32, 64))
        torch.testing.assert_close(quirk.cls(wide), model(wide))
        assert not torch.allclose(quirk.cls(wide), plain.cls(wide))


def test_sizes_that_do_not_fit(folder: Path) -> None:
    x = images(36, 30)
    with pytest.raises(StageError, match="36x30 pixels has no whole number of 8-pixel patches"):
        load_encoder(folder).cls(x)
    exact = load_encoder(folder)
    padded = torch.zeros(2, 3, 40, 32)
    padded[..., :36, :30] = x
    assert torch.equal(load_encoder(folder, fit="pad").patches(x), exact.patches(padded))
    assert torch.equal(load_encoder(folder, fit="crop").patches(x), exact.patches(x[..., :32, :24]))
    with pytest.raises(StageError, match="7x30"):
        load_encoder(folder, fit="crop").cls(images(7, 30))


def test_start_is_dinos() -> None:
    torch.manual_seed(0)
    fresh = vit.build_vit("vit_tiny_patch16_224", {"depth": 2})
    for name, value in fresh.named_parameters():
        if name.endswith("qkv.weight") or name.endswith("fc1.weight") or name == "pos_embed":
            assert abs(value.std().item() - 0.02) < 1e-3 and value.abs().max() < 0.2
        if name.endswith("bias") and "patch_embed" not in name:
            assert not value.any()
    bound = (3 * 16 * 16) ** -0.5  # the framework's start of a convolution: uniform within 1 / sqrt(fan in)
    assert 0.95 * bound < fresh.patch_embed.proj.weight.abs().max() <= bound
    assert fresh.norm.eps == 1e-6


def test_drop_path_is_for_training_only(model: vit.TimmModel, folder: Path) -> None:
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.05, 0.1])
    assert "drop_path_rate" not in json.loads((folder / "config.json").read_text())["model_args"]


def test_wrong_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / "encoder.safetensors")
    weights["extra.weight"] = weights.pop("blocks.1.norm1.bias")
    weights["norm.weight"] = torch.zeros(7)
    save_file(weights, folder / "encoder.safetensors")
    with pytest.raises(StageError) as caught:
        load_encoder(folder)
    for part in ("missing blocks.1.norm1.bias", "surplus extra.weight", "norm.weight is (7,), expected (24,)"):
        assert part in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_position_table_of_another_size_is_resized(model: vit.TimmModel) -> None:
    larger = vit.build_vit(NAME, {**SMALL, "img_size": 64})
    vit.load_exact(larger, model.state_dict(), "there")
    expected = vit.resize_positions(model.pos_embed.detach(), (8, 8))
    assert torch.equal(larger.pos_embed, expected)
    with pytest.raises(StageError, match="no table of a square grid"):
        vit.load_exact(larger, {**model.state_dict(), "pos_embed": torch.zeros(1, 12, 24)}, "there")


def test_weights_file_with_its_architecture(model: vit.TimmModel, folder: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone" / "weights.safetensors"
    lone.parent.mkdir()
    save_file({**model.state_dict(), "head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}, lone)
    with pytest.raises(StageError, match="do not say their architecture"):
        load_encoder(lone)
    x = images()
    for found in (
        load_encoder(lone, architecture=NAME, model_args=SMALL),
        load_encoder(f"timm:{NAME}={lone}", model_args=SMALL),
        load_encoder(folder / "encoder.safetensors"),  # config.json lies beside it
    ):
        torch.testing.assert_close(found.cls(x), model(x))
    assert found.mean == vit.IMAGENET_MEAN  # the config's, not that of timm's own weights of this name
    assert load_encoder(f"timm:{NAME}.augreg_in21k={lone}", model_args=SMALL).mean == (0.5, 0.5, 0.5)


def test_untrained_timm_model_follows_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, same, other = (load_encoder(f"timm:{NAME}", model_args=SMALL, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.sha256 == same.sha256 != other.sha256
    assert "untrained" in first.origin and not first.trained
    assert first.mean == tuple(timm.create_model(NAME).pretrained_cfg["mean"])
    assert first.patches(images(16, 40)).shape == (2, 2, 5, 24)


def test_other_families_of_timm_give_features_too() -> None:
    encoder = load_encoder("timm:resnet10t")
    x = images(64, 96, n=1)
    assert encoder.cls(x).shape == (1, encoder.dim)
    assert encoder.patches(x).shape == (1, 2, 3, encoder.dim)
    with pytest.raises(StageError, match="need a ViT"):
        encoder.taps(x, 1)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("vit_tyni", {}, "Unknown model"),
        (NAME, {"dept": 3}, "dept"),
        (NAME, {"embed_dim": 25}, "divisible"),
        ("resnet18", {}, "VisionTransformer|dynamic_img_size"),
        (NAME, {"class_token": False, "global_pool": "avg"}, "class token"),
    ],
)
def test_architectures_that_cannot_be(name: str, args: dict[str, object], message: str) -> None:
    with pytest.raises(StageError, match=message):
        vit.build_vit(name, args)


def test_places_without_an_encoder(folder: Path, tmp_path: Path) -> None:
    for source, message in [
        (tmp_path / "none", "no encoder there"),
        (tmp_path / "none.safetensors", "no such weights"),
        ("timm:nothing_like_this", "Unknown model"),
    ]:
        with pytest.raises(StageError, match=message):
            load_encoder(source)
    whole = (folder / "encoder.safetensors").read_bytes()
    for damaged in (b"", b"not weights", whole[:-10], whole[:30]):
        (folder / "encoder.safetensors").write_bytes(damaged)
        with pytest.raises(StageError, match="not a whole safetensors file"):
            load_encoder(folder)
    for text, message in [
        ("{", "not readable as JSON"),
        ("[]", "lacks architecture, model_args, pretrained_cfg"),
        ('{"architecture": "x", "model_args": {}, "pretrained_cfg": {"mean": [0]}}', "lacks pretrained_cfg.std"),
    ]:
        (folder / "config.json").write_text(text)
        with pytest.raises(StageError, match=message):
            load_encoder(folder)
    (folder / "config.json").unlink()
    with pytest.raises(StageError, match=r"no config\.json"):
        load_encoder(folder)
