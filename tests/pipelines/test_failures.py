"""One evaluation that fails takes no other with it: the real DVC over the real evaluate, compare and promote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from components.common.model_folder import write_model_folder
from pipelines import failures, repro
from pipelines.dag import Dag, Node
from pipelines.workspace import ROOT, make_workspace
from tests.evaluate.small import SMALL, davis, imagenet
from tests.pipelines import tiny

ARCHITECTURE = "vit_tiny_patch16_224"
MODEL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
# No memory for one evaluation, as if another process had taken it: nothing that the stage depends on knows of it.
FAULT = """
import os, sys
if os.environ.get("SHORT_OF_MEMORY") and {"dino", "knn"} <= set(sys.orig_argv):
    import PIL.Image
    def convert(self, *args, **kwargs):
        raise MemoryError
    PIL.Image.Image.convert = convert
"""


def judging_workspace(folder: Path) -> Path:
    """A workspace whose encoders and benchmarks are there already: the stages of dvc.yaml from evaluate on."""
    params = {
        "seed": 0,
        "methods": {"random": "", "dino": ""},
        "tasks": ["knn", "vos"],
        "corpus": "none",
        "evaluate": {task: SMALL[task] for task in ("knn", "vos")},
        "compare": {"curves": 0},
        "promote": {"model": "tiny", "rank_by": ["knn"], "exclude": ["random"]},
    }
    make_workspace(folder, params)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    kept = {name: stages[name] for name in ("evaluate", "compare", "promote")}
    corpus = "--frames data/frames/${corpus} --index data/index/${corpus} "
    kept["compare"]["cmd"] = kept["compare"]["cmd"].replace(corpus, "")
    kept["compare"]["deps"] = [path for path in kept["compare"]["deps"] if "${corpus}" not in path]
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": kept}))
    for seed, name in enumerate(params["methods"]):
        torch.manual_seed(seed)
        model = timm.create_model(ARCHITECTURE, **MODEL, num_classes=0, dynamic_img_size=True)
        (folder / "models" / name).mkdir(parents=True)
        write_model_folder(
            folder / "models" / name, model, architecture=ARCHITECTURE, model_args=MODEL, longtake={}, figures={}
        )
    imagenet(folder / "data/benchmarks/knn", n_classes=2, n_train=2, n_val=1)
    davis(folder / "data/benchmarks/vos", names=("a",), n_frames=4)
    return folder


def board(folder: Path) -> dict[str, dict[str, Any]]:
    """run -> task -> status (or value) of the leaderboard."""
    rows = json.loads((folder / "report/leaderboard.json").read_text())["rows"]
    return {row["run"]: {task: cell["status"] for task, cell in row["cells"].items()} for row in rows}


@pytest.mark.slow
def test_the_others_go_on_and_the_next_run_mends_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = judging_workspace(tmp_path / "world")
    (tmp_path / "fault").mkdir()
    (tmp_path / "fault/sitecustomize.py").write_text(FAULT)
    env = tiny.environment(folder, PYTHONPATH=str(tmp_path / "fault"))
    mask = folder / "data/benchmarks/vos/Annotations/480p/a/00002.png"
    whole = mask.read_bytes()
    mask.unlink()

    assert repro.reproduce(folder, {**env, "SHORT_OF_MEMORY": "1"}, []) == 0
    found = failures.failed(folder)
    assert set(found) == {"evaluate@dino-knn", "evaluate@dino-vos", "evaluate@random-vos"}
    assert "out of memory" in found["evaluate@dino-knn"] and "masks and frames" in found["evaluate@dino-vos"]
    assert board(folder) == {"random": {"knn": "ok"}, "dino": {"knn": "failed"}}
    text = (folder / "report/index.html").read_text()
    assert "dino on knn: failed, out of memory" in text and "random on vos: failed, masks and frames" in text
    decision = json.loads((folder / "promotion/decision.json").read_text())
    assert decision["outcome"] == "no candidate" and "knn failed: out of memory" in decision["not_ranked"]["dino"]
    capfd.readouterr()
    assert failures.tell(found, "what to do") == 1
    said = capfd.readouterr().out
    assert "3 evaluations failed (what to do)" in said and "evaluate@dino-knn: out of memory" in said

    mask.write_bytes(whole)  # mended: DVC sees it; the memory is there again: nothing DVC could see
    assert repro.reproduce(folder, env, []) == 0
    assert "once more: evaluate@dino-knn\n" in capfd.readouterr().out
    assert failures.failed(folder) == {} and failures.tell({}, "nothing") == 0
    assert board(folder) == {run: {"knn": "ok", "vos": "ok"} for run in ("random", "dino")}
    assert json.loads((folder / "promotion/decision.json").read_text())["candidate"]["run"] == "dino"


def test_only_what_the_targets_need_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("pretrain@a", "evaluate@a-knn", "evaluate@a-vos", "compare")
    nodes = tuple(Node(name, "", "", (), (), (), {}) for name in names)
    edges = {("pretrain@a", "evaluate@a-knn"), ("pretrain@a", "evaluate@a-vos")}
    edges |= {(f"evaluate@a-{task}", "compare") for task in ("knn", "vos")}
    monkeypatch.setattr(failures, "read_dag", lambda folder: Dag(nodes, frozenset(edges)))
    (tmp_path / "metrics").mkdir()
    for stem in ("a-knn", "a-vos", "gone-knn"):
        (tmp_path / f"metrics/{stem}.json").write_text('{"error": "out of\\nmemory"}')
    (tmp_path / "metrics/b-knn.json").write_text("{")
    assert failures.failed(tmp_path) == dict.fromkeys(("evaluate@a-knn", "evaluate@a-vos"), "out of memory")
    before = failures.stamps(tmp_path)
    both = ["evaluate@a-knn", "evaluate@a-vos"]
    assert failures.left_alone(tmp_path, before, []) == both
    assert failures.left_alone(tmp_path, before, ["evaluate@a-vos"]) == ["evaluate@a-vos"]
    assert failures.left_alone(tmp_path, before, ["pretrain"]) == []
    assert failures.left_alone(tmp_path, before, ["compare"]) == both
    assert failures.left_alone(tmp_path, {**before, "evaluate@a-knn": 0}, []) == ["evaluate@a-vos"]
