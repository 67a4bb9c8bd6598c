"""The corpus on one page that stands alone: what there is, what it looks like. Look at it before training for a day.

Written with plain string templates: this stage runs in an image that has no template engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from components.index.contact_sheet import shortened

STYLE = """
:root { --paper: #fcfcfa; --card: #fff; --ink: #1b2021; --quiet: #5d666b; --rule: #dfe1e0; --accent: #0b5c63;
  --bar: #4a8f96; --cut: #c2410c; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #131617; --card: #1a1e1f; --ink: #e7e9e8; --quiet: #9aa4a7; --rule: #32383a; --accent: #6fc3c9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 24px 60px; }
.mark { margin: 0; color: var(--accent); font-weight: 650; }
h1 { margin: 2px 0 18px; font-size: 2rem; line-height: 1.15; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 1.3rem; }
h3 { margin: 0 0 6px; font-size: .95rem; }
section { padding: 26px 0 6px; border-top: 1px solid var(--rule); margin-top: 26px; }
.quiet { color: var(--quiet); font-size: .88rem; margin: 0 0 10px; max-width: 100ch; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(158px, 1fr)); gap: 10px; }
.facts div { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 9px 13px; }
.facts b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.facts span { color: var(--quiet); font-size: .83rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 225px), 1fr)); gap: 26px 36px; }
.bars { width: 100%; border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; }
.bars td { padding: 2px 0; vertical-align: middle; }
.bars td:first-child { white-space: nowrap; padding-right: 10px; color: var(--quiet); width: 1%; text-align: right; }
.bars td:last-child { white-space: nowrap; padding-left: 8px; width: 1%; text-align: right; }
.bars i { display: block; height: 13px; background: var(--bar); border-radius: 2px; min-width: 1px; }
.rows { display: flex; flex-wrap: wrap; gap: 14px 24px; }
.row { display: flex; gap: 3px; align-items: flex-start; max-width: 100%; overflow-x: auto; }
figure { margin: 0; flex: none; }
figure img { display: block; border-radius: 3px; }
figcaption { font-size: .76rem; color: var(--quiet); font-variant-numeric: tabular-nums; overflow: hidden;
  text-overflow: ellipsis; white-space: nowrap; }
.cut figure + figure { border-left: 4px solid var(--cut); padding-left: 3px; }
.table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
.table th, .table td { padding: 5px 22px 5px 0; border-bottom: 1px solid var(--rule); text-align: left; }
.table .num { text-align: right; }
"""


CHAR_PX = 6.6  # of a caption; rather too wide, what still does not fit is cut by the browser
BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


class Tile(NamedTuple):
    """A picture: its address (`data:`), its size in pixels, and what is written under it."""

    src: str
    width: int
    height: int
    text: str


class Group(NamedTuple):
    """A heading, what it means, and rows of pictures that belong side by side."""

    title: str
    note: str
    rows: Sequence[Sequence[Tile]]
    kind: str = ""


def render(corpus: str, stats: dict[str, Any], groups: Sequence[Group], leakage: Sequence[str]) -> str:
    """The page; `stats` is what stats.json says, `leakage` a line for each benchmark that was compared."""
    videos = stats["videos"]
    title = f"{corpus}: {_count(videos['all'])} videos, {_duration(stats['hours'] * 3600)}"
    sections = [
        f'<div class="facts">{"".join(_fact(*fact) for fact in _facts(stats))}</div>',
        _section("Lengths, sizes, gaps", f'<div class="charts">{"".join(_charts(stats))}</div>'),
        _section("Draws", _draws(stats)),
        *(_section(group.title, _group(group)) for group in groups if group.rows),
        _section("Classes and tracks", _objects(stats.get("objects"))),
        _section("Leakage into benchmarks", _lines(leakage or ["No benchmark was given, so nothing was compared."])),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<title>{escape(title)}</title><style>{STYLE}</style></head>\n'
        f'<body><main><p class="mark">Longtake · index</p><h1>{escape(title)}</h1>\n'
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _facts(stats: dict[str, Any]) -> list[tuple[str, str]]:
    videos, pictures = stats["videos"], stats["pictures"]
    static = pictures["share_static"]
    facts = [
        (_count(stats["frames"]["all"]), "frames"),
        (_count(videos["train"]), "videos to train on"),
        (_count(videos["val"]), "held out"),
        (_count(videos["excluded"]), "left out, in a benchmark"),
        (_count(videos["bad"]), "unreadable"),
        (_count(videos["copies"]), "copies of another"),
        (_count(stats["segments"]["cuts"]), "cuts found"),
        (_bytes(stats["bytes"]), "of pictures"),
        ("–" if static is None else f"{static:.1%}", "of seconds stand still"),
        (f"{pictures['share_without_texture']:.1%}", "of pictures are empty"),
    ]
    if "objects" in stats:
        facts += [(_count(stats["objects"]["tracks"]), "tracks"), (_count(stats["objects"]["categories"]), "classes")]
    return facts


def _charts(stats: dict[str, Any]) -> list[str]:
    sizes = list(stats["resolution"].items())
    return [
        _chart("Length of a video", "", [_bin(entry, _duration) for entry in stats["video_s"]["histogram"]]),
        _chart("Stretch without a cut", "", [_bin(entry, _duration) for entry in stats["segments"]["histogram"]]),
        _chart("Between two frames", "", [_bin(entry, _duration) for entry in stats["gap_s"]["histogram"]]),
        _chart("Size of a stored frame", "the most frequent", sizes),
    ]


def _bin(entry: dict[str, Any], say: Any) -> tuple[str, int]:
    if entry["to"] is None:
        return f"{say(entry['from'])} +", entry["count"]
    return f"{say(entry['from'])} – {say(entry['to'])}", entry["count"]


def _chart(title: str, note: str, bars: Sequence[tuple[str, int]]) -> str:
    """Bars of counts; empty ones at both ends are left out."""
    used = [place for place, (_, count) in enumerate(bars) if count]
    bars = bars[used[0] : used[-1] + 1] if used else []
    most = max((count for _, count in bars), default=1)
    lines = "".join(
        f'<tr><td>{escape(name)}</td><td><i style="width:{100 * count / most:.1f}%"></i></td>'
        f"<td>{_count(count)}</td></tr>"
        for name, count in bars
    )
    said = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f'<div><h3>{escape(title)}</h3>{said}<table class="bars">{lines}</table></div>'


def _draws(stats: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="num">{_count(draw["rows"])}</td><td class="num">{draw["k"]}</td>'
        f'<td class="num">{_count(draw["videos"])}</td></tr>'
        for name, draw in sorted(stats["draws"].items())
    )
    head = '<tr><th>draw</th><th class="num">rows</th><th class="num">frames a row</th><th class="num">videos</th></tr>'
    return f'<table class="table">{head}{rows}</table>'


def _group(group: Group) -> str:
    rows = "".join(f'<div class="row {group.kind}">{"".join(map(_tile, row))}</div>' for row in group.rows)
    return f'<p class="quiet">{escape(group.note)}</p><div class="rows">{rows}</div>'


def _tile(tile: Tile) -> str:
    text = escape(tile.text)
    picture = f'<img src="{tile.src}" width="{tile.width}" height="{tile.height}" alt="{text}" loading="lazy">'
    told = escape(shortened(tile.text, lambda given: len(given) * CHAR_PX <= tile.width))
    caption = f'<figcaption style="max-width:{tile.width}px" title="{text}">{told}</figcaption>'
    return f"<figure>{picture}{caption}</figure>"


def _objects(objects: dict[str, Any] | None) -> str:
    if objects is None:
        return _lines(["The corpus tells of no objects."])
    boxes, frames, maps = (_count(objects[name]) for name in ("boxes", "frames", "label_maps"))
    line = f"{boxes} boxes in {frames} frames, {maps} label maps."
    charts = [
        _chart("Tracks of a class", "the most frequent", list(objects["tracks_of_category"].items())),
        _chart("Frames of a track", "", [_bin(entry, _count) for entry in objects["track_frames"]]),
        _chart("Objects in a frame", "", [_bin(entry, _count) for entry in objects["frame_objects"]]),
    ]
    return f'<p class="quiet">{line}</p><div class="charts">{"".join(charts)}</div>'


def _lines(lines: Sequence[str]) -> str:
    return "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _fact(value: str, name: str) -> str:
    return f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>"


def _count(value: float) -> str:
    return f"{value:,.0f}".replace(",", "\u202f")


def _bytes(value: float) -> str:
    unit, name = next(((unit, name) for unit, name in BYTES if value >= unit), BYTES[-1])
    return f"{value / unit:.3g} {name}"


def _duration(seconds: float) -> str:
    """0.5 s, 12 s, 3 min, 2 h: two digits are enough."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
