"""What one node of the DAG needs, whatever machine it runs on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Artifact:
    """An output on disk or in the object store."""

    bytes: float
    files: float = 1


@dataclass(frozen=True)
class Work:
    """A node's work.

    Attributes:
        start_s: seconds until the first useful instruction: Python and its imports.
        core_s: seconds of work that one core would take, divisible among `width` of them.
        serial_s: seconds that one core works alone, beside idle ones.
        flops: floating-point operations for the device; a machine without one does them on its cores.
        compiled: the operations run in compiled blocks (a GPU reaches a larger share of its peak).
        width: pieces that can be worked on side by side (videos, pictures).
        pods: parts that a cluster runs as pods of their own.
        memory_bytes: peak memory of the process and its workers.
        shm_bytes: of it in /dev/shm.
        scratch_bytes: disk used while it runs, besides inputs and outputs.
        outs: what it leaves, by path.
        facts: figures worth a line in the report.
    """

    start_s: float = 0.0
    core_s: float = 0.0
    serial_s: float = 0.0
    flops: float = 0.0
    compiled: bool = False
    width: float = 1
    pods: int = 1
    memory_bytes: float = 0.0
    shm_bytes: float = 0.0
    scratch_bytes: float = 0.0
    outs: dict[str, Artifact] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def out_bytes(self) -> float:
        """All outputs together."""
        return sum(out.bytes for out in self.outs.values())
