"""The script by which MLflow loads an encoder: models-from-code, nothing is pickled.

MLflow copies this file into the logged model and runs it on loading, on machines that have no Longtake: it needs
torch, timm, safetensors, numpy and pillow alone. The weights lie beside it as the safetensors file that timm loads.

    encoder = mlflow.pyfunc.load_model("models:/longtake-encoder@champion")
    encoder.predict(images)                                   # (N, D) CLS embeddings
    encoder.predict(images, params={"features": "patches"})   # (N, h, w, D) patch embeddings
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


class EncoderModel(mlflow.pyfunc.PythonModel):
    """Images in, embeddings out. Shorter side resized to the training size, centre crop, normalisation, encoder."""

    def load_context(self, context: Any) -> None:
        """Build the timm model from config.json and load encoder.safetensors into it."""
        import timm
        import torch
        from safetensors.torch import load_file

        folder = Path(context.artifacts["encoder"])
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = timm.create_model(config["architecture"], pretrained=False, **config["model_args"])
        model.load_state_dict(load_file(folder / "encoder.safetensors"))
        self.model = model.eval().requires_grad_(False).to(self.device)
        data = config["pretrained_cfg"]
        self.size_px, self.interpolation = int(data["input_size"][-1]), data.get("interpolation", "bicubic")
        self.mean = torch.tensor(data["mean"]).view(1, 3, 1, 1)
        self.std = torch.tensor(data["std"]).view(1, 3, 1, 1)

    # MLflow reads the hint of `model_input`: `np.ndarray` is one by which it validates nothing, so lists pass as well.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Embed images.

        Args:
            model_input: uint8 array (N, H, W, 3); or float array (N, H, W, 3) in [0, 1]; or a sequence (a list, or one
                column of a table) of encoded images: bytes, base64 text, or `pathlib.Path`. Text is never taken for
                a path: a served model would read any file that a request names.
            params: `features`: "cls" (default) or "patches"; `batch_size`: images at a time.

        Returns:
            float32 (N, D) for "cls"; (N, h, w, D) for "patches"; both after the final norm.
        """
        import torch

        options = {"features": "cls", "batch_size": 64, **(params or {})}
        if options["features"] not in ("cls", "patches"):
            raise ValueError(f"features = {options['features']!r}: expected 'cls' or 'patches'")
        images, size = _as_sequence(model_input), max(int(options["batch_size"]), 1)
        if not len(images):
            raise ValueError("no images given")
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        with torch.inference_mode():
            return np.concatenate([self._embed(batch, options["features"]) for batch in batches])

    def _embed(self, images: Any, features: str) -> np.ndarray:
        import torch

        batch = torch.cat([self._prepare(image) for image in images])
        tokens = self.model.forward_features(((batch - self.mean) / self.std).to(self.device))  # (B, prefix + hw, D)
        if features == "cls":
            return tokens[:, 0].float().cpu().numpy()
        rows, columns = self.model.patch_embed.dynamic_feat_size((self.size_px, self.size_px))
        patches = tokens[:, self.model.num_prefix_tokens :].unflatten(1, (rows, columns))
        return patches.float().cpu().numpy()

    def _prepare(self, image: Any) -> Tensor:
        """One image as float (1, 3, S, S) in [0, 1]."""
        import torch
        from torch.nn.functional import interpolate

        pixels = image if isinstance(image, np.ndarray) else _decode(image)
        if pixels.ndim != 3 or pixels.shape[-1] != 3:
            raise ValueError(f"an image must have shape (H, W, 3), got {pixels.shape}")
        scale = 1.0 if np.issubdtype(pixels.dtype, np.floating) else 1 / 255
        x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].float() * scale
        height, width = x.shape[-2:]
        if min(height, width) != self.size_px:
            ratio = self.size_px / min(height, width)
            shape = (max(round(height * ratio), self.size_px), max(round(width * ratio), self.size_px))
            x = interpolate(x, shape, mode=self.interpolation, antialias=True).clamp(0, 1)
        top, left = (x.shape[-2] - self.size_px) // 2, (x.shape[-1] - self.size_px) // 2
        return x[..., top : top + self.size_px, left : left + self.size_px]


def _as_sequence(model_input: Any) -> np.ndarray | Sequence[Any]:
    if hasattr(model_input, "iloc"):  # a table: its first column holds the images
        model_input = model_input.iloc[:, 0].tolist()
    if isinstance(model_input, list) and model_input and isinstance(model_input[0], list):
        model_input = np.asarray(model_input)  # JSON from a scoring request
    if isinstance(model_input, np.ndarray) and model_input.ndim != 4:
        raise ValueError(f"images must have shape (N, H, W, 3), got {model_input.shape}")
    if isinstance(model_input, bytes | str | os.PathLike):
        raise ValueError("one image given; pass a list of images")
    return model_input


def _decode(image: bytes | str | os.PathLike[str]) -> np.ndarray:
    """RGB pixels (H, W, 3) of an encoded image."""
    from PIL import Image

    if isinstance(image, str):
        image = base64.b64decode(image.partition("base64,")[2] or image, validate=True)
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as picture:
        return np.array(picture.convert("RGB"))


mlflow.models.set_model(EncoderModel())
