"""What a loader's worker gets of an object, the only place where a test unpickles."""

from __future__ import annotations

import pickle
from typing import TypeVar

T = TypeVar("T")


def in_a_worker(sent: T) -> T:
    """The object as `multiprocessing` hands it to a process that starts anew.

    That is pickle, which runs what it reads; here it reads what this very call has written and nothing from outside.
    """
    received: T = pickle.loads(pickle.dumps(sent))
    return received
