"""Train an encoder with one method; `import` takes one from a published file instead.

Torch is imported by `run` and by the methods' parameters, not by `--help`.
"""

from __future__ import annotations

import os
import sys

from components.common.config import Section
from components.common.context import Context
from components.common.stage import Port, Stage, StageParams, main


def params_model(key: str | None, section: Section) -> type[StageParams]:
    from components.pretrain import config

    return config.params_model(key, section)


STAGE = Stage(
    name="pretrain",
    help="Train an image encoder on the frames of a corpus with one self-supervised method. Also: import.",
    keys=("method",),
    inputs={
        "frames": Port("frame store of the corpus", ranged=True),
        "index": Port("its clip index", ranged=True),
        "start": Port(
            "what the encoder starts from: model folder, timm:NAME, .safetensors, or components/pretrain/scratch",
            type="Model",
            optional=True,
            name_ok=True,
        ),
    },
    outputs={"model": Port("folder of the trained encoder", type="Model")},
    params=params_model,
)


def run(ctx: Context) -> None:
    from components.pretrain.run import pretrain

    pretrain(ctx)


def start() -> int:
    """The stage in the first process, in torchrun's others only the training loop; or the command `import`."""
    if sys.argv[1:2] == ["import"]:
        from components.pretrain.importing import command

        return command.main(sys.argv[2:])
    if os.environ.get("RANK", "0") == "0":
        return main(STAGE, run)
    from components.pretrain.run import follow

    return follow()


if __name__ == "__main__":
    raise SystemExit(start())
