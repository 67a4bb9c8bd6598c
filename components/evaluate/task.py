"""What an evaluation is: parameters with the published constants, and a function from encoder to figures."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from components.common.config import StageParams, nearest
from components.common.errors import StageError
from components.common.progress import Progress
from components.evaluate import tasks
from components.evaluate.sizes import AnyFit

if TYPE_CHECKING:
    from components.common.encoder import Encoder
    from components.evaluate.feature_store import FeatureStore

Row = dict[str, Any]


class TaskParams(StageParams):
    """What every task takes besides its protocol's constants."""

    beside_protocol: ClassVar[frozenset[str]] = frozenset(
        {"seed", "device", "batch_images", "workers", "pictures", "features_gib", "strict", "retry"}
    )
    published: ClassVar[dict[str, dict[str, Any]]] = {}  # constants by protocol, where a task has several; first: usual

    device: Literal["auto", "cpu", "cuda"] = "auto"
    pos_quirk: bool = Field(False, description="resize the position table as DINO's code does, for its own weights")
    fit: AnyFit = Field("round", description="input sides that are no multiple of the patch: round down, or refuse")
    batch_images: int = Field(64, gt=0, description="images per forward pass; changes speed and memory, no protocol")
    workers: int = Field(2, gt=0, description="threads that read and resize pictures")
    pictures: int = Field(4, ge=0, description="example pictures to draw")
    features_gib: float = Field(32.0, ge=0, description="disk for features that tasks share; 0 keeps none")
    strict: bool = Field(False, description="a task that cannot be done fails the stage; else its metrics say why")
    retry: int = Field(0, ge=0, description="raise it to do again what failed by chance, on a cluster say")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_protocol(cls, section: dict[str, Any]) -> dict[str, Any]:
        """A key given beside `protocol` changes one of its constants."""
        name = section.get("protocol", next(iter(cls.published), ""))
        return {**cls.published.get(name, {}), **section}


@dataclass(frozen=True)
class Job:
    """The surroundings of one evaluation.

    Attributes:
        name: the encoder's name, for titles.
        details: empty folder for predictions and pictures.
        cache: folder that survives a killed process; belongs to this encoder, benchmark and parameters.
        device: torch device.
        log: prints one line for people.
        progress: (total, unit) -> Progress.
        features: the features that tasks share, where there is a place for them.
    """

    name: str
    details: Path
    cache: Path
    device: str
    log: Callable[[str], None]
    progress: Callable[[int, str], Progress]
    features: FeatureStore | None = None


@dataclass
class TaskResult:
    """What a task found.

    Attributes:
        protocol: name of the published protocol and what differs from it.
        metrics: figure by name.
        primary: the figure that ranks encoders.
        data_variant: which data, in words (split, counts, sizes).
        rows: the details table, one row per class, object or image.
        tables: further tables by name.
        notes: what a reader of the figures must know.
    """

    protocol: str
    metrics: dict[str, float]
    primary: str
    data_variant: str
    rows: list[Row]
    tables: dict[str, list[Row]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    higher_is_better: bool = True


RunTask = Callable[["Encoder", Path, Any, Job], TaskResult]


@dataclass(frozen=True)
class Task:
    """A registered evaluation."""

    name: str
    Args: type[TaskParams]
    run: RunTask


TASKS: dict[str, Task] = {}


def task(name: str, args: type[TaskParams]) -> Callable[[RunTask], RunTask]:
    """Decorator of a task's `run(encoder, benchmark, args, job) -> TaskResult`."""

    def add(run: RunTask) -> RunTask:
        TASKS[name] = Task(name, args, run)
        return run

    return add


def get_task(name: str) -> Task:
    """The task of that name; StageError with the nearest known name."""
    known = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    if name not in known:
        raise StageError(f"no task '{name}'{nearest(name, known)}")
    importlib.import_module(f"{tasks.__name__}.{name}")
    return TASKS[name]
