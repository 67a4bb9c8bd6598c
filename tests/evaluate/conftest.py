"""A small encoder, and surroundings of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGTAKE_TRACKING", "off")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ViT of two small blocks, as pretrain writes it."""
    import torch

    from components.common.model_folder import write_model_folder
    from components.common.vit import build_vit

    args = {"patch_size": 8, "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 3}
    folder = tmp_path_factory.mktemp("models") / "untrained"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_vit("vit_tiny_patch16_224", args)
    write_model_folder(
        folder, network, architecture="vit_tiny_patch16_224", model_args=args, longtake={"run": "untrained"}
    )
    return folder
