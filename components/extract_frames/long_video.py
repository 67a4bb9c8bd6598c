"""One video from its file to its place among the finished ones: whole, or in pieces where it is long."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from components.common.ffmpeg import Probe
from components.common.frame_store_writer import VideoRow
from components.extract_frames.extent import Extent
from components.extract_frames.find import Source
from components.extract_frames.finished import Finished, append, placed
from components.extract_frames.pieces import (
    Piece,
    PieceFrames,
    Plan,
    broken_borders,
    decode_piece,
    joined,
    plan_pieces,
    without,
)
from components.extract_frames.video import (
    FRAME,
    BadVideoError,
    Decoder,
    Extracted,
    bad_row,
    good_row,
    reason_of,
    sha256,
    timed,
)

Result = VideoRow | list[Callable[[], Any]]  # of a job: the video's row, or what is to be done before there is one


def start(source: Source, decoder: Decoder, finished: Finished) -> Result:
    """The first job of a video: a short one is done with it."""
    plan = _kept_plan(source, finished)
    if plan is None and (plan := plan_pieces(source, decoder)) is not None:
        _keep_plan(source, plan, finished)
    if plan is None or len(plan.pieces) < 2:
        return finished.make(source, decoder)
    return LongVideo(source, plan, decoder, finished).jobs()


class LongVideo:
    """A video whose pieces are jobs of their own; the last one that ends brings them together."""

    def __init__(self, source: Source, plan: Plan, decoder: Decoder, finished: Finished) -> None:
        self.source, self.plan, self.decoder, self.finished = source, plan, decoder, finished
        self._left, self._lock, self._trouble = 0, threading.Lock(), ""

    def jobs(self) -> list[Callable[[], Result]]:
        """What no earlier run has done."""
        names = self.finished.manifest
        todo: list[Callable[[], Result]] = []
        if self._hash_name not in names:
            todo.append(partial(self._one, self._hash))
        pieces = [piece for piece in self.plan.pieces if self._piece_name(piece) not in names]
        todo += [partial(self._one, partial(self._decode, piece)) for piece in pieces]
        self._left = len(todo)
        return todo or [self.join]

    def join(self) -> Result:
        """The video's row, or its pieces anew, fewer and longer, where borders do not hold."""
        if self._trouble:
            return bad_row(self.source, self._trouble)
        given = [self._given(piece) for piece in self.plan.pieces]
        broken = broken_borders(self.plan, given)
        if not broken:
            return self._joined([each for each in given if each is not None])
        self.plan = without(self.plan, broken)
        _keep_plan(self.source, self.plan, self.finished)
        if len(self.plan.pieces) == 1:
            return self.finished.make(self.source, self.decoder)
        return list(self.jobs())

    def _joined(self, given: list[PieceFrames]) -> VideoRow:
        places, ticks, cuts = joined(self.plan, given, self.decoder.params)
        reason = reason_of(next((each.damage for each in given if each.damage), ""))
        row = good_row(self.source, self.finished.manifest[self._hash_name], self.plan.header, reason)
        frames = timed(places, ticks.astype(np.float64), cuts.astype(np.float64), self.plan.tick_s, row.fps)
        self.finished.keep(self.source, Extracted(row, frames))
        return row

    def _one(self, work: Callable[[], None]) -> Result:
        """Do one job of several; the last one to end goes on to the join."""
        try:
            if not self._trouble:
                work()
        except BadVideoError as bad:
            self._trouble = str(bad)
        with self._lock:
            self._left -= 1
            return [] if self._left else [self.join]

    def _hash(self) -> None:
        self.finished.manifest.add(self._hash_name, sha256(self.source))

    def _decode(self, piece: Piece) -> None:
        with self.finished.packs.one() as pack:
            first = pack.end
            given, value = decode_piece(self.source, piece, self.plan, self.decoder, pack), None
            if given is not None:
                columns = {"frames": placed(given.frames, pack, first), "ticks": given.ticks, "cuts": given.cuts}
                places = {name: append(pack, values) for name, values in columns.items()}
                value = {**places, "border": given.border, "damage": given.damage}
        self.finished.manifest.add(self._piece_name(piece), value)

    def _given(self, piece: Piece) -> PieceFrames | None:
        return kept_piece(self.finished, self._piece_name(piece))

    @property
    def _hash_name(self) -> str:
        return f"hash {self.source.key} {self.plan.state[0]}"

    def _piece_name(self, piece: Piece) -> str:
        return f"piece {self.source.key} {piece.start} {piece.until} {self.plan.state[0]}"


def kept_piece(finished: Finished, name: str) -> PieceFrames | None:
    """What a piece gave; None where that was nothing that could be used."""
    entry = finished.manifest[name]
    if entry is None:
        return None
    dtypes: dict[str, Any] = {"frames": FRAME, "ticks": np.int64, "cuts": np.int64}
    columns = {part: np.frombuffer(finished.packs.read(*entry[part]), dtype) for part, dtype in dtypes.items()}
    border = tuple((int(at), str(checksum)) for at, checksum in entry["border"])
    return PieceFrames(**columns, border=border, damage=entry["damage"])


def _keep_plan(source: Source, plan: Plan, finished: Finished) -> None:
    finished.manifest.add(f"plan {source.key}", dataclasses.asdict(plan))


def _kept_plan(source: Source, finished: Finished) -> Plan | None:
    """How an earlier run cut the video; None where it did not, or the file has another size by now.

    Its time may be another one: a pod that starts again has its inputs copied anew. What they hold is the same, or this
    were another cache.
    """
    name = f"plan {source.key}"
    if name not in finished.manifest:
        return None
    said = finished.manifest[name]
    said |= {field: tuple(said[field]) for field in ("tick_s", "state")}
    said |= {"pieces": tuple(Piece(*piece) for piece in said["pieces"]), "header": Probe(**said["header"])}
    said["extent"] = Extent(**said["extent"]) if said["extent"] else None
    plan, state = Plan(**said), source.state()
    return dataclasses.replace(plan, state=state) if plan.state[:1] == state[:1] else None
