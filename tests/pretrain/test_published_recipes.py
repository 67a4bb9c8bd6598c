"""The published recipes: whole, valid, equal to the papers' tables, and able to make a step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from components.common.config import parse, read_yaml, section_of
from components.extract_frames.config import ExtractParams
from components.index.config import IndexParams
from components.pretrain.budget import cost_of
from components.pretrain.config import PretrainParams, TrainerParams, known_methods, params_model
from components.pretrain.run import build_method, view_plan
from components.pretrain.schedules import Schedule
from pipelines.workspace import merged_params

RECIPES = Path(__file__).parents[2] / "recipes" / "published"
NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml") if file.stem != "evaluate")
VIT_S = {"img_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
REGISTERS = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}

# The trainer's part of the tables: DINO's, which the others took over, and what each has of its own.
DINO = {
    "epochs": 100, "warmup_epochs": 10, "lr": 5e-4, "lr_rule": "linear", "lr_batch": 256, "min_lr": 1e-6,
    "weight_decay": 0.04, "weight_decay_end": 0.4, "betas": (0.9, 0.999), "clip_norm": 3.0, "clip": "tensor",
    "momentum_teacher": 0.996, "momentum_teacher_end": 1.0, "max_steps": None, "budget": None,
}  # fmt: skip
CROSS_TIME = {"batch_size": 512, "epochs": 300, "precision": "float32"}
TRAINERS: dict[str, dict[str, Any]] = {
    "dino": {"batch_size": 512},
    "next_frame": {"batch_size": 256},
    "dora": {"batch_size": 128, "min_lr": 1e-5},
    "ibot": {"batch_size": 1024, "epochs": 800},
    "cross_time_ibot": CROSS_TIME,
    "cross_time_ibot_venice": CROSS_TIME,
    "odis": CROSS_TIME,
    "cross_time_odis": CROSS_TIME,
    "cross_time_odis_venice": CROSS_TIME,
    "timet": {
        "batch_size": 128, "epochs": 30, "lr": 1e-4, "lr_rule": "none", "min_lr": 0.0, "warmup_epochs": 0,
        "clip_norm": None, "momentum_teacher": 0.995,
    },
    "tcore": {
        "batch_size": 256, "epochs": 400, "warmup_epochs": 20, "lr": 2e-3, "lr_rule": "sqrt", "lr_batch": 1024,
        "clip": "module", "momentum_teacher": 0.992,
    },
}  # fmt: skip

# Likewise the method's own part.
HEAD = {"hidden_dim": 2048, "bottleneck_dim": 256, "freeze_last_layer_epochs": 1, "drop_path": 0.1}
TEMPERATURES = {"student_temp": 0.1, "warmup_teacher_temp": 0.04, "centre_momentum": 0.9}
VIEWS = {"global_size_px": 224, "local_size_px": 96}
FLAT = {"out_dim": 65536, "teacher_temp": 0.04, "warmup_teacher_temp_epochs": 0, "local_crops": 8}
WIDE = {"global_scale": (0.4, 1.0), "local_scale": (0.05, 0.4)}
IBOT = {
    **HEAD, **TEMPERATURES, **VIEWS, "out_dim": 8192, "shared_head": True, "shared_head_teacher": True,
    "train_gain": True, "teacher_temp": 0.07, "warmup_teacher_temp_epochs": 30, "patch_temp": 0.07,
    "warmup_patch_temp": 0.04, "warmup_patch_temp_epochs": 30, "patch_centre_momentum": 0.9,
    "mask_ratios": (0.0, 0.3), "mask_variations": (0.0, 0.2), "mask_shape": "block", "pred_start_epoch": 0,
    "lambda_cls": 1.0, "lambda_patch": 1.0, "global_scale": (0.25, 1.0), "local_scale": (0.05, 0.25), "local_crops": 10,
}  # fmt: skip
ODIS = {**IBOT, "lambda_cls": 0.0, "lambda_object": 1.0, "object_margin_patches": 1, "object_choice": "largest"}
TABLES: dict[str, dict[str, Any]] = {
    "dino": {**HEAD, **TEMPERATURES, **VIEWS, **FLAT, **WIDE, "train_gain": False},
    "next_frame": {
        **HEAD, **TEMPERATURES, **VIEWS, **FLAT, **WIDE, "patch_out_dim": 8192, "predictor_depth": 2,
        "predictor_heads": 6, "tokens": "cls+patch", "warmup_patch_temp": 0.04, "patch_temp": 0.07,
        "warmup_patch_temp_epochs": 30,
    },
    "dora": {
        **HEAD, **TEMPERATURES, **FLAT, **WIDE, "global_size_px": 224, "local_size_px": 112, "local_crops": 6,
        "clip_crop_px": 300, "train_gain": True, "n_frames": 8, "n_objects": 3, "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 30,
    },
    "ibot": IBOT,
    "cross_time_ibot": {**IBOT, "lambda_time": 1.0, "lambda_timepatch": 0.0, "matching": "all2all",
                        "neighbour_mask": "fresh"},
    "cross_time_ibot_venice": {**IBOT, "lambda_time": 1.0, "matching": "one2one", "neighbour_mask": "none"},
    "odis": ODIS,
    "cross_time_odis": {**ODIS, "lambda_time": 0.0, "lambda_timeobj": 1.0, "object_matching": "all2all"},
    "cross_time_odis_venice": {**ODIS, "lambda_time": 0.0, "lambda_timeobj": 0.0, "object_margin_patches": 0},
    "timet": {
        "n_frames": 4, "sampling": "uniform", "global_size_px": 224, "global_scale": (0.4, 1.0),
        "trainable_blocks": 2, "backbone_lr_scale": 0.1, "hidden_dims": (1024, 1024, 512), "bottleneck_dim": 256,
        "out_dim": 200, "student_temp": 0.1, "sinkhorn_epsilon": 0.05, "sinkhorn_iterations": 10, "radius": 6,
        "top_k": 5, "forward_temp": 0.1, "ema": False, "queue": 0, "foreground": False,
    },
    "tcore": {
        **HEAD, **TEMPERATURES, **VIEWS, "out_dim": 65536, "train_gain": True, "teacher_temp": 0.07,
        "warmup_teacher_temp_epochs": 30, "global_scale": (0.32, 1.0), "local_scale": (0.05, 0.32), "local_crops": 8,
        "past": (0.15, 0.25), "current": (0.3, 0.7), "future": (0.15, 0.25), "mask_share": 0.5,
        "mask_ratio": (0.1, 0.5), "matching_heads": 16, "matching_gain": 4.0, "w_past": 0.8, "w_future": 0.8,
        "w_agree": 20.0, "w_koleo": 0.1, "layer_decay": 0.9, "patch_embed_lr": 0.2, "matching_lr": 0.1,
    },
}  # fmt: skip
NOT_DEFAULT = {  # a method's defaults are its published values; Venice's runs have others
    "next_frame": {"predictor_heads"},  # by default the encoder's, which are 6
    "cross_time_ibot_venice": {"matching", "neighbour_mask"},
    "cross_time_odis_venice": {
        "lambda_timeobj", "objects", "object_aware_locals", "object_margin_patches", "object_margin_draw",
    },
}  # fmt: skip


def method_of(name: str) -> str:
    return name.removesuffix("_venice")


def pretrain(name: str, **encoder: Any) -> PretrainParams:
    section = section_of(merged_params(RECIPES / f"{name}.yaml", []), "pretrain", method_of(name))
    if encoder:
        section["encoder"] |= {"model_args": section["encoder"]["model_args"] | encoder, "start_from": None}
    return parse(params_model(method_of(name), section), section, name)


def test_every_method_has_a_recipe_and_a_table() -> None:
    assert {method_of(name) for name in NAMES} == set(known_methods())
    assert set(NAMES) == set(TRAINERS) == set(TABLES)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_the_sample_profile_shows_through(name: str) -> None:
    own = read_yaml(RECIPES / f"{name}.yaml")["pretrain"][method_of(name)]
    params = pretrain(name)
    assert set(own["args"]) == set(type(params.args).model_fields)
    assert set(own["trainer"]) == set(TrainerParams.model_fields)
    assert params.encoder.model_args == VIT_S | (REGISTERS if name == "tcore" else {})


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_published_values(name: str) -> None:
    args: Any = pretrain(name).args
    same = type(args)()
    differing = {field for field in type(args).model_fields if getattr(args, field) != getattr(same, field)}
    assert differing == NOT_DEFAULT.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_tables(name: str) -> None:
    params = pretrain(name)
    trainer, args = dict(params.trainer), dict(params.args)
    expected = DINO | TRAINERS[name]
    assert {key: trainer[key] for key in expected} == expected
    assert {key: args[key] for key in TABLES[name]} == TABLES[name]


def test_peak_learning_rates() -> None:
    """What the tables come to at their batches (ibot: 16 x 64 samples; tcore: canonical 256)."""
    peaks = {"dino": 1e-3, "ibot": 2e-3, "cross_time_ibot": 1e-3, "tcore": 1e-3, "timet": 1e-4}
    for name in sorted(peaks.keys() & set(NAMES)):
        schedule = Schedule.plan(pretrain(name).trainer, 1000)
        assert max(schedule.at(step).lr for step in (0, schedule.warmup)) == pytest.approx(peaks[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_the_index_has_the_draw_that_the_views_are_cut_from(name: str) -> None:
    document = merged_params(RECIPES / f"{name}.yaml", [])
    index = parse(IndexParams, section_of(document, "index", document["corpus"]), name)
    plan = view_plan(pretrain(name))
    assert plan.draw in index.draws
    draw: Any = index.draws[plan.draw]
    assert hasattr(draw, "span") == (plan.timing is not None and plan.draw == "span")
    if plan.objects is not None:
        assert draw.shared is not None


@pytest.mark.parametrize(
    ("name", "draw", "offsets_s"),
    [
        ("dino", "frame", [0]),
        ("next_frame", "pair", [0, 0.5]),
        ("dora", "clip", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("cross_time_ibot", "pair", [0, 3]),
        ("cross_time_ibot_venice", "pair", [0, 1]),
        ("odis", "object_frame", [0]),
        ("cross_time_odis", "object_pair", [0, 5]),
    ],
)
def test_data_is_asked_for_in_seconds(name: str, draw: str, offsets_s: list[float]) -> None:
    document = merged_params(RECIPES / f"{name}.yaml", [])
    corpus = document["corpus"]
    index = parse(IndexParams, section_of(document, "index", corpus), name)
    assert list(index.draws[draw].offsets_s) == offsets_s  # type: ignore[union-attr]
    frames = parse(ExtractParams, section_of(document, "extract_frames", corpus), name)
    assert frames.fps is not None and 1 / frames.fps > index.tolerance_s  # no frame can stand for its neighbour


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_step_at_the_published_sizes(name: str) -> None:
    """All of the recipe but the encoder's width and depth, forward and backward."""
    params = pretrain(name, embed_dim=96, depth=3)
    assert cost_of(build_method(params, math.inf), view_plan(params)).flops > 1e9
