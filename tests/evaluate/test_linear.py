"""The linear probe: all rates at once equal one after the other, and what chooses never sees the test pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.common.encoder import load_encoder
from components.common.errors import StageError
from components.evaluate import linear_sweep
from components.evaluate.crops import random_box
from components.evaluate.features import normalised
from components.evaluate.layouts.imagenet import Labelled, read_imagenet
from components.evaluate.linear_data import augmented_batches, split, view
from components.evaluate.linear_sweep import Schedule, Sweep
from components.evaluate.score_cli import score_main
from components.evaluate.seeds import rng_of
from components.evaluate.tasks.linear import Args, _arguments, _score, features_of
from tests.evaluate.small import imagenet, write_image

HOW = Schedule((0.05, 0.5, 3.0), epochs=4, momentum=0.9, weight_decay=1e-3)


def blobs(n: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=generator)
    centres = torch.randn(4, 6, generator=torch.Generator().manual_seed(9))
    return centres[labels] + 0.7 * torch.randn(n, 6, generator=generator), labels


def batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
    features, labels = blobs()
    yield from zip(features.split(16), labels.split(16), strict=True)


def train(folder: Path, how: Schedule = HOW, stop_after: int | None = None) -> Sweep:
    def told(loss: float, top1: float) -> None:
        seen.append(top1)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    seen: list[float] = []
    held = blobs(30, seed=5)
    fresh = linear_sweep.start(6, 4, how, 0, "cpu")
    return linear_sweep.fit(fresh, batches, lambda: [held], how, folder / "s.safetensors", told)


def test_one_pass_equals_a_training_for_each_rate(tmp_path: Path) -> None:
    """torch.optim.SGD with its cosine schedule, one head after the other."""
    sweep = train(tmp_path)
    start = linear_sweep.start(6, 4, HOW, 0, "cpu").weight[:, 0].T.clone()
    assert start.std() == pytest.approx(0.01, rel=0.4)
    held, truth = blobs(30, seed=5)
    for number, rate in enumerate(HOW.rates):
        head = torch.nn.Linear(6, 4)
        head.weight.data, head.bias.data = start.clone(), torch.zeros(4)
        sgd = torch.optim.SGD(head.parameters(), rate, momentum=0.9, weight_decay=1e-3)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, HOW.epochs, eta_min=0)
        for epoch in range(HOW.epochs):
            for features, labels in batches(epoch):
                sgd.zero_grad()
                F.cross_entropy(head(features), labels).backward()
                sgd.step()
            cosine.step()
            right = (head(held).argmax(1) == truth).float().mean()
            assert float(sweep.accuracy[epoch, number]) == pytest.approx(float(right), abs=1e-6)
        torch.testing.assert_close(sweep.weight[:, number].T, head.weight.data, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(sweep.bias[number], head.bias.data, atol=1e-5, rtol=1e-4)


def test_cosine() -> None:
    assert [HOW.share(e) for e in range(4)] == pytest.approx([1, 0.5 + math.cos(math.pi / 4) / 2, 0.5, 0.5 - math.cos(math.pi / 4) / 2])  # fmt: skip  # noqa: E501


def test_best_is_the_earliest_highest_and_a_diverged_head_leaves_the_others_alone(tmp_path: Path) -> None:
    sweep = train(tmp_path, Schedule((0.05, 3e38, 0.5), 4, 0.9, 0.0))
    assert not torch.isfinite(sweep.weight[:, 1]).all()
    assert torch.isfinite(sweep.weight[:, [0, 2]]).all()
    accuracy = sweep.accuracy.tolist()
    expected = max(((a, -e, -h) for e, row in enumerate(accuracy) for h, a in enumerate(row)))
    assert sweep.best == (-expected[1], -expected[2])
    assert sweep.last == int(np.argmax(accuracy[-1]))
    held, truth = blobs(30, seed=5)
    right = ((held @ sweep.best_weight + sweep.best_bias).argmax(1) == truth).float().mean()
    assert float(right) == pytest.approx(expected[0])  # the weights kept are those of that epoch


def test_a_killed_sweep_ends_the_same_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stop_after=2)
    resumed = train(tmp_path / "b")
    for name in ("weight", "bias", "speed_weight", "best_weight", "best_bias", "accuracy", "epoch"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name)), name


def test_held_out_part_is_seeded_and_of_every_class() -> None:
    labels = [0] * 10 + [1] * 3 + [2]
    data = Labelled([Path(str(i)) for i in range(14)], labels)
    args = Args.model_validate({"held_out_share": 0.25})
    learnt, held = split(data, args)
    assert sorted(learnt.files + held.files) == sorted(data.files)
    assert sorted(held.labels) == [0, 0, 1]  # a class of one picture keeps it
    assert all(labels[int(file.name)] == label for file, label in zip(held.files, held.labels, strict=True))
    assert split(data, args)[1] == held
    others = [split(data, args.model_copy(update={"seed": s}))[1].files for s in range(1, 6)]
    assert any(files != held.files for files in others)
    with pytest.raises(StageError, match="none can be held out"):
        split(Labelled([Path("a"), Path("b")], [0, 1]), args)


def test_published_constants() -> None:
    args = Args.model_validate({})
    assert len(args.lrs) == 45 and min(args.lrs) == pytest.approx(1e-4) and max(args.lrs) == 9
    assert (args.epochs, args.batch_size, args.momentum, args.weight_decay) == (100, 1024, 0.9, 0)


@pytest.mark.parametrize(("blocks", "mean"), [(None, None), (1, True), (2, False)])
def test_features(model: Path, blocks: int | None, mean: bool | None) -> None:
    encoder = load_encoder(model)
    words, forward = features_of(encoder, Args.model_validate({"last_blocks": blocks, "mean_patches": mean}))
    pixels = torch.randint(0, 256, (2, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    outputs: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda *a: outputs.append(a[2])) for b in encoder.model.blocks]
    encoder.cls(normalised(pixels, encoder.mean, encoder.std))
    for hook in hooks:
        hook.remove()
    tokens = [encoder.model.norm(x) for x in outputs][-(blocks or 4) :]  # four of a ViT of two blocks are two
    expected = torch.cat([t[:, 0] for t in tokens] + ([tokens[-1][:, 1:].mean(1)] if mean else []), dim=1)
    torch.testing.assert_close(forward(pixels), expected)
    assert words == f"class tokens of {len(tokens)} blocks" + (" and mean patch" if mean else "")


def test_boxes_keep_to_their_limits() -> None:
    boxes = [random_box(60, 90, (0.08, 1.0), (3 / 4, 4 / 3), rng_of(s)) for s in range(300)]
    assert all(t >= 0 and left >= 0 and t + h <= 60 and left + w <= 90 for t, left, h, w in boxes)
    shapes = np.array([w / h for *_, h, w in boxes])
    shares = np.array([h * w for *_, h, w in boxes]) / 5400
    assert shapes.min() > 0.7 and shapes.max() < 1.4 and shares.min() > 0.06 and shares.max() < 0.9
    assert abs(np.log(shapes).mean()) < 0.05  # log-uniform: as many wide as tall ones
    top, left, h, w = random_box(10, 100, (0.9, 1.0), (3 / 4, 4 / 3), rng_of(0))  # no such box: the central one
    assert (h, w, top, left) == (10, 13, 0, 43)


def test_a_view_depends_on_its_numbers_alone(tmp_path: Path, model: Path) -> None:
    y, x = np.mgrid[:40, :60]
    write_image(tmp_path / "a.png", np.stack([y * 4, x * 4, 0 * x], -1).astype(np.uint8))
    args = Args.model_validate({"flip": 1.0})
    one, two, other = (view(tmp_path / "a.png", 16, args, rng_of(0, 1, 0, n)) for n in (3, 3, 4))
    assert np.array_equal(one, two) and not np.array_equal(one, other)
    assert (np.diff(one[..., 1].astype(int), axis=1) <= 0).all()  # mirrored: x falls
    data = read_imagenet(imagenet(tmp_path / "b")).train
    _, forward = features_of(load_encoder(model), args)
    order = np.arange(len(data.files))[::-1].copy()
    from tests.evaluate.test_finetune import job

    found = {}
    for images, batch in ((5, 8), (24, 24)):
        sized = Args.model_validate({"batch_images": images, "batch_size": batch})
        features = list(augmented_batches(data, order, 2, 32, forward, sized, job(tmp_path)))
        assert [len(f) for f, _ in features] == ([8, 8, 8] if batch == 8 else [24])
        found[batch] = torch.cat([f for f, _ in features])
        assert torch.cat([labels for _, labels in features]).tolist() == [data.labels[i] for i in order]
    torch.testing.assert_close(found[8], found[24], atol=1e-5, rtol=1e-5)


def test_score_of_predictions(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("image,label,top1\na,cat,cat\nb,dog,cat\n")
    argv = ["score", "--predictions", str(tmp_path / "p.csv"), "--json", str(tmp_path / "o.json")]
    assert score_main("linear", "help", _arguments, _score, argv) == 0
    assert json.loads((tmp_path / "o.json").read_text()) == {"metrics": {"top1": 0.5}, "n": 2}
