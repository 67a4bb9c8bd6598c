"""Cross-time ODIS against its equations, switch by switch, and what the teacher must never see."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import (
    assert_accumulates,
    assert_drops_paths_in_student_only,
    assert_follows,
    assert_freezes_prototypes,
    assert_same_gradients,
    entropy,
    mean,
    now,
    small_batch,
    small_method,
)
from test_odis import SEPARATE, SETTINGS, TAU, naive, through, tokens_of
from torch import Tensor

from components.pretrain.methods.cross_time_odis import CrossTimeODIS
from components.pretrain.plan import ObjectTargets


def naive_time(method: Any, batch: dict[str, Tensor], b: int) -> Any:
    """The two terms across time of one sample, with their weights."""
    args, student, teacher = method.args, method.student, method.teacher
    seen = {name: (batch[name][b, :, 0], batch[f"{name}_object"][b, :, 0]) for name in ("global", "neighbour")}
    clean = [[x.detach() for x in tokens_of(method, teacher, *view)] for view in zip(*seen["global"], strict=True)]
    ahead = [tokens_of(method, student, *view) for view in zip(*seen["neighbour"], strict=True)]

    def timeobj(q: int, v: int) -> Any:
        if not (seen["global"][1][q].any() and seen["neighbour"][1][v].any()):
            return 0.0
        t, s = through(teacher, clean[q][1], "object_last_layer"), through(student, ahead[v][1], "object_last_layer")
        return entropy(t, method.object_centre.value, TAU, s)

    def time(q: int, v: int) -> Any:
        return entropy(teacher["head"](clean[q][0]), method.centre.value, TAU, student["head"](ahead[v][0]))

    total: Any = 0.0
    for weight, term, matching in (
        (args.lambda_timeobj, timeobj, args.object_matching),
        (args.lambda_time, time, args.matching),
    ):
        pairs = [(q, v) for q in range(2) for v in range(2) if q == v or matching == "all2all"]
        total = total + (weight * mean(term(q, v) for q, v in pairs) if weight else 0.0)
    return total


def started(**args: Any) -> Any:
    method = small_method("cross_time_odis", **SETTINGS | args)
    with torch.no_grad():
        method.student["mask_token"].value.copy_(torch.linspace(-1, 1, 24))
    return method


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"object_matching": "one2one", "local_crops": 0},
        {"lambda_time": 0.3, "lambda_timeobj": 0.7},  # the image term without L_cls: the released code drops it
        {"lambda_time": 1.0, "lambda_timeobj": 0, "lambda_cls": 1.0, "matching": "one2one"},
        {"lambda_timeobj": 0},  # ODIS: no neighbour is loaded
        {"replace_cls": True},
        SEPARATE | {"lambda_cls": 1.0, "lambda_time": 1.0, "object_readers": "none"},
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_equations(switch: dict[str, Any]) -> None:
    method = started(**switch)
    batch = small_batch(method, size=2)
    output = method(batch, now())
    expected = naive(method, batch)
    if method.args.across_time:
        expected = expected + mean(naive_time(method, batch, b) for b in range(2))
    assert ("neighbour" in batch) == method.args.across_time
    weights = {"object": 1.0, "patch": 1.0} | {
        name: getattr(method.args, f"lambda_{name}") for name in ("cls", "time", "timeobj")
    }
    assert set(output.terms) == {name for name, weight in weights.items() if weight}
    assert_same_gradients(method, output.loss, expected)


def test_invariants() -> None:
    more = SETTINGS | {"lambda_cls": 1.0, "lambda_time": 1.0}
    assert_accumulates("cross_time_odis", **more)
    assert_accumulates("cross_time_odis", **SETTINGS, objects="teacher")
    assert_follows("cross_time_odis", **more)
    assert_drops_paths_in_student_only("cross_time_odis", **more)
    assert_freezes_prototypes("cross_time_odis", n_heads=1, **more)


def test_one_frame_twice_and_equal_views_make_it_odis_own_loss() -> None:
    """one2one with the anchor's own views, nothing hidden: the pairs that L_obj leaves out."""
    method = started(object_matching="one2one", lambda_patch=0.0, lambda_object=0.0)
    batch = small_batch(method, size=2)
    for name in ("", "_object", "_box"):
        batch[f"neighbour{name}"] = batch[f"global{name}"]
    expected = 0.0
    for b in range(2):
        for image, objects in zip(batch["global"][b, :, 0], batch["global_object"][b, :, 0], strict=True):
            if objects.any():
                pair = [tokens_of(method, n, image, objects)[1] for n in (method.teacher, method.student)]
                t, s = (through(n, x, "-") for n, x in zip((method.teacher, method.student), pair, strict=True))
                expected = expected + entropy(t, method.object_centre.value, TAU, s).item() / 4
    assert method(batch, now()).loss.item() == pytest.approx(expected, rel=1e-9)


def test_targets_and_centres_know_nothing_of_the_neighbour() -> None:
    outputs, centres = [], []
    for factor in (1.0, 3.0):
        method = started(lambda_time=1.0)
        batch = small_batch(method)
        batch["neighbour"] = batch["neighbour"] * factor
        outputs.append(method(batch, now()))
        method.after_step(now())
        centres.append(torch.cat([method.centre.value, method.object_centre.value, method.patch_centre.value]))
    assert torch.equal(*(output.monitors["teacher_probs"] for output in outputs))
    assert torch.equal(*centres)
    assert outputs[0].terms["object"] == outputs[1].terms["object"]
    assert outputs[0].terms["timeobj"] != outputs[1].terms["timeobj"]


def test_the_neighbour_hides_nothing() -> None:
    method = started()
    batch = small_batch(method)
    before = method(batch, now()).terms["timeobj"]
    with torch.no_grad():
        method.student["mask_token"].value.add_(1.0)
    assert method(batch, now()).terms["timeobj"] == before


def test_the_teacher_finds_the_anchors_object_again() -> None:
    """The neighbour shows the anchor's own picture: the object lies where it lay."""
    method = started(objects="teacher", teacher_object_area=(0.0, 1.0), object_margin_patches=0)
    batch = small_batch(method)
    for name in ("", "_box"):
        batch[f"neighbour{name}"] = batch[f"global{name}"]
    found = method.find_objects(batch)
    assert found["global"][0].any((1, 2)).all()
    assert torch.equal(found["neighbour"], found["global"])


def test_pictures_show_both_frames() -> None:
    method = started().float()
    batch = {name: x.float() if x.is_floating_point() else x for name, x in small_batch(method).items()}
    (picture,) = method.pictures(batch, now())["objects"]
    assert picture.shape == (4 * 32, 4 * 32, 3)


def test_published_views() -> None:
    plan = CrossTimeODIS.views(CrossTimeODIS.Args(), 16)
    assert (plan.draw, plan.n_frames, plan.both_ways) == ("object_pair", 2, True)
    assert plan.objects == ObjectTargets(aware=("global", "neighbour"), margin=1)
    large, small, neighbour = plan.crops
    assert (large.frames, small.frames, neighbour.frames) == ((0,), (0,), (1,))
    assert (large.scale, neighbour.scale, neighbour.mask) == ((0.25, 1.0), (0.25, 1.0), None)
    assert CrossTimeODIS.views(CrossTimeODIS.Args(objects="auto"), 16).draw == "pair"
    baseline = CrossTimeODIS.views(CrossTimeODIS.Args(lambda_timeobj=0), 16)
    assert [crop.name for crop in baseline.crops] == ["global", "local"]
