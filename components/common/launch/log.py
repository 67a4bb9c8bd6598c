"""Rank 0's lines, as they come: read again and again, since a stream that breaks loses what was said meanwhile."""

from __future__ import annotations

import time
from typing import Any

from components.common.launch.kube import Kube

OVERLAP_S = 5  # clocks of API and machine differ, and `since` counts whole seconds
LAST_LINES = 60
FIRST_LINES = 1000  # of a pod that is seen for the first time: a launcher that comes back reads no log of weeks


class Log:
    """The log of one node (started anew, it has a new pod), each line shown once."""

    def __init__(self, cluster: Kube) -> None:
        self._cluster = cluster
        self._pod, self._looked = "", 0.0
        self._stamp, self._at_stamp = "", set[str]()  # the last line's time, and the lines that have it

    def show(self, pod: Any) -> None:
        """Print what is new."""
        if pod.metadata.name != self._pod:
            self._pod, self._stamp, self._at_stamp = pod.metadata.name, "", set()
        for line in self._new():
            stamp, _, text = line.partition(" ")  # times have a fixed width, so that they compare as text
            if stamp > self._stamp:
                self._stamp, self._at_stamp = stamp, set()
            if stamp == self._stamp and text not in self._at_stamp:
                self._at_stamp.add(text)
                self._print(text)

    def _print(self, text: str) -> None:
        print(text, flush=True)

    def _new(self) -> list[str]:
        now = time.monotonic()
        if not self._stamp:
            lines = self._cluster.log(self._pod, tail=FIRST_LINES)
        else:
            lines = self._cluster.log(self._pod, since_s=round(now - self._looked) + OVERLAP_S)
        if lines:
            self._looked = now
        return lines


def last_lines(cluster: Kube, pod: str) -> list[str]:
    """What a node said in the end: a traceback's length."""
    return [line.partition(" ")[2] for line in cluster.log(pod, tail=LAST_LINES)]
