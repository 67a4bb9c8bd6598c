"""Joints: heat maps, decoding and PCK against literal renditions, the layout's errors, the task and its command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from components.common.errors import StageError
from components.evaluate.layouts.jhmdb import JOINTS, read_jhmdb, read_joints, write_joints
from components.evaluate.pose_metrics import decode, distances, heat_map, heat_maps, pck
from components.evaluate.tasks import pose
from tests.evaluate.small import evaluate
from tests.evaluate.small_videos import jhmdb, write_mat


def literal_patch(place: tuple[float, float], grid: tuple[int, int]) -> np.ndarray:
    """Sigma 0.5: a 4x4 table of exp(-(dx^2 + dy^2) / 0.5), offsets -2..1, laid about the nearest cell."""
    out = np.zeros(grid)
    starts, ends = [math.trunc(p - 1.5) for p in place], [math.trunc(p + 2.5) for p in place]
    if starts[0] >= grid[1] or starts[1] >= grid[0] or ends[0] < 0 or ends[1] < 0:
        return out
    for v in range(grid[0]):
        for u in range(grid[1]):
            dx, dy = u - starts[0] - 2, v - starts[1] - 2
            if starts[0] <= u < ends[0] and starts[1] <= v < ends[1] and -2 <= dx <= 1 and -2 <= dy <= 1:
                out[v, u] = math.exp(-(dx**2 + dy**2) / 0.5)
    return out


@settings(max_examples=80, deadline=None)
@given(st.floats(-6, 26), st.floats(-6, 26))
def test_heat_map_equals_the_literal_patch(x: float, y: float) -> None:
    np.testing.assert_allclose(heat_map(np.array([x, y]), (20, 18), 0.5), literal_patch((x, y), (20, 18)), atol=1e-12)


def test_heat_map_in_the_middle_and_at_the_side() -> None:
    middle = heat_map(np.array([10.4, 7.6]), (20, 20), 0.5)
    assert np.unravel_index(middle.argmax(), middle.shape) == (8, 10) and middle.max() == 1
    assert middle[8, 8] > 0 and middle[8, 11] > 0 and middle[8, 12] == middle[8, 7] == 0
    side = heat_map(np.array([1.2, 7.6]), (20, 20), 0.5)
    assert np.unravel_index(side.argmax(), side.shape) == (8, 2) and side[8, 3] == 0  # one cell in, one line less
    assert not heat_map(np.array([-9.0, 3.0]), (20, 20), 0.5).any()


def test_background_is_where_no_joint_is() -> None:
    maps = heat_maps(np.array([[100.0, 60.0], [-400.0, 0.0]]), (240, 320), (20, 20), 0.5)
    assert maps.shape == (20, 20, 3)
    np.testing.assert_array_equal(maps[..., 1], heat_map(np.array([100 / 16, 60 / 12]), (20, 20), 0.5))
    assert not maps[..., 2].any()  # misses the grid
    np.testing.assert_array_equal(maps[..., 0], (maps[..., 1:] == 0).all(-1))


def test_decode_is_the_weighted_mean_of_the_largest() -> None:
    rng = np.random.default_rng(0)
    soft = rng.random((6, 7, 4))
    soft[..., 2] = 0
    found = decode(soft, 5)
    for joint in range(3):
        cells = sorted(((soft[v, u, joint + 1], u, v) for v in range(6) for u in range(7)), reverse=True)[:5]
        total = sum(w for w, _, _ in cells)
        expected = [-1, -1] if total == 0 else [sum(w * c[i] for w, *c in cells) / total for i in (0, 1)]
        np.testing.assert_allclose(found[joint], expected, atol=1e-12)


def test_a_decoded_heat_map_is_its_cell() -> None:
    """Exact with one cell; the mean of five leans to the side of the patch that has more of it."""
    soft = heat_maps(np.array([[7 * 16.0, 9 * 16.0]]), (320, 320), (20, 20), 0.5)
    np.testing.assert_allclose(decode(soft, 1), [[7, 9]])
    np.testing.assert_allclose(decode(soft, 5), [[7, 9]], atol=1e-12)  # a cross: symmetrical


def literal_pck(pairs: list[tuple[np.ndarray, np.ndarray]], alpha: float) -> tuple[list[float], float]:
    """Frame by frame and joint by joint, as the released script goes."""
    near: list[list[bool]] = [[] for _ in range(15)]
    for truth, predicted in pairs:
        for t in range(1, len(truth)):
            seen = [j for j in range(15) if predicted[t, j, 0] >= 0]
            if not seen:
                continue
            low, high = ([pick(truth[t, j, i] for j in seen) for i in (0, 1)] for pick in (min, max))
            size = 0.6 * math.dist(low, high)
            for j in seen:
                d = math.dist(predicted[t, j], truth[t, j])
                near[j].append(d <= alpha * size if size > 0 else False)
    shares = [sum(of) / len(of) if of else math.nan for of in near]
    told = [share for share in shares if not math.isnan(share)]
    return shares, sum(told) / len(told)


def poses(seed: int, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, 300, (n_frames, 15, 2))
    predicted = truth + rng.normal(0, 40, truth.shape) + 60
    predicted[rng.random((n_frames, 15)) < 0.15] = -1
    predicted[n_frames // 2, 1:] = -1  # one joint left: a person without extent
    return truth, predicted


@pytest.mark.parametrize("seed", range(3))
def test_pck_equals_the_literal_one(seed: int) -> None:
    pairs = [poses(seed, 6), poses(seed + 9, 4)]
    pairs[0][1][:, 4] = pairs[1][1][:, 4] = -1  # never found
    metrics, rows = pose.score(pairs, pose.Args.model_validate({}))
    for alpha in (0.1, 0.2, 0.3, 0.4, 0.5):
        shares, mean = literal_pck(pairs, alpha)
        assert metrics[f"pck_{alpha}"] == pytest.approx(mean, abs=1e-12)
        for row, share in zip(rows, shares, strict=True):
            assert (row[f"pck_{alpha}"] is None) if math.isnan(share) else row[f"pck_{alpha}"] == pytest.approx(share)
    assert rows[4]["scored"] == 0 and rows[4]["lost"] == 8 and [row["joint"] for row in rows] == JOINTS


def test_perfect_joints_and_the_first_frame() -> None:
    truth, _ = poses(0, 5)
    wrong_at_first = truth.copy()
    wrong_at_first[0] += 500
    assert pose.score([(truth, wrong_at_first)], pose.Args.model_validate({}))[0]["pck_0.1"] == 1.0


def test_lost_joints_may_count_as_wrong() -> None:
    truth, _ = poses(0, 3)
    predicted = truth.copy()
    predicted[1, :5] = -1
    assert np.isnan(distances(truth, predicted, 0.6, "left_out")[0, :5]).all()
    shares = pck(distances(truth, predicted, 0.6, "wrong"), [0.1])[0]
    assert shares.tolist() == [0.5] * 5 + [1.0] * 10


def test_layout(tmp_path: Path) -> None:
    clips = read_jhmdb(jhmdb(tmp_path))
    assert [(c.action, c.name, len(c.frames), c.joints.shape) for c in clips] == [
        ("walk", "w1", 5, (5, 15, 2)),
        ("wave", "v1", 5, (5, 15, 2)),
    ]
    assert [c.name for c in read_jhmdb(tmp_path, part="train")] == ["w2"]
    (tmp_path / "Rename_Images/wave/v1/00006.png").write_bytes(
        (tmp_path / "Rename_Images/wave/v1/00005.png").read_bytes()
    )
    assert len(read_jhmdb(tmp_path)[1].frames) == 5  # a frame beyond the last pose
    write_joints(tmp_path / "again.mat", clips[0].joints)
    np.testing.assert_allclose(read_joints(tmp_path / "again.mat"), clips[0].joints, atol=1e-12)


W1 = "joint_positions/walk/w1/joint_positions.mat"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda r: (r / "Rename_Images/walk/w1/00005.png").unlink(), "clip w1 has 4 frames and 5 poses"),
        (lambda r: (r / W1).unlink(), "no joint positions: .*w1"),
        (lambda r: (r / W1).write_bytes(b"MATLAB" * 60), "not a readable .mat"),
        (lambda r: write_mat(r / W1, np.zeros((4, 14, 2))), r"it is \(2, 14, 4\)"),
        (lambda r: write_mat(r / W1, np.full((5, 15, 2), np.nan)), "not finite"),
        (lambda r: (r / "splits/walk_test_split1.txt").write_text("w1.avi\n"), "line 1 is not `<clip>.avi 1`"),
        (lambda r: (r / "splits/walk_test_split1.txt").write_text("w9.avi 2\n"), "no joint positions: .*w9"),
        (lambda r: [f.write_text("a.avi 1\n") for f in (r / "splits").iterdir()], "split 1 has no test clips"),
        (lambda r: (r / "splits").rename(r / "sub_splits"), "not in JHMDB layout, no splits folder"),
    ],
)  # fmt: skip
def test_broken_layouts(harm, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    harm(jhmdb(tmp_path))
    with pytest.raises(StageError, match=message):
        read_jhmdb(tmp_path)


def test_published_constants() -> None:
    cropmae, crw = (pose.Args.model_validate({"protocol": name}) for name in ("cropmae", "crw"))
    assert pose.Args.model_validate({}) == cropmae
    assert (cropmae.input_px, cropmae.context_frames, cropmae.radius_cells, cropmae.top_k) == ((320, 320), 20, 20, 7)
    assert (cropmae.temperature, cropmae.sigma_cells, cropmae.decode_cells, cropmae.box_share) == (0.7, 0.5, 5, 0.6)
    assert (crw.context_frames, crw.radius_cells, crw.top_k, crw.temperature, crw.decode_cells) == (7, 12, 10, 0.05, 3)


def test_task_and_command_agree(model: Path, tmp_path: Path) -> None:
    root = jhmdb(tmp_path / "b")
    assert evaluate(tmp_path, "pose", model, root) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["primary"] == "pck_0.1" and 0 <= found["metrics"]["pck_0.1"] <= found["metrics"]["pck_0.5"] <= 1
    assert found["data_variant"] == "split 1, test: 2 clips, 10 frames"
    rows = pq.read_table(tmp_path / "out/details.parquet").to_pylist()
    assert [row["joint"] for row in rows] == JOINTS
    assert [row["clip"] for row in pq.read_table(tmp_path / "out/clips.parquet").to_pylist()] == ["w1", "v1"]
    with Image.open(tmp_path / "out/w1.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 5
    argv = ["score", "--gt", root, "--pred", tmp_path / "out/predictions", "--json", tmp_path / "s.json"]
    assert pose.score_main("pose", "", pose._arguments, pose._score, [str(word) for word in argv]) == 0
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["metrics"] == found["metrics"] and again["joints"] == rows


def test_a_still_clip_keeps_its_joints(model: Path, tmp_path: Path) -> None:
    root = jhmdb(tmp_path / "b")
    for folder in root.glob("Rename_Images/*/*"):
        files = sorted(folder.iterdir())
        for file in files[1:]:
            file.write_bytes(files[0].read_bytes())
    changes = {"top_k": 1, "input_px": [64, 96]}
    assert evaluate(tmp_path, "pose", model, root, **changes) == 0
    for file in (tmp_path / "out/predictions").rglob("*.mat"):
        joints = read_joints(file)
        np.testing.assert_allclose(joints, joints[:1].repeat(5, 0), atol=1e-4)
