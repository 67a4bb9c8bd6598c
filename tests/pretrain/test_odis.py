"""ODIS against its equations, switch by switch; what is written beside the encoder; objects that the teacher finds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small import (
    NETWORK,
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
from torch import Tensor

from components.common.config import parse, read_yaml, section_of
from components.common.encoder import load_encoder, write_model_folder
from components.common.errors import StageError
from components.common.vit import build_vit
from components.index.config import IndexParams
from components.pretrain.blocks.object_tokens import load_token, object_tokens
from components.pretrain.config import find_method, params_model
from components.pretrain.methods.odis import ODIS
from components.pretrain.plan import ObjectTargets
from pipelines.workspace import merged_params

RECIPES = Path(__file__).parents[2] / "recipes" / "published"
SETTINGS: dict[str, Any] = {"warmup_teacher_temp_epochs": 0, "warmup_patch_temp_epochs": 0, "patch_temp": 0.06}
SEPARATE: dict[str, Any] = {"shared_head": False, "shared_head_teacher": False, "patch_out_dim": 14}
TAU, TAU_PATCH = 0.07, 0.06


def tokens_of(method: Any, network: Any, image: Tensor, objects: Any = None, mask: Any = None) -> tuple[Tensor, ...]:
    """Class token (D,), object token (D,) and patches (P, D) of one image."""
    token = None if method.args.replace_cls else network["object_token"]
    one = [None if x is None else x[None] for x in (objects, mask)]
    standin = None if mask is None else network["mask_token"].value
    kwargs = {"readers": method.args.object_readers, "mask": one[1], "mask_token": standin}
    return tuple(x[0] for x in object_tokens(network["backbone"], image[None], token, one[0], **kwargs))


def through(network: Any, x: Tensor, layer: str) -> Tensor:
    """Logits of one token: through its own prototypes if the network has them, else through the class token's."""
    prototypes = network[layer] if layer in network else network["head"].last_layer
    return prototypes(network["head"].bottleneck(x))


def naive(method: Any, batch: dict[str, Tensor]) -> Any:
    """The loss, every image on its own through the networks, every pair on its own through the loss."""
    return mean(naive_sample(method, batch, b) for b in range(len(batch["global"])))


def naive_sample(method: Any, batch: dict[str, Tensor], b: int) -> Any:
    args, student, teacher = method.args, method.student, method.teacher
    large, objects, masks = (batch[name][b, :, 0] for name in ("global", "global_object", "global_mask"))
    clean = [[x.detach() for x in tokens_of(method, teacher, large[v], objects[v])] for v in range(2)]
    hidden = [tokens_of(method, student, large[v], objects[v], masks[v]) for v in range(2)]
    small = [tokens_of(method, student, image) for image in (batch["local"][b, :, 0] if "local" in batch else [])]
    shows = [bool(o.any()) for o in objects]
    counts = shows + [
        any(shows) if args.local_objects == "all" else bool(batch["local_object"][b, i].any())
        for i in range(len(small))
    ]
    pairs = [(q, v) for q in range(2) for v in range(2 + len(small)) if q != v]
    views = [*hidden, *small]

    def object_term(q: int, v: int) -> Any:
        if not (shows[q] and counts[v]):
            return 0.0
        t, s = through(teacher, clean[q][1], "object_last_layer"), through(student, views[v][1], "object_last_layer")
        return entropy(t, method.object_centre.value, TAU, s)

    def cls_term(q: int, v: int) -> Any:
        t, s = teacher["head"](clean[q][0]), student["head"](views[v][0])
        return entropy(t, method.centre.value, TAU, s)

    def patch_term(v: int) -> Any:
        rows = masks[v].flatten().nonzero().flatten().tolist()
        layer = "patch_last_layer"
        return sum(
            entropy(
                through(teacher, clean[v][2][i], layer),
                method.patch_centre.value,
                TAU_PATCH,
                through(student, hidden[v][2][i], layer),
            )
            for i in rows
        ) / max(len(rows), 1)

    total = args.lambda_object * mean(object_term(q, v) for q, v in pairs)
    total = total + args.lambda_patch * mean(patch_term(v) for v in range(2))
    return total + args.lambda_cls * (mean(cls_term(q, v) for q, v in pairs) if args.lambda_cls else 0.0)


def started(**args: Any) -> Any:
    """A method whose mask token is not zero, as after some steps."""
    method = small_method("odis", **SETTINGS | args)
    with torch.no_grad():
        method.student["mask_token"].value.copy_(torch.linspace(-1, 1, 24))
    return method


@pytest.mark.parametrize(
    "switch",
    [
        {},
        {"lambda_cls": 0.5, "local_objects": "all"},
        {"object_readers": "own", "lambda_cls": 1.0, "lambda_object": 0.3},
        {"object_readers": "none", "lambda_cls": 1.0, "lambda_patch": 0.2},
        {"replace_cls": True},
        {"local_crops": 0},
        SEPARATE | {"lambda_cls": 1.0},
        {"shared_head": False, "lambda_cls": 1.0},  # semi-shared
    ],
    ids=str,
)
def test_loss_and_gradients_equal_the_equations(switch: dict[str, Any]) -> None:
    method = started(**switch)
    batch = small_batch(method, size=2)
    output = method(batch, now())
    args = method.args
    assert set(output.terms) == {"object", "patch"} | ({"cls"} if args.lambda_cls else set())
    weighted = sum(getattr(args, f"lambda_{name}") * value for name, value in output.terms.items())
    torch.testing.assert_close(output.loss.detach(), weighted)
    assert_same_gradients(method, output.loss, naive(method, batch))


def test_views_without_the_object_do_not_count() -> None:
    method = started()
    batch = small_batch(method)
    for name in ("global_object", "local_object"):
        batch[name][:] = False
    assert method(batch, now()).terms["object"] == 0
    batch["global_object"][0, 0, 0, 0, 0] = True  # one view alone has no partner
    assert method(batch, now()).terms["object"] == 0
    batch["local_object"][0, 2, 0, 0, 0] = True
    assert method(batch, now()).terms["object"] > 0


def test_small_views_that_lack_the_object_count_as_released_only() -> None:
    batch = small_batch(started())
    batch["local_object"][:] = False
    losses = [started(local_objects=kind)(batch, now()).terms["object"] for kind in ("visible", "all")]
    assert losses[1] > losses[0] > 0


def test_invariants() -> None:
    more = SETTINGS | {"lambda_cls": 1.0}
    assert_accumulates("odis", **more)
    assert_accumulates("odis", **SETTINGS, objects="teacher")
    assert_follows("odis", **more)
    assert_drops_paths_in_student_only("odis", **more)
    assert_freezes_prototypes("odis", n_heads=1, **more)
    assert_freezes_prototypes("odis", n_heads=3, **more | SEPARATE)


def test_the_object_tokens_centre_takes_all_views() -> None:
    method = started()
    batch = small_batch(method)
    raw = [
        through(method.teacher, tokens_of(method, method.teacher, image, objects)[1], "object_last_layer")
        for sample, shown in zip(batch["global"][:, :, 0], batch["global_object"][:, :, 0], strict=True)
        for image, objects in zip(sample, shown, strict=True)
    ]
    expected = 0.9 * method.object_centre.value + 0.1 * torch.stack(raw).mean(0)
    method(batch, now())
    method.after_step(now())
    torch.testing.assert_close(method.object_centre.value, expected)


def test_temperature_waits_for_the_prediction() -> None:
    method = small_method(
        "odis", epochs=6, **SETTINGS | {"pred_start_epoch": 2, "warmup_teacher_temp_epochs": 3, "lambda_patch": 0.0}
    )
    batch = small_batch(method, size=2)
    at = [method(batch, now(epoch=epoch)).loss.item() for epoch in range(6)]
    assert at[0] == at[1] == at[2] != at[3] != at[4] == at[5]
    with pytest.raises(StageError, match=r"'pred_start_epoch \+ warmup_teacher_temp_epochs' = 5 is longer"):
        small_method("odis", epochs=4, **SETTINGS | {"pred_start_epoch": 2, "warmup_teacher_temp_epochs": 3})


@pytest.mark.parametrize("readers", ["all", "none"])
def test_two_files_give_the_object_feature_again(readers: str, tmp_path: Path) -> None:
    method = started(object_readers=readers).float()
    write_model_folder(
        tmp_path, method.encoder, architecture="vit_tiny_patch16_224", model_args=NETWORK, longtake={}, figures={}
    )
    files = method.extra_files(tmp_path)
    assert [file.name for file in files] == ["object_token.safetensors", "object_token.json"]
    image, objects = torch.randn(2, 3, 32, 32), torch.rand(2, 4, 4) < 0.4
    expected = method.look(method.teacher, image, objects)
    encoder, (token, found_readers) = load_encoder(tmp_path).model, load_token(tmp_path)
    assert found_readers == readers
    again = object_tokens(encoder, image, token, objects, readers=found_readers)
    for a, b in zip(again, expected, strict=True):
        assert torch.equal(a, b)
    plain = encoder.forward_features(image)
    assert torch.allclose(plain[:, 1:], again.patches, atol=1e-5) == (readers == "none")


def test_in_the_class_tokens_place_there_is_no_second_file(tmp_path: Path) -> None:
    method = started(replace_cls=True).float()
    assert method.extra_files(tmp_path) == [] and list(tmp_path.iterdir()) == []
    assert "object_token" not in method.student
    image = torch.randn(1, 3, 32, 32)
    assert torch.allclose(
        method.encoder.forward_features(image)[:, 0], method.look(method.teacher, image).obj, atol=1e-6
    )


def test_teacher_starts_as_the_student() -> None:
    args = ODIS.Args(out_dim=8, hidden_dim=8, bottleneck_dim=4, local_crops=0, **SETTINGS, **SEPARATE)
    method = ODIS(args, partial(build_vit, "vit_tiny_patch16_224", NETWORK), 1)
    student = dict(method.student.named_parameters())
    assert set(student) - set(dict(method.teacher.named_parameters())) == {"mask_token.value"}
    for name, p in method.teacher.named_parameters():
        assert torch.equal(p, student[name]) and p.data_ptr() != student[name].data_ptr() and not p.requires_grad
    assert student["object_token.value"].abs().max() > 0


@pytest.mark.parametrize("objects", ["teacher", "auto"])
def test_the_teacher_finds_what_is_not_annotated(objects: str) -> None:
    method = started(objects=objects, teacher_object_area=(0.0, 1.0))
    batch = small_batch(method)
    batch["global_box"][..., 4] = 0
    batch["global_box"][:, 1] = batch["global_box"][:, 0]  # the same box twice: the object lies in equal places
    found = method.find_objects(batch)
    assert {name: x.shape[1:] for name, x in found.items()} == {"global": (4, 4, 4), "local": (4, 2, 2)}
    made = found["global"][:, -1]
    assert made.any() and torch.equal(made[0], made[1])
    if objects == "auto":
        for name in ("global", "local"):
            assert torch.equal(found[name][:, :-1], batch[f"{name}_object"][:-1, :, 0].transpose(0, 1))
    assert method(batch, now()).loss.isfinite()


def test_pictures() -> None:
    method = started().float()
    batch = {name: x.float() if x.is_floating_point() else x for name, x in small_batch(method).items()}
    (picture,) = method.pictures(batch, now())["objects"]
    assert picture.shape == (4 * 32, 2 * 32, 3) and picture.dtype.name == "uint8"
    yellow = (picture == [255, 217, 0]).all(-1)
    assert yellow[:32, :32].any()
    assert not yellow[:32, 32:].any() and not yellow[96:].any()  # views that lack the object
    assert method.object_centre._sum is None  # a picture is no training step


def test_published_views() -> None:
    plan = ODIS.views(ODIS.Args(), 16)
    assert (plan.draw, plan.n_frames, plan.patch_px) == ("object_frame", 1, 16)
    assert plan.objects == ObjectTargets(aware=("global",), margin=1)
    large, small = plan.crops
    assert (large.scale, len(large.photometric), large.mask is not None) == ((0.25, 1.0), 2, True)
    assert (small.scale, len(small.photometric), small.mask) == ((0.05, 0.25), 10, None)
    aware = ODIS.views(ODIS.Args(object_aware_locals=True, objects="auto"), 16)
    assert aware.objects is not None and set(aware.objects.aware) == {"global", "local"} and not aware.objects.required
    teacher = ODIS.views(ODIS.Args(objects="teacher"), 16)
    assert (teacher.draw, teacher.objects) == ("frame", None)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"replace_cls": True, "lambda_cls": 1.0}, "leaves no class token"),
        ({"replace_cls": True, "object_readers": "none"}, "leaves no class token"),
        ({"teacher_object_area": (0.5, 0.1)}, "must rise"),
    ],
)
def test_wrong_arguments(wrong: dict[str, Any], match: str) -> None:
    with pytest.raises(ValidationError, match=match):
        ODIS.Args(**wrong)


@pytest.mark.parametrize("recipe", ["odis", "cross_time_odis", "cross_time_odis_venice"])
def test_published_recipes_are_whole_and_state_the_defaults(recipe: str) -> None:
    document = merged_params(RECIPES / f"{recipe}.yaml", [])
    (name,) = set(document["methods"]) - {"random"}
    section = section_of(document, "pretrain", name)
    params: Any = parse(params_model(name, section), section, name)
    own = read_yaml(RECIPES / f"{recipe}.yaml")["pretrain"][name]
    assert set(own["args"]) == set(type(params.args).model_fields)
    assert set(own["trainer"]) == set(type(params.trainer).model_fields)
    same = type(params.args)()
    venice = {"objects", "object_aware_locals", "object_margin_patches", "object_margin_draw", "lambda_timeobj"}
    differing = {key for key in type(same).model_fields if getattr(params.args, key) != getattr(same, key)}
    assert differing == (venice if recipe.endswith("venice") else set())
    trainer = params.trainer
    assert (trainer.batch_size, trainer.epochs, trainer.precision, trainer.lr) == (512, 300, "float32", 5e-4)
    index = parse(IndexParams, section_of(document, "index", document["corpus"]), name)
    draw = index.draws[find_method(name).views(params.args, 16).draw]
    assert list(draw.offsets_s) == {"odis": [0], "cross_time_odis": [0, 5], "cross_time_odis_venice": [0, 1]}[recipe]
