"""Imports: every layout gives the features of its own code, and a bad file gives one clear line."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from components.common.encoder import load_encoder
from components.common.errors import StageError
from components.pretrain.importing import command
from tests.pretrain.reference_vit import DEPTH, FACTS, draw_weights, forward

Weights = dict[str, Tensor]


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def head(prefix: str, *names: str) -> Weights:
    return {f"{prefix}{name}": torch.ones(2, 3) for name in names}


DINO_HEAD = ("head.mlp.0.weight", "head.last_layer.weight_g", "head.last_layer.weight_v")


def dino(weights: Weights, other: Weights) -> Any:
    return {
        "student": under("module.backbone.", other) | head("module.", *DINO_HEAD),
        "teacher": under("backbone.", weights) | head("", *DINO_HEAD),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 5)},
    }


def ibot(weights: Weights, other: Weights) -> Any:
    return {
        "student": under("module.backbone.", other | {"masked_embed": torch.zeros(1, 24)})
        | head("module.", *DINO_HEAD, "head.last_layer2.weight_v"),
        "teacher": under("backbone.", weights) | head("", *DINO_HEAD),
    }


def in_chunks(weights: Weights) -> Weights:
    return {name.replace("blocks.", "blocks.0."): value for name, value in weights.items()}


def tcore(weights: Weights, other: Weights) -> Any:
    inside = in_chunks(weights) | {"mask_token": torch.zeros(1, 24)}
    return {"teacher": under("backbone.", inside) | head("", "dino_head.mlp.0.weight", "dino_head.last_layer.weight_v")}


def timet(weights: Weights, other: Weights) -> Any:
    rest = head("", "prototypes", "teacher_prototypes", "feature_extractor.head.0.weight")
    return under("feature_extractor.backbone.", weights) | under("teacher.backbone.", other) | rest


def alone(weights: Weights, other: Weights) -> Any:
    return weights


def state_dict(weights: Weights, other: Weights) -> Any:
    return {"state_dict": weights}


def classifier(weights: Weights, other: Weights) -> Any:
    return weights | {"head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}


def dinov2(weights: Weights, other: Weights) -> Any:
    return weights | {"mask_token": torch.zeros(1, 24)}


LAYOUTS: dict[str, tuple[Callable[[Weights, Weights], Any], dict[str, Any], str]] = {
    "dino, dora": (dino, {}, "DINO or DoRA, teacher"),
    "dino, backbone": (alone, {}, "ViT in timm's names, encoder"),
    "ibot": (ibot, {}, "iBOT, teacher"),
    "ibot, state_dict": (state_dict, {"scale": "gamma"}, "iBOT, encoder"),
    "odis, cross-time": (ibot, {"objects": 1}, "ODIS or Cross-Time, teacher"),
    "odis, 4 objects": (ibot, {"objects": 4}, "ODIS or Cross-Time, teacher"),
    "timet": (timet, {}, "TimeT, student"),
    "tcore": (tcore, {"registers": 4, "scale": "ls"}, "DINOv2 or T-CoRe, teacher"),
    "dinov2": (dinov2, {"scale": "ls"}, "DINOv2 or T-CoRe, encoder"),
    "dinov2, registers": (dinov2, {"registers": 4, "scale": "ls"}, "DINOv2 or T-CoRe, encoder"),
    "dinov2, giant": (dinov2, {"scale": "ls", "gated": True}, "DINOv2 or T-CoRe, encoder"),
    "timm": (classifier, {}, "ViT in timm's names, encoder"),
}


def run(file: Path, out: Path, *more: str) -> list[str]:
    args = command.parser().parse_args(["--from", str(file), "--out", str(out), "--heads", "3", *more])
    return command.import_checkpoint(args)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_features_of_its_own_code(name: str, tmp_path: Path) -> None:
    pack, kind, described = LAYOUTS[name]
    weights = draw_weights(**kind)
    torch.save(pack(weights, draw_weights(**kind, seed=1)), tmp_path / "file.pth")
    lines = run(tmp_path / "file.pth", tmp_path / "model")
    assert lines[0].startswith(described)
    for size in ((32, 32), (48, 64), (16, 24)):
        encoder = load_encoder(tmp_path / "model", pos_quirk="registers" not in kind)
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
        tokens, n = forward(weights, images), 1 + kind.get("registers", 0) + kind.get("objects", 0)
        torch.testing.assert_close(encoder.cls(images), tokens[:, 0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(encoder.patches(images).flatten(1, 2), tokens[:, n:], rtol=1e-5, atol=1e-5)


def test_wrappers_names_count_for_nothing_wherever_they_stand(tmp_path: Path) -> None:
    """The released loaders take `module.` and `backbone.` out of every name; FSDP and torch.compile add their own."""
    weights, other = draw_weights(), draw_weights(seed=1)
    places = ("module.backbone.", "backbone.module.", "backbone.", "backbone._fsdp_wrapped_module.")
    mixed = {places[i % 4] + name.replace("attn.", "_orig_mod.attn."): w for i, (name, w) in enumerate(weights.items())}
    torch.save({"teacher": mixed, "student": under("module.", other)}, tmp_path / "file.pth")
    assert run(tmp_path / "file.pth", tmp_path / "model")[1] == "left out: nothing"
    images = torch.randn(1, 3, 32, 32)
    found = load_encoder(tmp_path / "model").cls(images)
    torch.testing.assert_close(found, forward(weights, images)[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dino, dora", "ibot", "timet"])
def test_the_other_role_is_taken_when_asked_for(name: str, tmp_path: Path) -> None:
    pack, kind, described = LAYOUTS[name]
    weights = draw_weights(**kind)
    torch.save(pack(draw_weights(**kind, seed=1), weights), tmp_path / "file.pth")
    run(tmp_path / "file.pth", tmp_path / "model", "--which", "teacher" if "student" in described else "student")
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        load_encoder(tmp_path / "model").cls(images), forward(weights, images)[:, 0], rtol=1e-5, atol=1e-5
    )


def test_safetensors_half_precision_and_plain_timm(tmp_path: Path) -> None:
    weights = {name: value.half() for name, value in draw_weights().items()}
    safetensors.torch.save_file(weights, tmp_path / "file.safetensors")
    run(tmp_path / "file.safetensors", tmp_path / "model", "--normalise", "half")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["mean"] == [0.5] * 3
    assert {key: config["model_args"][key] for key in FACTS} == FACTS
    model = timm.create_model(config["architecture"], **config["model_args"])
    stored = safetensors.torch.load_file(tmp_path / "model" / "encoder.safetensors")
    assert all(value.dtype == torch.float32 for value in stored.values())
    model.load_state_dict(stored, strict=True)


@pytest.mark.parametrize("registers", [0, 4])
def test_timm_s_own_models_come_back_as_they_were(registers: int, tmp_path: Path) -> None:
    for no_embed_class in (False, True):
        source = timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5,
            reg_tokens=registers, no_embed_class=no_embed_class, qkv_bias=False, qk_norm=True, init_values=0.1,
            dynamic_img_size=True,
        ).eval()  # fmt: skip
        torch.save(source.state_dict(), tmp_path / "file.pth")
        run(tmp_path / "file.pth", tmp_path / "model")
        images = torch.randn(2, 3, 40, 32)
        with torch.no_grad():
            expected = source.forward_features(images)[:, 0]
        torch.testing.assert_close(load_encoder(tmp_path / "model").cls(images), expected)


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    torch.save(timet(draw_weights(), draw_weights(seed=1)), tmp_path / "file.pth")
    lines = run(tmp_path / "file.pth", tmp_path / "model")
    assert lines[1] == "left out: feature_extractor.head.0.weight"
    torch.save(ibot(draw_weights(), draw_weights(seed=1)), tmp_path / "file.pth")
    lines = run(tmp_path / "file.pth", tmp_path / "model", "--which", "student")  # an earlier import may be replaced
    assert "masked_embed" in lines[1] and "head.last_layer2.weight_v" in lines[1]


@pytest.mark.parametrize("size", [24, 64])
@pytest.mark.parametrize("name", ["dino, dora", "tcore"])
def test_a_resized_table_is_the_one_that_its_own_code_would_make(name: str, size: int, tmp_path: Path) -> None:
    pack, kind, _ = LAYOUTS[name]
    weights = draw_weights(**kind)
    torch.save(pack(weights, draw_weights(**kind, seed=1)), tmp_path / "file.pth")
    quirk = [] if "registers" in kind else ["--pos-quirk"]
    run(tmp_path / "file.pth", tmp_path / "model", "--img-size", str(size), *quirk)
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    tokens, encoder = forward(weights, images), load_encoder(tmp_path / "model")
    torch.testing.assert_close(encoder.cls(images), tokens[:, 0], rtol=1e-5, atol=1e-5)
    n = 1 + kind.get("registers", 0)
    torch.testing.assert_close(encoder.patches(images).flatten(1, 2), tokens[:, n:], rtol=1e-5, atol=1e-5)


def test_the_table_is_resized_only_when_asked(tmp_path: Path) -> None:
    weights = draw_weights()
    torch.save(weights, tmp_path / "file.pth")
    images = torch.randn(1, 3, 64, 64)
    run(tmp_path / "file.pth", tmp_path / "model", "--img-size", "64", "--pos-quirk")
    encoder = load_encoder(tmp_path / "model")
    assert encoder.model.pos_embed.shape[1] == 65
    torch.testing.assert_close(encoder.cls(images), forward(weights, images)[:, 0], rtol=1e-5, atol=1e-5)
    run(tmp_path / "file.pth", tmp_path / "model")
    assert load_encoder(tmp_path / "model").model.pos_embed.shape[1] == 17


def without(name: str) -> Weights:
    return {key: value for key, value in draw_weights().items() if key != name}


class Bomb:
    """An object whose unpickling would leave a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without("blocks.1.norm2.bias"), "missing blocks.1.norm2.bias"),
        (without("norm.weight"), "missing norm.weight"),
        (without("cls_token"), "lacks cls_token"),
        (draw_weights() | {"blocks.0.attn.rope": torch.ones(2)}, "surplus blocks.0.attn.rope"),
        (draw_weights() | {"fc_norm.weight": torch.ones(24)}, "surplus fc_norm.weight"),
        (draw_weights() | {"norm.bias": torch.ones(23)}, "norm.bias is (23,), expected (24,)"),
        (draw_weights() | {"pos_embed": torch.ones(1, 19, 24)}, "no square grid"),
        ({"layer1.0.conv1.weight": torch.ones(3)}, "no vision transformer"),
        ({"epoch": 3}, "no named tensors"),
        ([1, 2], "no named tensors"),
        ({"state_dict": draw_weights(), "state_dict_ema": draw_weights()}, "under 'state_dict' and 'state_dict_ema'"),
        (under("module.", draw_weights()) | draw_weights(), "'cls_token' is in it twice"),
        (draw_weights() | {"norm.bias": torch.full((24,), torch.nan)}, "no finite numbers: norm.bias"),
        ({"student": {f"backbone.{k}": v for k, v in draw_weights().items()}}, "no teacher in it, only student"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_does_not_fit_is_refused_by_name(content: Any, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.pth")
    more = ("--which", "teacher") if "teacher" in said else ()
    with pytest.raises(StageError) as raised:
        run(tmp_path / "file.pth", tmp_path / "model", *more)
    assert said in str(raised.value) and "file.pth" in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "model").exists()


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    torch.save({"model": draw_weights(), "hook": Bomb(tmp_path / "exploded")}, tmp_path / "file.pth")
    with pytest.raises(StageError, match="wants to run code"):
        run(tmp_path / "file.pth", tmp_path / "model")
    assert not (tmp_path / "exploded").exists()


def test_arguments_beside_the_weights_are_read_or_refused(tmp_path: Path) -> None:
    plain = argparse.Namespace(arch="vit_small", global_crops_scale=(0.4, 1.0), extra={"a": [None, True]})
    for name, args in (("plain", plain), ("path", argparse.Namespace(output_dir=tmp_path))):
        torch.save({"teacher": under("backbone.", draw_weights()), "args": args}, tmp_path / f"{name}.pth")
    run(tmp_path / "plain.pth", tmp_path / "model")
    with pytest.raises(StageError, match="wants to run code"):
        run(tmp_path / "path.pth", tmp_path / "other")


def test_a_damaged_or_absent_file_gives_one_line(tmp_path: Path) -> None:
    torch.save(draw_weights(), tmp_path / "file.pth")
    data = (tmp_path / "file.pth").read_bytes()
    for name, content in (("cut.pth", data[: len(data) // 2]), ("text.pth", b"<html>404</html>"), ("empty.pth", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StageError, match="not a") as raised:
            run(tmp_path / name, tmp_path / "model")
        assert "\n" not in str(raised.value)
    for name in ("absent.pth", "absent.safetensors"):
        with pytest.raises(StageError, match="no such"):
            run(tmp_path / name, tmp_path / "model")


def test_heads_and_sizes_that_do_not_fit(tmp_path: Path) -> None:
    torch.save(draw_weights(), tmp_path / "file.pth")
    plain = ["--from", str(tmp_path / "file.pth"), "--out", str(tmp_path / "model")]
    for more, said in (([], "name it with --heads"), (["--heads", "5"], "cannot be shared by 5 heads")):
        with pytest.raises(StageError, match=said):
            command.import_checkpoint(command.parser().parse_args([*plain, *more]))
    with pytest.raises(StageError, match="no multiple of the 8-pixel patches"):
        run(tmp_path / "file.pth", tmp_path / "model", "--img-size", "20")


def test_a_folder_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    torch.save(draw_weights(), tmp_path / "file.pth")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("mine")
    with pytest.raises(StageError, match="holds something else"):
        run(tmp_path / "file.pth", tmp_path / "model")


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(draw_weights(), tmp_path / "file.pth")
    given = ["--from", str(tmp_path / "file.pth"), "--heads", "3", "--out"]
    command_line = [sys.executable, "-m", "components.pretrain", "import", *given, str(tmp_path / "models" / "mine")]
    done = subprocess.run(command_line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"{DEPTH} blocks" in done.stdout
    card = (tmp_path / "models" / "mine" / "README.md").read_text()
    assert "imported from `file.pth`" in card and "learnt from unlabelled video" not in card
    assert command.main([*given, str(tmp_path / "m"), "--which", "teacher"]) == 2
    assert capsys.readouterr().err.startswith("import: no teacher in it")
