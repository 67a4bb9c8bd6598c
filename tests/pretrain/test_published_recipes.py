"""The published recipes: whole, valid, and equal to the papers' tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.common.config import parse, read_yaml, section_of
from components.extract_frames.config import ExtractParams
from components.index.config import IndexParams
from components.pretrain.config import PretrainParams, TrainerParams, params_model
from pipelines.workspace import merged_params

RECIPES = Path(__file__).parents[2] / "recipes" / "published"
METHODS = ["dino", "next_frame", "dora"]


def pretrain(method: str) -> PretrainParams:
    section = section_of(merged_params(RECIPES / f"{method}.yaml", []), "pretrain", method)
    return parse(params_model(method, section), section, method)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_sample_profile_shows_through(method: str) -> None:
    own = read_yaml(RECIPES / f"{method}.yaml")["pretrain"][method]
    params = pretrain(method)
    assert set(own["args"]) == set(type(params.args).model_fields)
    assert set(own["trainer"]) == set(TrainerParams.model_fields)
    assert params.encoder.model_args == {
        "img_size": 224, "patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6,
    }  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_defaults_are_the_published_values(method: str) -> None:
    args: Any = pretrain(method).args
    same = type(args)()
    differing = {name for name in type(args).model_fields if getattr(args, name) != getattr(same, name)}
    assert differing <= {"predictor_heads"}  # by default the encoder's, which are 6


@pytest.mark.parametrize("method", METHODS)
def test_shared_table(method: str) -> None:
    params = pretrain(method)
    trainer, args = params.trainer, dict(params.args)
    assert (trainer.epochs, trainer.warmup_epochs, trainer.max_steps) == (100, 10, None)
    assert (trainer.lr, trainer.weight_decay, trainer.weight_decay_end) == (5e-4, 0.04, 0.4)
    assert (trainer.clip_norm, trainer.momentum_teacher, trainer.momentum_teacher_end) == (3.0, 0.996, 1.0)
    assert (args["out_dim"], args["hidden_dim"], args["bottleneck_dim"]) == (65536, 2048, 256)
    assert (args["student_temp"], args["teacher_temp"], args["warmup_teacher_temp_epochs"]) == (0.1, 0.04, 0)
    assert (args["centre_momentum"], args["freeze_last_layer_epochs"], args["drop_path"]) == (0.9, 1, 0.1)
    assert (args["global_size_px"], args["global_scale"], args["local_scale"]) == (224, (0.4, 1.0), (0.05, 0.4))


def test_own_tables() -> None:
    dino, ahead, dora = (pretrain(method) for method in METHODS)
    assert (dino.trainer.batch_size, dino.trainer.min_lr) == (512, 1e-6)
    assert (dora.trainer.batch_size, dora.trainer.min_lr) == (128, 1e-5)
    args: Any = dora.args
    assert (args.local_size_px, args.local_crops, args.clip_crop_px, args.train_gain) == (112, 6, 300, True)
    assert (args.n_frames, args.n_objects, args.sinkhorn_epsilon, args.sinkhorn_iterations) == (8, 3, 0.05, 30)
    args = ahead.args
    assert (args.patch_out_dim, args.predictor_depth, args.predictor_heads, args.tokens) == (8192, 2, 6, "cls+patch")
    assert (args.warmup_patch_temp, args.patch_temp, args.warmup_patch_temp_epochs) == (0.04, 0.07, 30)


@pytest.mark.parametrize(
    ("method", "draw", "offsets_s"),
    [("dino", "frame", [0]), ("next_frame", "pair", [0, 0.5]), ("dora", "clip", [0, 1, 2, 3, 4, 5, 6, 7])],
)
def test_data_is_asked_for_in_seconds(method: str, draw: str, offsets_s: list[float]) -> None:
    document = merged_params(RECIPES / f"{method}.yaml", [])
    corpus = document["corpus"]
    index = parse(IndexParams, section_of(document, "index", corpus), method)
    assert list(index.draws[draw].offsets_s) == offsets_s  # type: ignore[union-attr]
    frames = parse(ExtractParams, section_of(document, "extract_frames", corpus), method)
    assert frames.fps is not None and 1 / frames.fps > index.tolerance_s  # no frame can stand for its neighbour
