"""The linear probe: its shortcuts are exact, and its training is plain SGD."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.evaluate.probe import Batches, Schedule, class_scores, fit, make_head, pixel_loss, upsample

SGD = Schedule(
    epochs=5, batch_size=3, lr=0.1, momentum=0.9, weight_decay=1e-2, drop_epoch=2, drop_factor=0.1, shuffle=False
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(7, 9), (5, 6), (100, 100), (3, 4)])
def test_upsample_equals_the_library_in_value_and_gradient(size: tuple[int, int]) -> None:
    maps = torch.rand(2, 3, 5, 6, generator=generator(), dtype=torch.float64, requires_grad=True)
    ours, theirs = upsample(maps, size), F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)  # the library's weights are float32
    weights = torch.rand(ours.shape, generator=generator(1), dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weights).sum(), maps, retain_graph=True)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_head_before_upsampling_is_the_protocols_order() -> None:
    features = torch.randn(2, 4, 5, 8, generator=generator())
    head = make_head(8, 3, generator())
    published = head(F.interpolate(features.permute(0, 3, 1, 2), size=(20, 25), mode="bilinear", align_corners=False))
    torch.testing.assert_close(class_scores(head, features, (20, 25)), published, atol=1e-5, rtol=1e-5)


def test_loss_leaves_void_out() -> None:
    scores = torch.randn(2, 4, 6, 6, generator=generator())
    labels = torch.randint(0, 4, (2, 6, 6), generator=generator())
    labels[:, :2] = 255
    expected = F.cross_entropy(scores, labels, ignore_index=255)
    torch.testing.assert_close(pixel_loss(scores, labels), expected)
    assert pixel_loss(scores, torch.full((2, 6, 6), 255)) == 0


def test_head_starts_like_pytorchs_own() -> None:
    head = make_head(384, 21, generator())
    own = torch.nn.Conv2d(384, 21, 1)
    for name in ("weight", "bias"):
        ours, theirs = getattr(head, name).detach(), getattr(own, name).detach()
        assert ours.shape == theirs.shape
        assert ours.abs().max() <= 384**-0.5
        assert ours.std() == pytest.approx(float(theirs.std()), rel=0.4)
    assert torch.equal(head.weight, make_head(384, 21, generator()).weight)


def blobs(n: int = 7, classes: int = 3, dim: int = 6) -> tuple[Tensor, Tensor]:
    """Patch grids whose features give the class away."""
    labels = torch.randint(0, classes, (n, 4, 4), generator=generator(3))
    centres = torch.randn(classes, dim, generator=generator(4)) * 2
    features = centres[labels] + torch.randn(n, 4, 4, dim, generator=generator(5)) * 0.1
    return features, labels


def feed(features: Tensor, labels: Tensor) -> Batches:
    return lambda _, parts: ((features[n], labels[n]) for n in parts)


def train(how: Schedule, seed: int = 0) -> tuple[torch.nn.Conv2d, list[float]]:
    features, labels = blobs()
    head = make_head(6, 3, generator(seed))
    return head, list(fit(head, len(features), feed(features, labels), how, seed))


def test_fit_equals_the_librarys_sgd() -> None:
    """Momentum, decay and the steps of the rate."""
    features, labels = blobs()
    theirs = make_head(6, 3, generator())
    sgd = torch.optim.SGD(theirs.parameters(), SGD.lr, momentum=SGD.momentum, weight_decay=SGD.weight_decay)
    steps = torch.optim.lr_scheduler.StepLR(sgd, SGD.drop_epoch, SGD.drop_factor)
    for _ in range(SGD.epochs):
        for start in range(0, 7, SGD.batch_size):
            sgd.zero_grad()
            scores = theirs(features[start : start + 3].permute(0, 3, 1, 2))
            F.cross_entropy(scores, labels[start : start + 3], ignore_index=255).backward()
            sgd.step()
        steps.step()
    head, _ = train(SGD)
    for own, library in zip(head.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, library, atol=1e-5, rtol=1e-4)


def test_learns_and_repeats() -> None:
    how = Schedule(40, 3, 0.1, 0.9, 0.0, 30, 0.1, shuffle=True)
    head, losses = train(how)
    features, labels = blobs()
    assert losses[-1] < 0.1 * losses[0]
    assert (class_scores(head, features, (4, 4)).argmax(1) == labels).float().mean() > 0.98
    again, repeated = train(how)
    assert losses == repeated and torch.equal(head.weight, again.weight)
    _, other = train(how, seed=1)
    assert losses != other


def test_pictures_are_taken_in_order_unless_shuffled() -> None:
    features, labels = blobs()

    def orders(shuffle: bool) -> list[list[int]]:
        seen: list[list[int]] = []

        def batch(epoch: int, parts: list[np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
            seen.extend(numbers.tolist() for numbers in parts)
            return feed(features, labels)(epoch, parts)

        how = Schedule(2, 7, 0.1, 0.9, 0.0, 5, 0.1, shuffle)
        list(fit(make_head(6, 3, generator()), 7, batch, how, 0))
        return seen

    assert orders(False) == [list(range(7))] * 2
    first, second = orders(True)
    assert first != second and sorted(first) == sorted(second) == list(range(7))
