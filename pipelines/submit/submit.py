"""One submission: compile, check, upload, start, and watch if asked to."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import Any

from components.common.errors import ExitCode
from pipelines.cluster import Cluster
from pipelines.compile import Plan, compile_plan, documents, inputs, plan, workspace_of
from pipelines.submit import preflight, spec
from pipelines.submit.cli import Access, access, settings
from pipelines.submit.kube import connect
from pipelines.submit.links import mlflow_page
from pipelines.submit.overrides import base_values, check_changes, check_parameters, split
from pipelines.submit.screen import Screen
from pipelines.submit.upload import start, upload, version_name, without_cache
from pipelines.submit.watch import Watch, ending, outcome


@dataclass(frozen=True)
class Compiled:
    """What would be uploaded, and the parameters of this run that differ from its defaults."""

    plan: Plan
    documents: list[dict[str, Any]]
    overrides: dict[str, Any]


def submit(args: argparse.Namespace) -> ExitCode:
    """Carry out `python -m pipelines.submit`; raises StageError before anything is submitted."""
    if args.dry_run:
        return _dry_run(args)
    way = access(args)  # first: a server that is away is known in no time
    compiled = compiled_of(args, way.cluster)
    if not args.skip_preflight:
        preflight.require(compiled.plan, way.kube)
    version = upload(way.api, compiled.documents, compiled.plan.revision)
    print(f"version     {version.name}" + (" (there already)" if version.reused else ""))
    name = f"{args.recipe or 'sample'} {version.name}"
    run_id = start(way.api, version, name, compiled.overrides, args.experiment, way.cluster)
    print(f"run         {run_id}")
    print(f"Kubeflow    {way.api.run_page(run_id)}")
    print(f"MLflow      {mlflow_page(run_id, args.mlflow)}", flush=True)
    if not args.watch:
        print(f"watch it    {again('watch', run_id, args)}")
        return ExitCode.OK
    return follow(way, run_id, args)


def follow(way: Access, run_id: str, args: argparse.Namespace) -> ExitCode:
    """Watch a run to its end; Ctrl-C leaves it going and says how to come back and how to cancel."""
    screen = Screen()
    try:
        watch = Watch(way.api, way.kube, run_id)
        run = watch.follow(screen)
    except KeyboardInterrupt:
        screen.say("\nThe run goes on.")
        print(f"watch it    {again('watch', run_id, args)}\ncancel it   {again('cancel', run_id, args)}")
        return ExitCode.INTERRUPTED
    print("\n".join([*watch.failures(run), "", ending(run)]))
    if run.state == "succeeded":
        print(f"fetch it    {again('pull', run_id, args)}")
    return outcome(run)


def again(verb: str, run_id: str, args: argparse.Namespace) -> str:
    """The command to go on with, with the flags that were given."""
    given = ["host", "namespace", "token_file", "ca_file", "kubeconfig", "context", "cluster"]
    if verb == "pull":  # they name the workspace
        given += ["recipe", "set"]
    words = ["python", "-m", "pipelines.runs", verb, run_id]
    for name in given:
        value = getattr(args, name, None) or []
        for one in value if isinstance(value, list) else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return shlex.join(words)


def compiled_of(args: argparse.Namespace, cluster: Cluster) -> Compiled:
    """Compile the recipe with its changes; what only sets values becomes a parameter of the run.

    So runs that differ in numbers share one version on the server, and Kubeflow can compare them.
    """
    folder = workspace_of(args.recipe, args.set)
    made = plan(folder, cluster)
    check_changes(made, args.set)
    check_parameters(made, folder)
    found, overrides = split(list(documents(compile_plan(made))), inputs(made), base_values(made, args.recipe))
    return Compiled(made, without_cache(found) if args.no_cache else found, overrides)


def _dry_run(args: argparse.Namespace) -> ExitCode:
    """Compile and check; without a server where none is named."""
    way = access(args) if args.host else None
    cluster = way.cluster if way else settings(args)
    compiled = compiled_of(args, cluster)
    tasks, overrides = spec.tasks(compiled.documents), compiled.overrides
    print(f"version     {version_name(compiled.documents, compiled.plan.revision)} with {len(tasks)} tasks")
    print("changed     " + (", ".join(sorted(overrides)) or "nothing"))
    if not args.skip_preflight:
        kube = way.kube if way else connect(cluster.namespace, args.kubeconfig, args.context)
        preflight.require(compiled.plan, kube)
    print("nothing was submitted")
    return ExitCode.OK
