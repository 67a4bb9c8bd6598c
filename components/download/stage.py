"""The download stage: a source of any kind becomes one folder, and a manifest says what lies in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from components.common import outputs
from components.common.context import Context
from components.common.errors import StageError
from components.common.hashing import file_hash, files_below
from components.download import archives
from components.download.config import HttpParams, ListParams, LocalParams, S3Params, SourceParams
from components.download.sources import http, listing, local, s3

MANIFEST = "MANIFEST.json"


def run(ctx: Context) -> None:
    """Fetch (or render) the dataset into `data`.

    Work goes on in `ctx.cache`, which outlives kills: `fetched` files first, then the unpacked `tree`.
    """
    if not isinstance(ctx.params, SourceParams):
        _render(ctx)
        return
    fetched, tree = ctx.cache / "fetched", ctx.cache / "tree"
    dead = _fetch(ctx, fetched)
    _unpack(ctx, fetched, tree)
    root = _root(tree, ctx.params.root)
    _hand_over(root, ctx.outputs["data"])
    _describe(ctx, dead)


def _render(ctx: Context) -> None:
    from components.download.world import WorldParams, write_world

    assert isinstance(ctx.params, WorldParams)
    with ctx.progress(0, "clips") as progress:
        facts = write_world(ctx.params, ctx.outputs["data"], ctx.cache, progress)
    ctx.note("data", **{key: value for key, value in facts.items() if isinstance(value, int | float | str)})


def _fetch(ctx: Context, fetched: Path) -> list[dict[str, str]]:
    params, parts = ctx.params, ctx.cache / "parts"
    fetched.mkdir(exist_ok=True)
    with ctx.progress(1, "files") as progress:
        if isinstance(params, LocalParams):
            source = Path(params.path).expanduser()
            progress.total = len(local.files_of(source))
            local.copy(source, fetched, progress)
        elif isinstance(params, HttpParams):
            progress.total = len(params.files)
            addresses = [(file.url, file.sha256) for file in params.files]
            http.fetch_all(addresses, fetched, parts, params.transfer, progress)
        elif isinstance(params, S3Params):
            s3.fetch_all(params, fetched, parts, progress)
        elif isinstance(params, ListParams):
            return listing.fetch_all(params, fetched, parts, progress)
    return []


def _unpack(ctx: Context, fetched: Path, tree: Path) -> None:
    """Make `tree` from what was fetched. Started anew after a kill: unpacking is quick beside fetching."""
    assert isinstance(ctx.params, SourceParams)
    outputs.remove(tree)
    if not ctx.params.unpack.enabled or not any(archives.is_archive(p) for p in fetched.rglob("*") if p.is_file()):
        fetched.rename(tree)
        return
    local.copy(fetched, tree)
    count = archives.unpack_all(tree, ctx.params.unpack)
    ctx.log(f"unpacked {count} files")


def _root(tree: Path, root: str) -> Path:
    folder = (tree / root).resolve()
    if not folder.is_relative_to(tree.resolve()) or not folder.is_dir():
        found = ", ".join(sorted(p.name for p in tree.iterdir() if p.is_dir())) or "no folder"
        raise StageError(f"`root: {root}` is no folder of what was fetched", do=f"there is: {found}")
    return folder


def _hand_over(root: Path, data: Path) -> None:
    """Move the finished tree into the staged output; a kill in between only means fetching again what moved."""
    for entry in sorted(root.iterdir()):
        shutil.move(entry, data / entry.name)


def _describe(ctx: Context, dead: list[dict[str, str]]) -> None:
    data = ctx.outputs["data"]
    files = list(files_below(data))
    if not files:
        raise StageError("nothing was fetched", where=str(ctx.places["data"]))
    sizes = [file.stat().st_size for file in files]
    rows = [
        {"path": file.relative_to(data).as_posix(), "bytes": size, "sha256": file_hash(file)}
        for file, size in zip(files, sizes, strict=True)
    ]
    outputs.write_text(data / MANIFEST, json.dumps({"files": rows, "dead": dead}, indent=1, sort_keys=True) + "\n")
    for entry in dead:
        ctx.warn(f"dead address, recorded and left out: {entry['address']} ({entry['reason']})")
    ctx.note("data", files=len(rows), gib=round(sum(sizes) / 2**30, 3), dead=len(dead))
    ctx.tracker.metrics({"files": len(rows), "bytes": sum(sizes), "dead_addresses": len(dead)})
