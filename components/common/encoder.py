"""A frozen image encoder with one face, wherever its weights come from.

Sources: a folder written by `write_model_folder` (trained here or imported), a registered one as `models:/NAME@ALIAS`
or `models:/NAME/VERSION`, `timm:NAME` (weights only if they are in the local Hugging Face
cache, else untrained, and `origin` says which), `timm:NAME=FILE.safetensors`, or `FILE.safetensors` with an
architecture. Images are normalised as the folder's config says, or as timm says for that name: its plain ViTs want mean
0.5, so DINO's weights go with `vit_small_patch16_224.dino`, not with `vit_small_patch16_224`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from components.common import hashing
from components.common.attention_probe import Projection, last_projection
from components.common.errors import StageError
from components.common.model_folder import CONFIG, WEIGHTS, read_config, read_weights, write_model_folder
from components.common.vit import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TimmModel,
    build_model,
    class_attention,
    load_exact,
    resize_positions,
)

__all__ = ["Encoder", "load_encoder", "write_model_folder"]

Fit = Literal["exact", "pad", "crop"]


class Encoder:
    """Frozen features of one timm model.

    Attributes:
        model: the timm model, in eval mode, without gradients.
        patch_size: pixels between two neighbours of the patch grid.
        dim: width D of a feature.
        mean, std: what images are normalised with, RGB in 0..1.
        origin: where the weights come from, in words.
        trained: false for the untrained start of a timm model whose weights are not on this machine.
        sha256: hash of the weights' file, or of the weights where there is none.
        fit: what to do with sides that are no multiple of the patch: refuse, pad right and below with the mean
            colour, or crop right and below.
        pos_quirk: resize positions as DINO's code does (see `resize_positions`).
    """

    def __init__(
        self,
        model: TimmModel,
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        origin: str = "in memory",
        trained: bool = True,
        sha256: str | None = None,
        fit: Fit = "exact",
        pos_quirk: bool = False,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.patch_size: int = model.feature_info[-1]["reduction"]
        self.dim: int = model.num_features
        self.mean, self.std, self.fit = tuple(mean), tuple(std), fit
        self.origin, self.trained = origin, trained
        self.sha256 = sha256 or _hash_of(model)
        self.table: Tensor | None = model.pos_embed.detach().clone() if pos_quirk and _has_grid(model) else None
        self.pos_quirk = pos_quirk

    @property
    def identity(self) -> str:
        """Hash of all that decides its features: weights, architecture, normalisation, and how sizes are met.

        The weights' file alone does not: another number of heads has the same tensors.
        """
        first = next(iter(getattr(self.model, "blocks", [])), None)
        heads = getattr(getattr(first, "attn", None), "num_heads", None)
        pool = getattr(self.model, "global_pool", None)
        facts = [self.sha256, repr(self.model), heads, str(pool), self.mean, self.std, self.fit, self.pos_quirk]
        return hashing.json_hash(facts)

    @torch.no_grad()
    def cls(self, images: Tensor) -> Tensor:
        """Image features (B, D) of normalised images (B, 3, H, W): the class token after the final norm.

        A model without a class token gives its own pooled feature.
        """
        images = self._prepare(images)
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)

    def patches(self, images: Tensor) -> Tensor:
        """Dense features (B, h, w, D) after the final norm, of normalised images (B, 3, H, W)."""
        return self._intermediates(images, 1)[0].permute(0, 2, 3, 1)

    def taps(self, images: Tensor, n_last: int) -> list[tuple[Tensor, Tensor]]:
        """Class token (B, D) and patches (B, h, w, D) of the last `n_last` blocks, each through the final norm."""
        if not getattr(self.model, "has_class_token", False):
            raise StageError("features of inner blocks need a ViT with a class token", where=self.origin)
        if not 1 <= n_last <= len(self.model.blocks):
            raise StageError(f"asked for {n_last} blocks of a ViT that has {len(self.model.blocks)}", where=self.origin)
        found = self._intermediates(images, n_last, return_prefix_tokens=True)
        return [(prefix[:, 0], patches.permute(0, 2, 3, 1)) for patches, prefix in found]

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor:
        """What the class token looks at in the last block: (B, heads, h, w) of normalised images (B, 3, H, W).

        The softmax runs over all tokens and the columns of class and register tokens are then dropped, so a map sums
        to less than 1. The pass itself may use fused attention, which never forms this row: it is computed from the
        tokens that the last block receives.

        Raises:
            StageError: the model is no VisionTransformer with a class token and ordinary attention.
        """
        model = self.model
        fits = isinstance(model, VisionTransformer) and model.has_class_token and hasattr(model.blocks[-1], "attn")
        if not fits:
            raise StageError("class attention needs a timm VisionTransformer with a class token", where=self.origin)
        images, seen = self._prepare(images), []
        hook = model.blocks[-1].register_forward_pre_hook(lambda _block, inputs: seen.append(inputs[0]))
        try:
            model.forward_features(images)
        finally:
            hook.remove()
        rows = class_attention(model.blocks[-1], seen[0])[..., model.num_prefix_tokens :]
        return rows.unflatten(-1, (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size))

    @torch.no_grad()
    def keys(self, images: Tensor, which: Projection = "k") -> Tensor:
        """Keys (or queries, values) of the last block's patches, heads concatenated, (B, h, w, D); see there."""
        images = self._prepare(images)
        grid = (images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size)
        return last_projection(self.model, images, which).unflatten(1, grid)

    @torch.no_grad()
    def _intermediates(self, images: Tensor, n_last: int, **more: Any) -> list[Any]:
        images = self._prepare(images)
        return self.model.forward_intermediates(images, indices=n_last, norm=True, intermediates_only=True, **more)

    def _prepare(self, images: Tensor) -> Tensor:
        images = fit_to_patches(images, self.patch_size, self.fit)
        if self.table is not None:
            self._set_grid(self.table, (images.shape[-2], images.shape[-1]))
        return images

    def _set_grid(self, table: Tensor, size: tuple[int, int]) -> None:
        """Give the model the position table of this image size, always resized from the original one."""
        embed, grid = self.model.patch_embed, (size[0] // self.patch_size, size[1] // self.patch_size)
        if embed.grid_size == grid:
            return
        n_prefix = 0 if self.model.no_embed_class else self.model.num_prefix_tokens
        square = grid[0] * grid[1] + n_prefix == table.shape[1] and grid[0] == grid[1]
        resized = table if square else resize_positions(table, grid, n_prefix=n_prefix, quirk=True)
        embed.set_input_size(img_size=size)
        self.model.pos_embed = nn.Parameter(resized.to(self.model.pos_embed), requires_grad=False)


def fit_to_patches(images: Tensor, patch_size: int, fit: Fit) -> Tensor:
    """Images (B, 3, H, W) whose sides are multiples of the patch; StageError if they are not and `fit` is exact."""
    height, width = images.shape[-2:]
    if height % patch_size == 0 and width % patch_size == 0:
        return images
    if fit == "pad":
        return F.pad(images, (0, -width % patch_size, 0, -height % patch_size))
    if fit == "crop" and min(height, width) >= patch_size:
        return images[..., : height - height % patch_size, : width - width % patch_size]
    what = f"an image of {height}x{width} pixels has no whole number of {patch_size}-pixel patches"
    raise StageError(what, do="resize it, or ask to pad or crop")


def load_encoder(
    source: str | Path,
    device: str | torch.device = "cpu",
    *,
    architecture: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    fit: Fit = "exact",
    pos_quirk: bool = False,
) -> Encoder:
    """The encoder found at `source`, frozen, on `device`.

    Args:
        source: model folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `timm:NAME`, `timm:NAME=FILE.safetensors`,
            or a safetensors file.
        device: where it computes.
        architecture: timm name, needed for a bare safetensors file that has no config.json beside it.
        model_args: overrides for `timm.create_model` with `timm:` sources and bare files.
        seed: start of an untrained `timm:NAME`.
        fit, pos_quirk: see `Encoder`.

    Raises:
        StageError: nothing there, no architecture, or weights that do not fit it.
    """
    text, path = str(source), Path(source)
    if text.startswith("timm:"):
        name, _, file = text.removeprefix("timm:").partition("=")
        found = _from_file(Path(file), name, model_args) if file else _from_timm(name, model_args, seed)
    elif text.startswith("models:"):
        found = _from_registry(text)
    elif path.is_dir():
        found = _from_folder(path)
    elif path.suffix == ".safetensors":
        found = _from_file(path, architecture, model_args)
    else:
        do = "give a model folder, models:/NAME@ALIAS, timm:NAME, or a .safetensors file"
        raise StageError("no encoder there", where=source, do=do)
    encoder = Encoder(**found, fit=fit, pos_quirk=pos_quirk)
    encoder.model.to(device)
    if encoder.table is not None:
        encoder.table = encoder.table.to(device)
    return encoder


def _from_folder(folder: Path, weights: str = WEIGHTS) -> dict[str, Any]:
    config, file = read_config(folder), folder / weights
    model = build_model(config["architecture"], config["model_args"])
    load_exact(model, read_weights(file), file)
    look = config["pretrained_cfg"]
    origin = config.get("longtake", {}).get("run", folder.name)
    return {"model": model, "mean": look["mean"], "std": look["std"], "origin": origin, "sha256": _hash_of(file)}


def _from_registry(uri: str) -> dict[str, Any]:
    from components.common.registered import fetch_encoder

    folder, version = fetch_encoder(uri)
    return _from_folder(folder) | {"origin": version}


def _from_file(file: Path, architecture: str | None, model_args: Mapping[str, Any] | None) -> dict[str, Any]:
    tensors = read_weights(file)
    if architecture is None and file.with_name(CONFIG).is_file():
        return _from_folder(file.parent, file.name)
    if architecture is None:
        raise StageError("weights alone do not say their architecture", where=file, do=f"name it: timm:NAME={file}")
    model = build_model(architecture, _any_size(architecture, model_args))
    classifier = str(model.pretrained_cfg.get("classifier") or "head")
    tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{classifier}.")}
    load_exact(model, tensors, file)
    return {"model": model, "origin": file.name, "sha256": _hash_of(file)} | _look(model)


def _from_timm(name: str, model_args: Mapping[str, Any] | None, seed: int) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(name, _any_size(name, model_args))
    cached = _cached_weights(model)
    if cached is not None:
        return _from_file(cached, name, model_args) | {"origin": f"timm:{name}, pretrained"}
    origin = f"timm:{name}, untrained (no weights of it in the local cache)"
    return {"model": model, "origin": origin, "trained": False} | _look(model)


def _cached_weights(model: TimmModel) -> Path | None:
    """The model's published weights if an earlier download left them on this machine; never fetches."""
    repo = model.pretrained_cfg.get("hf_hub_id")
    if not repo:
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _any_size(architecture: str, model_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """ViTs take any image size when built so; other families do so on their own and refuse the argument."""
    args = dict(model_args or {})
    return (
        args
        if "dynamic_img_size" in args or not architecture.startswith(("vit_", "deit"))
        else {**args, "dynamic_img_size": True}
    )


def _look(model: TimmModel) -> dict[str, Any]:
    return {"mean": model.pretrained_cfg["mean"], "std": model.pretrained_cfg["std"]}


def _has_grid(model: TimmModel) -> bool:
    return getattr(model, "dynamic_img_size", False) and getattr(model, "pos_embed", None) is not None


def _hash_of(weights: TimmModel | Path) -> str:
    if isinstance(weights, Path):
        with weights.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, value in sorted(weights.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
