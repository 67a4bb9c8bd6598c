"""One execution of the stage: parameters to a trainer, figures to people and MLflow, the result to the model folder."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch

from components.common import hashing
from components.common.config import parse
from components.common.context import PACKAGES, Context
from components.common.encoder import load_encoder, write_model_folder
from components.common.errors import StageError
from components.common.vit import TimmModel, build_vit, load_exact, resize_as_dino
from components.pretrain import export, parallel, speed
from components.pretrain.budget import Cost, cost_of, steps_of
from components.pretrain.checkpoint import CheckpointStore, State, read
from components.pretrain.config import EncoderParams, GuardParams, PretrainParams, find_method, params_model
from components.pretrain.data import ClipDataset
from components.pretrain.feed import StoreFeed
from components.pretrain.method import Method
from components.pretrain.plan import ViewPlan
from components.pretrain.schedules import Schedule
from components.pretrain.trainer import Report, Trainer, seeded

SCRATCH = "scratch"  # the name of the file that stands for no weights
START_WEIGHTS = 1 << 32  # a stream of random numbers of its own: steps have smaller numbers
MEASURED_STEPS = 10  # for a budget in seconds, after as many that are not (start-up, compilation)
DATA_WAIT_HINT = 0.1  # the share of waiting from which more workers would pay


def pretrain(ctx: Context) -> None:
    """Run the stage in its first process."""
    params: Any = started_from(ctx.inputs["start"], ctx.params)
    check_start(params)
    store = CheckpointStore(_checkpoint_folder(ctx), _identity(ctx))
    job = {
        "params": params.model_dump(mode="json"),
        "frames": str(ctx.inputs["frames"]),
        "index": str(ctx.inputs["index"]),
        "store": str(store.folder),
        "identity": store.identity,
    }
    with parallel.group(params.trainer.processes):
        trainer = _trainer(job)
        trainer.warn = ctx.warn
        if params.trainer.budget is not None:
            budget, total = params.trainer.budget, trainer.schedule.total
            ctx.log(f"a budget of {budget.amount:g} {budget.unit} comes to {total:,} steps")
        if trainer.step:
            ctx.log(f"going on from the checkpoint of step {trainer.step}")
        _train(ctx, trainer)
        if ctx.handed_over:  # an upload that fails must not cost the training: the next try only exports
            ctx.keep_cache = True
            store.save(trainer.state())
        _export(ctx, trainer)


def started_from(start: Path | None, params: Any) -> Any:
    """The parameters with `--start` as the encoder's start; StageError when `encoder.start_from` says another."""
    if start is None or start.name == SCRATCH:
        return params
    named = params.encoder.start_from
    if named is not None and named != str(start):
        what = f"the encoder cannot start from both {start} and {named}"
        raise StageError(what, where="pretrain.encoder.start_from", do="leave it to `methods` in params.yaml")
    return params.model_copy(update={"encoder": params.encoder.model_copy(update={"start_from": str(start)})})


def check_start(params: PretrainParams) -> None:
    """Refuse to tune an encoder that has learnt nothing."""
    tunes = params.trainer.trains and find_method(params.method).needs_start(params.args)
    if tunes and params.encoder.start_from is None:
        what = f"{params.method} tunes an encoder that has learnt before, and there is none to start from"
        do = "name one: --start, methods in params.yaml, or encoder.start_from (model folder, timm:NAME, .safetensors)"
        raise StageError(what, where=f"pretrain.{params.method}", do=do)


def follow() -> int:
    """Take part in the training that another process leads; exit code."""
    parallel.end_with_leader()
    try:
        with parallel.group():
            _trainer(None).train()
    except StageError as error:
        parallel.tell_launcher(error)  # people hear it from the first process, unless that one is well
        return int(error.code)
    return 0


def _trainer(job: dict[str, Any] | None) -> Trainer:
    """The trainer of this process, standing where the run's checkpoint left it."""
    device = parallel.pick_device()
    job = parallel.share(job, device)
    params: Any = parse(params_model(None, job["params"]), job["params"], "pretrain")
    store = CheckpointStore(Path(job["store"]), job["identity"])
    state = read(Path(params.resume), store.identity, device) if params.resume else store.load(device)
    total = None if state is None else state["total"]
    trainer = build_trainer(params, Path(job["frames"]), Path(job["index"]), device, total)
    trainer.store = store
    trainer.resume(state)
    return trainer


def build_trainer(
    params: PretrainParams, frames: Path, index: Path, device: torch.device, total: int | None = None
) -> Trainer:
    """A trainer at step 0, with its method on the device and its loader not yet started.

    Args:
        params: of the run.
        frames: the frame store.
        index: its clip index.
        device: of this process.
        total: steps that the budget came to when the run began; None works them out.
    """
    speed.set_up(device, params.trainer.deterministic)
    plan = view_plan(params)
    feed = StoreFeed(ClipDataset(frames, index, plan, params.seed, params.trainer.decode_scaled), params, device)
    cost, total = _cost_and_steps(params, plan, feed, device, total) if params.trainer.trains else (Cost(), total)
    schedule = Schedule.plan(params.trainer, feed.steps_per_epoch, total)
    return Trainer(build_method(params, schedule.epochs).to(device), params, schedule, feed, cost)


def _cost_and_steps(
    params: PretrainParams, plan: ViewPlan, feed: StoreFeed, device: torch.device, total: int | None
) -> tuple[Cost, int | None]:
    """What a sample costs, and the steps that the budget comes to, found out on a method that is then thrown away."""
    trial = build_method(params, math.inf).to(device)
    cost, budget = cost_of(trial, plan), params.trainer.budget
    if budget is not None and total is None:
        total = steps_of(budget, params.trainer.batch_size, cost, partial(_step_seconds, trial, params, feed))
    return cost, total


def _step_seconds(method: Method, params: PretrainParams, feed: StoreFeed) -> float:
    """Seconds of one optimiser step on this machine, waiting for data included; the first process's, on all.

    Trains a method that nobody needs any more, so slowly that it stays finite, and takes the second of two windows.
    """
    steps = {"max_steps": 2 * MEASURED_STEPS, "log_every_steps": MEASURED_STEPS, "epochs": math.inf}
    short = params.trainer.model_copy(update={**steps, "budget": None, "warmup_epochs": 0, "lr": 1e-12, "min_lr": 0})
    trial = params.model_copy(update={"trainer": short, "guards": GuardParams(rankme_samples=2)})
    windows: list[float] = []
    schedule = Schedule(short, feed.steps_per_epoch, 2 * MEASURED_STEPS, warmup=0)
    trainer = Trainer(method, trial, schedule, feed, Cost(), warn=lambda _: None)
    trainer.train(lambda report: windows.append(report.seconds))
    measured = {"step_s": windows[-1] / MEASURED_STEPS}
    return float(parallel.share(measured, trainer.device)["step_s"])


def view_plan(params: PretrainParams) -> ViewPlan:
    """The views of the method for its encoder's patches; the encoder is built on the meta device, without weights."""
    with torch.device("meta"):
        encoder = build_vit(params.encoder.architecture, params.encoder.model_args)
    plan: ViewPlan = find_method(params.method).views(params.args, encoder.patch_embed.patch_size[0])
    return plan.recoloured(**params.colours.given())


def build_method(params: PretrainParams, epochs: float) -> Method:
    """The method on its start weights: a function of the seed and of `encoder` alone, so all methods start alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(params.seed, START_WEIGHTS))
        start = _start_encoder(params.encoder)
        return find_method(params.method)(params.args, partial(_build_encoder, params.encoder, start), epochs)


def _start_encoder(encoder: EncoderParams) -> dict[str, torch.Tensor] | None:
    if encoder.start_from is None:
        return None
    return load_encoder(encoder.start_from, model_args=encoder.model_args).model.state_dict()


def _build_encoder(encoder: EncoderParams, start: State | None, drop_path_rate: float = 0.0) -> TimmModel:
    model = build_vit(encoder.architecture, encoder.model_args, drop_path_rate=drop_path_rate)
    if encoder.pos_quirk:
        resize_as_dino(model)
    if start is not None:
        load_exact(model, start, str(encoder.start_from))
    return model


def _identity(ctx: Context) -> State:
    """What the result depends on: parameters, data, code."""
    params: Any = ctx.params
    code = hashing.code_hash([PACKAGES / "common", PACKAGES / "pretrain"])
    inputs = {name: ctx.input_hash(name) for name in ("frames", "index", "start")}
    return {**params.identity(), **inputs, "code": code}


def _checkpoint_folder(ctx: Context) -> Path:
    """Beside `ctx.cache`, whose name holds all parameters: a run may go on with another number of workers.

    The runner removes both after success, so a finished run leaves no checkpoint: five times the encoder's size that
    nothing needs once the encoder is out. DVC's run cache keeps finished results.
    """
    return ctx.claim(ctx.cache.parent / f"checkpoints-{hashing.json_hash(_identity(ctx))}")


def _train(ctx: Context, trainer: Trainer) -> None:
    """Train to the end, telling people and the tracker after every window of steps."""
    if trainer.step >= trainer.schedule.total:
        return
    hinted = False

    def tell(report: Report) -> None:
        nonlocal hinted
        speeds = {"img_per_s": report.images / report.seconds, "data_wait": report.data_wait, "wall_s": report.wall_s}
        speeds |= _gpu_memory(trainer)
        ctx.tracker.metrics(report.row | speeds, step=report.step)
        shown = {key: report.row[key] for key in ("loss", "lr")}
        bar.update(report.steps, **shown, **{"img/s": speeds["img_per_s"]}, wait=f"{report.data_wait:.0%}")
        if report.data_wait > DATA_WAIT_HINT and not hinted and report.step > report.steps:
            ctx.warn(f"{report.data_wait:.0%} of the time goes into waiting for data: raise trainer.workers")
            hinted = True

    with ctx.progress(trainer.schedule.total, "steps", done=trainer.step) as bar:
        trainer.train(tell)


def _gpu_memory(trainer: Trainer) -> dict[str, float]:
    if trainer.device.type != "cuda":
        return {}
    return {"gpu_memory_gib": torch.cuda.max_memory_allocated(trainer.device) / 2**30}


def _export(ctx: Context, trainer: Trainer) -> None:
    """Write the model folder: a function of parameters, data and code, with no time, path or run id in it."""
    params, folder, run = trainer.params, ctx.outputs["model"], ctx.keys["method"]
    figures = dict(trainer.curves[-1]) if trainer.curves else {}
    figures |= {"step": trainer.step, "samples_seen": trainer.step * params.trainer.batch_size}
    facts = {
        "method": params.method,
        "run": run,
        "seed": params.seed,
        "params_hash": hashing.json_hash(params.identity()),
    }
    facts |= {"frames_hash": ctx.input_hash("frames"), "index_hash": ctx.input_hash("index")}
    if params.encoder.start_from is not None:
        facts["start_hash"] = ctx.input_hash("start") or params.encoder.start_from
    write_model_folder(
        folder,
        trainer.method.encoder,
        architecture=params.encoder.architecture,
        model_args=params.encoder.model_args,
        longtake=facts,
        figures=figures,
    )
    trainer.method.extra_files(folder)
    export.write_metrics(folder / export.METRICS, figures)
    export.write_curves(folder / export.CURVES, trainer.curves)
    for picture in export.write_pictures(folder / export.PICTURES, trainer.pictures()):
        ctx.tracker.artifact(picture, "pictures")
    ctx.tracker.artifact(folder / export.CURVES)
    ctx.tracker.model(folder, run, sha256=hashing.file_hash(folder / "encoder.safetensors"))
    ctx.note("model", **{name: figures[name] for name in ("step", "samples_seen", "loss") if name in figures})
