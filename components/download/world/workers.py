"""Worker processes that end with their parent, however it ends."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from components.common.cores import usable_cores
from components.common.errors import ExitCode, StageError


class Runnable(Protocol):
    """Something a worker can be sent and told to do."""

    def run(self) -> int: ...


def run_jobs(jobs: Sequence[Runnable], workers: int) -> Iterator[int]:
    """Run every job, yielding results as they come. One worker: in this process; 0: one per core."""
    count = min(workers or usable_cores(), len(jobs))
    if count <= 1:
        _quiet()
        yield from (job.run() for job in jobs)
        return
    # spawn, not fork: the stage has threads of its own (tracking), and a fork copies their locks as they are
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start) as pool:
        try:
            yield from _results(pool, jobs, 2 * count)
        except BrokenProcessPool:
            do = "is there memory for this many workers?"
            raise StageError("a worker was killed", do=do, code=ExitCode.NO_ROOM) from None
        except BaseException:
            # an interrupt or an error: do not wait for clips that nobody will use
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            raise


def _results(pool: ProcessPoolExecutor, jobs: Sequence[Runnable], ahead: int) -> Iterator[int]:
    """Keep `ahead` jobs handed out: thousands of clips do not become thousands of futures."""
    waiting = iter(jobs)
    running: set[Future[int]] = set()
    while True:
        for job in waiting:
            running.add(pool.submit(job.run))
            if len(running) >= ahead:
                break
        if not running:
            return
        done, running = wait(running, return_when=FIRST_COMPLETED)
        yield from (future.result() for future in done)


def _start() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _quiet()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _quiet() -> None:
    """The pictures are small and there is a process per core: OpenCV's own threads would only get in the way."""
    import cv2

    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
