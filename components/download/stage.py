"""The download stage: a source of any kind becomes one folder, and a manifest says what lies in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from components.common import outputs
from components.common.context import Context
from components.common.errors import StageError
from components.common.hashing import file_hash, files_below
from components.download import archives, faces, streams
from components.download.arrange import arrange
from components.download.cards import Card, read_card
from components.download.config import HttpParams, ListParams, LocalParams, PublishedParams, S3Params, SourceParams
from components.download.sources import http, listing, local, published, s3
from components.download.verify import Found, check_sums, find_root, verify

MANIFEST, CARD = "MANIFEST.json", "CARD.json"


def run(ctx: Context) -> None:
    """Fetch (or render) the dataset into `data`.

    Work goes on in `ctx.cache`, which outlives kills: `fetched` files first, then the unpacked `tree`.
    """
    if not isinstance(ctx.params, SourceParams):
        _render(ctx)
        return
    card = read_card(ctx.params.card) if ctx.params.card else None
    if ctx.params.blur_faces is not None:
        faces.program(ctx.params.blur_faces)  # told now, and not after a day of fetching
    fetched, tree = ctx.cache / "fetched", ctx.cache / "tree"
    dead = _fetch(ctx, card, fetched)
    if card is not None:
        check_sums(fetched, card.checksums)
    _unpack(ctx, card, fetched, tree)
    root = _root(tree, ctx.params.root, card)
    if card is not None:
        arrange(root, tree, card, ctx)
    if ctx.params.blur_faces is not None:
        ctx.log(f"blurred the faces of {faces.blur_all(root, ctx.params.blur_faces, ctx)} videos")
    _hand_over(root, ctx.outputs["data"])
    found = _check(ctx, card)
    _describe(ctx, card, found, dead)


def _render(ctx: Context) -> None:
    from components.download.world import WorldParams, write_world

    assert isinstance(ctx.params, WorldParams)
    with ctx.progress(0, "clips") as progress:
        facts = write_world(ctx.params, ctx.outputs["data"], ctx.cache, progress)
    ctx.note("data", **{key: value for key, value in facts.items() if isinstance(value, int | float | str)})


def _fetch(ctx: Context, card: Card | None, fetched: Path) -> list[dict[str, str]]:
    params, parts = ctx.params, ctx.cache / "parts"
    fetched.mkdir(exist_ok=True)
    with ctx.progress(1, "files") as progress:
        if isinstance(params, LocalParams):
            local.copy_all(params, card, fetched, progress)
        elif isinstance(params, HttpParams):
            progress.total = len(params.files)
            http.fetch_all(params.files, fetched, parts, params.transfer, progress)
        elif isinstance(params, S3Params):
            s3.fetch_all(params, fetched, parts, progress)
        elif isinstance(params, ListParams):
            return listing.fetch_all(params, Path(params.path), fetched, parts, progress)
        elif isinstance(params, PublishedParams):
            assert card is not None
            return published.fetch_all(params, card, fetched, parts, progress)
    return []


def _unpack(ctx: Context, card: Card | None, fetched: Path, tree: Path) -> None:
    """Make `tree` from what was fetched. Started anew after a kill: unpacking is quick beside fetching."""
    assert isinstance(ctx.params, SourceParams)
    outputs.remove(tree)
    if not ctx.params.unpack.enabled or not any(archives.is_archive(p) for p in fetched.rglob("*") if p.is_file()):
        fetched.rename(tree)
        return
    local.copy(fetched, tree)
    into = [(rule.archive, rule.folder) for rule in card.into] if card is not None else []
    try:
        count = archives.unpack_all(tree, ctx.params.unpack, into)
    except StageError as error:
        raise _at_its_source(error, ctx.params, tree, fetched) from None
    ctx.log(f"unpacked {count} files")


def _at_its_source(error: StageError, params: SourceParams, tree: Path, fetched: Path) -> StageError:
    """An archive's trouble at the place where its owner can mend it; a damaged one is fetched anew by the next run."""
    if error.where is None or not (place := Path(error.where)).is_relative_to(tree):
        return error
    below = place.relative_to(tree)
    if isinstance(params, LocalParams):
        source = Path(params.path).expanduser()
        place = source / below if source.is_dir() else source
    else:
        place = below
        if error.do == archives.FETCH_AGAIN:
            (fetched / below).unlink(missing_ok=True)
    return StageError(error.what, where=place, do=error.do, code=error.code)


def _root(tree: Path, root: str, card: Card | None) -> Path:
    folder = (tree / root).resolve()
    if not folder.is_relative_to(tree.resolve()) or not folder.is_dir():
        found = ", ".join(sorted(p.name for p in tree.iterdir() if p.is_dir())) or "no folder"
        raise StageError(f"`root: {root}` is no folder of what was fetched", do=f"there is: {found}")
    return find_root(folder, card) if card is not None and root == "." else folder


def _hand_over(root: Path, data: Path) -> None:
    """Move the finished tree into the staged output; a kill in between only means fetching again what moved."""
    for entry in sorted(root.iterdir()):
        shutil.move(entry, data / entry.name)


def _check(ctx: Context, card: Card | None) -> Found:
    """Compare the folder with its card: one line of counts, and one for everything that is amiss.

    Raises:
        StageError: something is, and `check` says fail.
    """
    assert isinstance(ctx.params, SourceParams)
    if card is None or ctx.params.check == "off":
        return Found()
    found = verify(ctx.outputs["data"], card)
    ctx.log(found.line(str(ctx.params.card)))
    if not any(there for _, there, _ in found.counts):
        what = f"nothing of {ctx.params.card} is there: {'; '.join(found.amiss)}"
        do = "is it the right folder, and unpacked? `check: off` takes it as it is"
        raise StageError(what, where=f"download.{ctx.keys['dataset']}", do=do)
    if found.amiss and ctx.params.check == "fail":
        do = "repair the folder, or set `check: warn`"
        raise StageError("; ".join(found.amiss), where=f"download.{ctx.keys['dataset']}", do=do)
    for line in found.amiss:
        ctx.warn(f"{ctx.params.card}: {line}")
    return found


def _describe(ctx: Context, card: Card | None, found: Found, dead: list[dict[str, str]]) -> None:
    data = ctx.outputs["data"]
    files = list(files_below(data))
    if not files:
        raise StageError("nothing was fetched", where=str(ctx.places["data"]))
    sizes = [file.stat().st_size for file in files]
    rows = [
        {"path": file.relative_to(data).as_posix(), "bytes": size, "sha256": file_hash(file)}
        for file, size in zip(files, sizes, strict=True)
    ]
    manifest = {"files": rows, "dead": dead, **_streams(ctx, card)}
    outputs.write_text(data / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    if card is not None:
        assert isinstance(ctx.params, SourceParams)
        outputs.write_text(data / CARD, json.dumps(_said(str(ctx.params.card), card, found), indent=1) + "\n")
    for entry in dead:
        ctx.warn(f"dead address, recorded and left out: {entry['address']} ({entry['reason']})")
    ctx.note("data", files=len(rows), gib=round(sum(sizes) / 2**30, 3), dead=len(dead))
    ctx.tracker.metrics({"files": len(rows), "bytes": sum(sizes), "dead_addresses": len(dead)})


def _streams(ctx: Context, card: Card | None) -> dict[str, Any]:
    """What each video is, where the card or pages of videos make that worth knowing."""
    if not (card is not None and card.streams):
        return {}
    rows = streams.streams_of(ctx.outputs["data"])
    for row in rows:
        ctx.log(streams.told(row))
    return {"streams": rows}


def _said(name: str, card: Card, found: Found) -> dict[str, Any]:
    """CARD.json: which dataset this is, on what terms, and how it compares with what was published."""
    counts = [{"what": what, "there": there, "published": published} for what, there, published in found.counts]
    kept = card.model_dump(include={"title", "page", "licence", "terms", "citation", "ignore_label", "traps"})
    return {"card": name, **kept, "counts": counts, "splits": found.splits, "amiss": found.amiss}
