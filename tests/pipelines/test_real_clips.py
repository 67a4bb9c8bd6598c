"""The line on real clips and real benchmarks, at a small size: the recipe of the README with fewer steps and pixels."""

import json

import pytest

from components.common.config import deep_merge
from pipelines.workspace import make_workspace, merged_params, recipe_file
from tests.pipelines import tiny

DATA = tiny.ROOT.parent / "shared" / "data"
SMALL = {
    "methods": ["random", "dino"],
    "extract_frames": {"clips": {"fps": 2, "short_side_px": 48}},
    "index": {"clips": {"draws": {"frame": {"offsets_s": [0]}}, "tolerance_s": 0.2}},
    "pretrain": deep_merge(tiny.TINY["pretrain"], {"shared": {"trainer": {"warmup_epochs": 0.1}}}),
    "evaluate": {"knn": {"resize_px": 40, "crop_px": 32}, "vos": {"input_px": 64, "pictures": 1}},
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real clips are not beside the project"),
]


def facts_of(folder):
    return {p: (p.stat().st_mtime_ns, p.stat().st_size, p.stat().st_mode) for p in folder.rglob("*")}


def test_real_clips_go_all_the_way(tmp_path):
    params = merged_params(recipe_file("real_clips"), [SMALL])
    folder = make_workspace(tmp_path / "world", params)
    before = facts_of(DATA)
    done = tiny.repro(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    board = json.loads((folder / "metrics" / "dino-vos.json").read_text())
    assert 0.0 < board["metrics"]["jf_mean"] < 1.0
    assert (folder / "report" / "index.html").exists()
    assert json.loads((folder / "promotion" / "decision.json").read_text())["outcome"] in ("promoted", "kept")
    assert facts_of(DATA) == before  # the originals are only read
