"""A published recipe on miniatures of its datasets, stage by stage in one process, with nothing but sizes changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from components.common.config import deep_merge, parse, section_of
from components.common.hashing import json_hash
from components.common.stage import main
from tests.download import miniatures

STEPS = 3

# What a run of a recipe here has instead of the published values; all else is as the recipe says. Of these, only what
# a section has is taken.
ENCODER = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2}  # heads as published
TRAINER = {
    "batch_size": 4, "max_steps": STEPS, "warmup_epochs": 0,  # length: a warm-up of 10 epochs would not fit
    "compile": False, "processes": 1, "workers": 0, "log_every_steps": 1,  # the machine's
}  # fmt: skip
ARGS = {
    "out_dim": 32, "patch_out_dim": 24, "hidden_dim": 32, "hidden_dims": [32, 24], "bottleneck_dim": 16,  # heads
    "global_size_px": 32, "local_size_px": 16, "local_crops": 2, "clip_crop_px": 48,  # views
    "koleo_group": 2,  # of a batch of 4
    "warmup_teacher_temp_epochs": 0, "warmup_patch_temp_epochs": 0,  # length
}  # fmt: skip
EVALUATE: dict[str, dict[str, Any]] = {
    "knn": {"resize_px": 32, "crop_px": 32},
    "vos": {"input_px": 64},
    "voc_linear": {"input_px": 32, "label_px": 16, "epochs": 2},
}
STRICT = {"strict": True}  # a task that cannot be done fails the test


def small(params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a recipe at the size of a test."""
    made = dict(params)
    for method in params["methods"]:
        own = section_of(params, "pretrain", method)
        changes = {
            "encoder": {"model_args": ENCODER, "start_from": None},  # released weights need the network
            "trainer": {name: value for name, value in TRAINER.items() if own["trainer"].get(name) != 0},
            "args": {name: value for name, value in ARGS.items() if own["args"].get(name) is not None},
        }
        made = deep_merge(made, {"pretrain": {method: changes}})
    return deep_merge(made, {"evaluate": {task: {**EVALUATE[task], **STRICT} for task in params["tasks"]}})


def changed(model: Any, published: Mapping[str, Any], ours: Mapping[str, Any]) -> set[str]:
    """Names of the parsed values that differ between two sections of a stage, `a.b` for b in a."""
    before, after = (dict(_flat(parse(model, each, "a recipe").model_dump())) for each in (published, ours))
    return {name for name in before.keys() | after.keys() if before.get(name, "-") != after.get(name, "-")}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def stage(name: str, keys: Mapping[str, str], params: Mapping[str, Any], **paths: object) -> None:
    """A stage in this process on its section of `params`; its last key selects it."""
    module = import_module(f"components.{name}.__main__")
    key = list(keys.values())[-1]
    section = json.dumps(section_of(params, name, key))
    places = [word for port, path in paths.items() for word in (f"--{port}", str(path))]
    named = [word for flag, value in keys.items() for word in (f"--{flag}", value)]
    assert main(module.STAGE, module.run, [*named, *places, "--param", f"{name}.{key}={section}"]) == 0, (name, key)


@dataclass
class Shelf:
    """Miniatures, and what the data stages made of them; each made once for all recipes that say the same of it."""

    folder: Path
    made: set[Path] = field(default_factory=set)

    def packed(self, card: str) -> Path:
        """The miniature of a card's dataset, as it is published."""
        place = self.folder / "packed" / card
        if self._is_new(place):
            miniatures.write(card, place, self.folder / "work" / card)
        return place

    def dataset(self, name: str, params: Mapping[str, Any]) -> Path:
        """A dataset as the stage download leaves it."""
        entry = params["download"][name]
        entry = {"card": entry["card"], "path": str(self.packed(entry["card"]))}
        place = self.folder / "data" / entry["card"]
        if self._is_new(place):
            stage("download", {"dataset": name}, {"download": {name: entry}}, data=place)
        return place

    def frames(self, corpus: str, params: Mapping[str, Any]) -> Path:
        """The frame store of a corpus."""
        videos, told = self.dataset(corpus, params), section_of(params, "extract_frames", corpus)
        place = self.folder / "frames" / json_hash([str(videos), told])
        if self._is_new(place):
            stage("extract_frames", {"corpus": corpus}, params, videos=videos, frames=place)
        return place

    def _is_new(self, place: Path) -> bool:
        new = place not in self.made
        self.made.add(place)
        return new


def index(corpus: str, params: Mapping[str, Any], shelf: Shelf, folder: Path) -> Path:
    """Source to index of a corpus."""
    frames = shelf.frames(corpus, params)
    place = folder / "index"
    stage("index", {"corpus": corpus}, params, frames=frames, index=place, leakage=folder / "leakage.json")
    return place


def train(params: Mapping[str, Any], shelf: Shelf, folder: Path) -> dict[str, Path]:
    """Source to models: every method of the recipe, from the untrained start where it needs one."""
    corpus, models = params["corpus"], {}
    places = {"frames": shelf.frames(corpus, params), "index": index(corpus, params, shelf, folder)}
    for method in params["methods"]:
        models[method] = folder / "models" / method
        start = {"start": models["random"]} if method == "timet" else {}  # tunes an encoder that has learnt
        stage("pretrain", {"method": method}, params, **places, **start, model=models[method])
    return models


def judge(task: str, method: str, model: Path, params: Mapping[str, Any], shelf: Shelf, folder: Path) -> dict[str, Any]:
    """The document that a task of the recipe leaves of a model."""
    file = folder / "metrics" / f"{method}-{task}.json"
    details = folder / "results" / f"{method}-{task}"
    places = {"model": model, "benchmark": shelf.dataset(task, params), "metrics": file, "details": details}
    stage("evaluate", {"method": method, "task": task}, params, **places)
    found: dict[str, Any] = json.loads(file.read_text())
    return found
