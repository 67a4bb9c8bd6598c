"""Parameters of pretraining. The defaults are the published DINO-scale values (arXiv:2104.14294); no torch in here.

`pretrain.shared` of params.yaml is laid under every method's own section; `args` is checked by the method's own model.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, create_model, model_validator

from components.common.config import Params, Section, StageParams, nearest
from components.common.errors import StageError


class EncoderParams(Params):
    """The network that is trained and exported: a timm VisionTransformer."""

    architecture: str = Field("vit_small_patch16_224", description="timm name of a VisionTransformer")
    model_args: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of timm.create_model")
    start_from: str | None = Field(None, description="weights to start from: model folder, timm:NAME or .safetensors")
    pos_quirk: bool = Field(False, description="resize positions for small views as DINO's and iBOT's code does")


class Colours(Params):
    """Laid over the colour recipe of every view (`plan.Photometric`); what is not given stays as published.

    Published recipes are for 224 pixels and hundreds of epochs: they teach an encoder to do without colour long before
    it has learnt anything else, and a blur of 2 pixels wipes out a view of 32.
    """

    brightness: float | None = Field(None, ge=0)
    contrast: float | None = Field(None, ge=0)
    saturation: float | None = Field(None, ge=0)
    hue: float | None = Field(None, ge=0, le=0.5, description="turns")
    jitter_p: float | None = Field(None, ge=0, le=1)
    grey_p: float | None = Field(None, ge=0, le=1)
    blur_p: float | None = Field(None, ge=0, le=1)
    solarise_p: float | None = Field(None, ge=0, le=1)

    def given(self) -> dict[str, float]:
        """The values that replace published ones."""
        return self.model_dump(exclude_none=True)


class GuardParams(Params):
    """When features count as collapsed. The shares are of the ideal value, so they hold for any width."""

    stop: bool = Field(False, description="stop training on collapse; otherwise only warn")
    max_teacher_entropy: float = Field(0.9999, gt=0, le=1, description="share of log K: above, all targets are uniform")
    min_teacher_spread: float = Field(
        0.01, ge=0, lt=1, description="share of log K of the batch's mean target: below, one prototype takes all"
    )
    min_feature_std: float = Field(0.01, ge=0, lt=1, description="std of unit features, times sqrt(D): healthy is ~1")
    min_rankme: float = Field(1.5, ge=1, description="effective rank of the features (arXiv:2210.02885)")
    rankme_samples: int = Field(2048, ge=2, description="latest features taken into RankMe")
    patience: int = Field(5, ge=1, description="reports in a row below a limit before it counts as collapse")


class Budget(Params):
    """How much a run may cost: one number that makes runs of different methods comparable."""

    unit: Literal["images", "samples", "flops", "seconds", "steps"] = Field(
        description="images: source frames seen; flops: of forward and backward passes, multiply-adds times two; "
        "seconds: of training, at the rate measured at its start; all over all processes"
    )
    amount: float = Field(gt=0)


class TrainerParams(Params):
    """The loop around a method: sizes, schedules, optimiser, precision, checkpoints."""

    batch_size: int = Field(1024, ge=1, description="samples in one optimiser step, over all processes")
    accumulate: int = Field(1, ge=1, description="forward and backward passes in one optimiser step")
    epochs: float = Field(100, ge=0, description="passes over the draw; 0 exports the untrained start")
    max_steps: int | None = Field(None, ge=0, description="optimiser steps at most; schedules end there")
    budget: Budget | None = Field(
        None, description="sets the run's length in place of epochs and max_steps, unless one of them is 0"
    )
    lr: float = Field(5e-4, gt=0, description="peak learning rate at a batch of `lr_batch`")
    lr_rule: Literal["linear", "sqrt", "none"] = Field("linear", description="how the peak grows with the batch")
    lr_batch: int = Field(256, ge=1, description="samples a step at which `lr` holds")
    min_lr: float = Field(1e-6, ge=0, description="learning rate at the end, not scaled with the batch")
    warmup_epochs: float = Field(10, ge=0, description="linear warm-up from 0")
    weight_decay: float = Field(0.04, ge=0)
    weight_decay_end: float = Field(0.4, ge=0, description="reached by a cosine")
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = Field(3.0, gt=0, description="largest norm of a gradient; null: no clipping")
    clip: Literal["tensor", "module"] = Field("tensor", description="what has one norm: each tensor, or each module")
    momentum_teacher: float = Field(0.996, ge=0, le=1, description="weight of the old teacher at the start")
    momentum_teacher_end: float = Field(1.0, ge=0, le=1, description="reached by a cosine")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    deterministic: bool = Field(True, description="on a GPU, kernels that repeat to the bit where there are any")
    compile: bool = Field(False, description="torch.compile for each transformer block")
    processes: int = Field(0, ge=0, description="training processes, unless torchrun says; 0: one for each GPU")
    workers: int = Field(10, ge=0, description="loader processes of each training process")
    decode_scaled: bool = Field(True, description="decode JPEGs at a reduced size where no view loses pixels")
    log_every_steps: int = Field(10, ge=1, description="steps between two reports; loss and guards are checked there")
    checkpoint_every_s: float = Field(300, ge=0, description="least time between two checkpoints; 0: at every report")

    @model_validator(mode="after")
    def _sizes_agree(self) -> TrainerParams:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}")
        return self

    @property
    def trains(self) -> bool:
        """Whether there is any step: 0 epochs or 0 steps export the untrained start, whatever the budget."""
        return self.epochs > 0 and self.max_steps != 0


# These decide when work is done, not what comes out: a run may go on with others.
NOT_IN_IDENTITY = ("workers", "processes", "checkpoint_every_s")


class PretrainParams(StageParams):
    """One method's section. `args` becomes the method's own model (see `params_model`)."""

    method: str
    encoder: EncoderParams = EncoderParams.model_validate({})
    trainer: TrainerParams = TrainerParams.model_validate({})
    guards: GuardParams = GuardParams.model_validate({})
    colours: Colours = Colours.model_validate({})
    args: Params = Params()
    resume: str | None = Field(None, description="checkpoint file to go on from, instead of the run's own")

    def identity(self) -> Section:
        """All that the result depends on."""
        values = self.model_dump(mode="json", exclude={"resume"})
        for key in NOT_IN_IDENTITY:
            del values["trainer"][key]
        return values


def known_methods() -> list[str]:
    """Names of the files in `methods/`."""
    folder = Path(__file__).parent / "methods"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.name.startswith("_"))


def find_method(name: str) -> type[Any]:
    """The class of a method; StageError with the nearest name when there is none. Imports torch."""
    from components.pretrain.method import METHODS

    if name not in METHODS:
        known = known_methods()
        if name not in known:
            raise StageError(f"no method '{name}'{nearest(name, sorted({*known, *METHODS}))}")
        importlib.import_module(f"components.pretrain.methods.{name}")
    return METHODS[name]


def params_model(key: str | None, section: Section) -> type[PretrainParams]:
    """The parameter model of a section: its method (the key, unless the section names another) brings `args`."""
    name = section.get("method", key)
    method = find_method(str(name))
    args: Any = (method.Args, Field(default_factory=method.Args, validate_default=True))
    return create_model(f"{method.__name__}Params", __base__=PretrainParams, method=(str, name), args=args)
