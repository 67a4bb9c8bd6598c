"""promote: choose the best encoder, register it, make it the champion if it passes the gates.

python -m components.promote --metrics metrics --models models --decision promotion/decision.json
python -m components.promote explain                     # the decision, line by line, nothing written
python -m components.promote rollback [--to VERSION]
python -m components.promote list
"""

from __future__ import annotations

import json
import sys

from components.common.context import Context
from components.common.outputs import write_text
from components.common.stage import Port, Stage, main
from components.promote import commands
from components.promote.config import PromoteParams

STAGE = Stage(
    name="promote",
    help="Register the best encoder and make it champion if it passes the gates. Also: explain, rollback, list.",
    inputs={
        "metrics": Port("folder of <run>-<task>.json", type="Metrics", many=True),
        "models": Port("folder of model folders", type="Model", many=True),
    },
    outputs={"decision": Port("the decision and its reasons (JSON)", kind="file", type="Metrics")},
    params=PromoteParams,
)


def run(ctx: Context) -> None:
    """Decide, carry it out in the registry, and write the decision down."""
    from components.promote.decide import explained
    from components.promote.evidence import read_evidence
    from components.promote.gates import from_json
    from components.promote.promotion import promote
    from components.promote.registry import exclusive, registry

    assert isinstance(ctx.params, PromoteParams)
    metrics, models = ctx.inputs["metrics"], ctx.inputs["models"]
    assert metrics is not None and models is not None
    evidence = read_evidence(metrics, models)
    with exclusive(), registry(ctx.params.model) as found:
        decision = promote(found, evidence, ctx.params)
    write_text(ctx.outputs["decision"], json.dumps(decision, indent=2, sort_keys=True) + "\n")
    for line in explained(from_json(decision)):
        ctx.log(line)
    ctx.tracker.tag("outcome", decision["outcome"])
    ctx.tracker.metrics({"gates_passed": sum(g["passed"] for g in decision["gates"]), "gates": len(decision["gates"])})
    ctx.tracker.artifact(ctx.outputs["decision"])
    ctx.note("decision", outcome=decision["outcome"], candidate=(decision["candidate"] or {}).get("run", ""))


def cli(argv: list[str]) -> int:
    """The stage, or one of the commands; `--dry-run` turns the stage's command line into `explain`."""
    if "--dry-run" in argv:
        argv = ["explain", *(argument for argument in argv if argument != "--dry-run")]
    if argv and argv[0] in commands.COMMANDS:
        return commands.main(STAGE, argv)
    return main(STAGE, run, argv)


if __name__ == "__main__":
    raise SystemExit(cli(sys.argv[1:]))
