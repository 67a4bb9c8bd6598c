"""Proposals matched to objects, against a literal rendition of the official steps that tries every match."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.optimize import linear_sum_assignment

from components.common.errors import StageError
from components.evaluate.davis_unsupervised import match, pair_scores, score_unsupervised
from components.evaluate.tasks import vos
from tests.evaluate.small import davis, real_data, write_labels
from tests.evaluate.test_davis_metrics import fast_edges, literal_f, literal_j, scene


def literal(truth: list[np.ndarray], predicted: list[np.ndarray]) -> list[np.ndarray]:
    """J and F (objects, frames) under the best of all one-to-one matches; void removed from both sides."""
    n_objects = int(np.where(truth[0] == 255, 0, truth[0]).max())
    n_proposals = max(n_objects, *(int(p.max()) for p in predicted))
    j, f = (np.zeros((n_proposals, n_objects, len(truth))) for _ in range(2))
    for t, (true, found) in enumerate(zip(truth, predicted, strict=True)):
        known = true != 255
        for p, i in itertools.product(range(n_proposals), range(n_objects)):
            a, b = (true == i + 1) & known, (found == p + 1) & known
            j[p, i, t], f[p, i, t] = literal_j(a, b), literal_f(a, b, fast_edges)
    both = (j.mean(-1) + f.mean(-1)) / 2
    matches = itertools.permutations(range(n_proposals), n_objects)
    best = max(matches, key=lambda chosen: sum(both[p, i] for i, p in enumerate(chosen)))
    return [np.stack([table[p, i] for i, p in enumerate(best)]) for table in (j, f)]


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_literal_rendition(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    truth, predicted = ([scene(rng, 40, 60, n) for _ in range(4)] for n in (3, 2 + seed))
    truth[0][:4, :4] = 3  # so that there are three objects
    for frame in truth:
        frame[rng.random(frame.shape) < 0.02] = 255
    for t, (true, found) in enumerate(zip(truth, predicted, strict=True)):
        write_labels(tmp_path / "gt/a" / f"{t:05d}.png", true)
        write_labels(tmp_path / "pred/a" / f"{t:05d}.png", found)
    scores = score_unsupervised(tmp_path / "gt", tmp_path / "pred", ["a"])
    j, f = literal(truth, predicted)
    assert [row["object"] for row in scores.objects] == [1, 2, 3] and len(scores.frames) == 12
    assert scores.summary()["j_mean"] == pytest.approx(j.mean(), abs=1e-12)
    assert scores.summary()["f_mean"] == pytest.approx(f.mean(), abs=1e-12)


def test_names_of_proposals_do_not_matter_and_all_frames_count(tmp_path: Path) -> None:
    masks = davis(tmp_path) / "Annotations/480p"
    for file in masks.rglob("*.png"):
        labels = np.array(Image.open(file))
        write_labels(tmp_path / "pred" / file.relative_to(masks), np.array([0, 7, 3])[labels])
    scores = score_unsupervised(masks, tmp_path / "pred")
    assert scores.summary()["jf_mean"] == 1.0
    assert [(row["object"], row["proposal"]) for row in scores.objects] == [(1, 7), (2, 3)] * 2
    assert sorted({row["frame"] for row in scores.frames}) == [f"{t:05d}" for t in range(5)]
    write_labels(tmp_path / "pred/a/00004.png", np.zeros((36, 52)))
    assert score_unsupervised(masks, tmp_path / "pred").summary()["j_mean"] == pytest.approx(0.9)


def test_bad_proposals(tmp_path: Path) -> None:
    masks = davis(tmp_path) / "Annotations/480p"
    write_labels(masks / "a/00002.png", np.full((36, 52), 21))
    with pytest.raises(StageError, match="proposal 21 in sequence a, 20 are allowed"):
        score_unsupervised(masks, masks)
    assert len(score_unsupervised(masks, masks, ["a"], max_proposals=21).objects) == 2
    with pytest.raises(StageError, match="no masks of sequence a"):
        score_unsupervised(masks, tmp_path / "nowhere")


def test_command(tmp_path: Path) -> None:
    root = davis(tmp_path / "gt")
    (root / "Annotations").rename(root / "Annotations_unsupervised")
    pred, out = root / "Annotations_unsupervised/480p", tmp_path / "out.json"
    argv = ["score", "--gt", root, "--pred", pred, "--json", out, "--setting", "unsupervised"]
    line = [str(word) for word in argv]
    assert vos.score_main("vos", "", vos._arguments, vos._score, line) == 0
    assert json.loads(out.read_text())["metrics"]["jf_mean"] == 1.0


def test_real_sequences() -> None:
    """Every proposal against every object of PUMaVOS' two."""
    folder = real_data("pumavos") / "Annotations/480p/caps"
    frames = [np.array(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    for truth, predicted in itertools.pairwise(frames[1:]):
        found = pair_scores(truth, predicted, 2, 2)
        for p, i in itertools.product(range(2), range(2)):
            a, b = truth == i + 1, predicted == p + 1
            assert found[0, p, i] == pytest.approx(literal_j(a, b), abs=1e-9)
            assert found[1, p, i] == pytest.approx(literal_f(a, b, fast_edges), abs=1e-9)


def test_equal_matchings_are_told_apart_as_the_official_code_does() -> None:
    """Matchings of one sum: which is taken hangs on the last bit, and that on the order of the additions."""
    told = 0
    for seed in range(400):
        values = np.random.default_rng(seed).choice([0, 1 / 3, 0.5, 1.0], (2, 3, 3, 3))
        official = linear_sum_assignment(-(np.mean(values[0], axis=2) + np.mean(values[1], axis=2)) / 2)
        assert match(values) == np.argsort(official[1]).tolist()
        told += match(values) != np.argsort(linear_sum_assignment(-values.mean((0, 3)))[1]).tolist()
    assert told > 5


def test_match_takes_the_best_sum() -> None:
    values = np.array([[0.9, 0.8], [0.7, 0.1], [0.0, 0.0]])[None, ..., None].repeat(2, 0)  # proposals x objects
    assert match(values) == [1, 0]
