"""From a stage's context to a task and back: loads the encoder, runs the task, writes metrics and tables."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from components.common.context import Context, cache_root
from components.common.encoder import Encoder, Fit, load_encoder
from components.common.errors import StageError
from components.common.outputs import atomic_file, write_text
from components.evaluate.failure import failure_of, finite, write_failure
from components.evaluate.feature_store import FeatureStore
from components.evaluate.task import Job, Row, TaskParams, TaskResult, get_task


def evaluate(ctx: Context) -> None:
    """Run the task `ctx.keys["task"]` on the encoder `ctx.inputs["model"]`."""
    assert isinstance(ctx.params, TaskParams)
    task, args = get_task(ctx.keys["task"]), ctx.params
    model, benchmark = ctx.inputs["model"], ctx.inputs["benchmark"]
    assert model is not None and benchmark is not None
    device = choose_device(args.device)
    fit: Fit = "exact" if args.fit == "round" else args.fit  # rounding is the task's: it knows what the sides mean
    encoder = load_encoder(str(model), device, seed=ctx.seed, fit=fit, pos_quirk=args.pos_quirk)
    ctx.log(f"{encoder.origin}: {encoder.dim} features, {encoder.patch_size}-pixel patches, on {device}")
    features = feature_store(ctx, encoder, device)
    job = Job(
        name=ctx.keys["method"],
        details=ctx.outputs["details"],
        cache=work_folder(ctx, encoder),
        device=device,
        log=ctx.log,
        progress=ctx.progress,
        features=features,
    )
    try:
        result = finite(task.run(encoder, benchmark, args, job))
    except Exception as error:
        failure = failure_of(error)
        if failure is None:
            raise
        if args.strict:
            raise failure from error
        write_failure(ctx, encoder, str(failure))
    else:
        write_result(ctx, encoder, result)
    finally:
        features.release()
    features.tidy()


def feature_store(ctx: Context, encoder: Encoder, device: str) -> FeatureStore:
    """The features that this evaluation may share with others, on whatever encoder and benchmark."""
    assert isinstance(ctx.params, TaskParams)
    root, limit = cache_root() / ctx.stage / "features", int(ctx.params.features_gib * 2**30)
    return FeatureStore(root, cache_root() / "locks", f"{encoder.identity} on {device}", limit, ctx.log)


def choose_device(wanted: str) -> str:
    """`auto` takes a CUDA device if there is one; asking for one that is absent is an error."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise StageError("device 'cuda' asked for, but there is none", do="set `device: auto`")
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def work_folder(ctx: Context, encoder: Encoder) -> Path:
    """The stage's cache, one level deeper by encoder: a `timm:` name says nothing about the weights behind it."""
    folder = ctx.cache / encoder.sha256[:16]
    folder.mkdir(exist_ok=True)
    return folder


def write_result(ctx: Context, encoder: Encoder, result: TaskResult) -> None:
    """metrics JSON (flat, sorted, full floats), parquet tables, and the same figures to the tracker."""
    assert isinstance(ctx.params, TaskParams)
    for note in result.notes:
        ctx.log(note)
    document = {
        "method": ctx.keys["method"],
        "task": ctx.keys["task"],
        "protocol": result.protocol,
        "metrics": result.metrics,
        "primary": result.primary,
        "higher_is_better": result.higher_is_better,
        "encoder_sha256": encoder.sha256,
        "encoder_origin": encoder.origin,
        "benchmark_hash": ctx.input_hash("benchmark"),
        "seed": ctx.seed,
        "params": ctx.params.model_dump(mode="json", exclude=set(ctx.params.beside_protocol)),
        "data_variant": result.data_variant,
        "notes": result.notes,
    }
    write_text(ctx.outputs["metrics"], json.dumps(document, indent=2, sort_keys=True) + "\n")
    for name, rows in {"details": result.rows, **result.tables}.items():
        write_table(ctx.outputs["details"] / f"{name}.parquet", rows)
    ctx.tracker.metrics(result.metrics)
    ctx.tracker.tag("protocol", result.protocol)
    model = ctx.inputs["model"]
    ctx.tracker.judged(document, encoder.origin, folder=model is not None and model.is_dir())
    for file in sorted(ctx.outputs["details"].iterdir()):
        if file.is_file():  # tables and pictures; predictions, which may be thousands of files, stay in the output
            ctx.tracker.artifact(file, "details")
    ctx.note("metrics", **{result.primary: result.metrics[result.primary]})
    ctx.log(f"{result.primary} = {result.metrics[result.primary]:.4f} ({result.protocol})")


def write_table(file: Path, rows: list[Row]) -> None:
    """Rows of equal keys as parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(file) as partial:
        pq.write_table(pa.Table.from_pylist(rows), partial)
