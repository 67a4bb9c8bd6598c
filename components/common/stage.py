"""The stage contract: what every stage's command line, parameters, inputs and outputs have in common.

A stage declares itself (`Stage`), and `main` does the rest: typed parameters, checked inputs, outputs that appear
whole or not at all, a folder that survives kills, one tracked run, Kubeflow's executor output, exit codes.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from components.common import kfp_io
from components.common.claims import Claim
from components.common.config import Section, StageParams, deep_merge, parse, read_yaml, section_of
from components.common.context import Context, cache_root
from components.common.errors import ExitCode, StageError
from components.common.gather import gathered
from components.common.incoming import fetched, local_path
from components.common.places import check_place, dropper, finish, fresh
from components.common.s3.address import address_of
from components.common.s3.outgoing import Outgoing

ParamsModel = type[StageParams] | Callable[[str | None, Section], type[StageParams]]


@dataclass(frozen=True)
class Port:
    """A named input or output.

    Attributes:
        help: one line for `--help`.
        kind: folder or file.
        type: Kubeflow artifact type.
        optional: may be left out.
        many: a folder that holds several artifacts (inputs only); they may also be given one by one, as NAME=PATH.
        named: of many: whether each artifact needs its name; else paths will do.
        name_ok: the value may be a name instead of a path (`timm:vit_small_patch16_224`).
        ranged: the stage reads an `s3://` address itself, piece by piece; what others name is fetched whole.
        resumes: what a killed run has built of this output is kept, for the stage to tell apart and go on with.
    """

    help: str
    kind: Literal["dir", "file"] = "dir"
    type: Literal["Dataset", "Model", "Metrics", "HTML", "Artifact"] = "Dataset"
    optional: bool = False
    many: bool = False
    named: bool = True
    name_ok: bool = False
    ranged: bool = False
    resumes: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage's declaration.

    Attributes:
        params: a model, or a function (key, section) -> model where it depends on them.
        options: name -> help of what a command line may say beside inputs, outputs and parameters.
        section_key: which key selects the sub-section of the parameters; default: the last one.
    """

    name: str
    help: str
    params: ParamsModel
    keys: tuple[str, ...] = ()
    inputs: dict[str, Port] = field(default_factory=dict)
    outputs: dict[str, Port] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    section_key: str | None = None

    def parser(self) -> argparse.ArgumentParser:
        """The command line; names are the same in dvc.yaml, in the container and in Kubeflow."""
        parser = argparse.ArgumentParser(prog=f"python -m components.{self.name}", description=self.help)
        for key in self.keys:
            parser.add_argument(f"--{key}", required=True, metavar="NAME")
        for name, port in {**self.inputs, **self.outputs}.items():
            metavar = "[NAME=]PATH" if port.many and port.named else "PATH"
            action = "append" if port.many else "store"
            parser.add_argument(f"--{name}", required=not port.optional, help=port.help, metavar=metavar, action=action)
        for name, text in self.options.items():
            parser.add_argument(f"--{name}", metavar="VALUE", help=text)
        parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file")
        parser.add_argument(
            "--param",
            action="append",
            default=[],
            metavar="a.b=JSON",
            help="a part of the parameters, instead of a file",
        )
        parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="change one parameter")
        parser.add_argument("--executor-input", metavar="JSON", help="given by Kubeflow Pipelines")
        parser.add_argument("--check", action="store_true", help="check the parameters, then stop")
        parser.add_argument("--describe", action=_Describe, stage=self, help="print this declaration as JSON")
        return parser

    def describe(self) -> dict[str, Any]:
        """The declaration as plain data, for those who may not import a stage (the compiler of the pipeline)."""
        facts = ("kind", "type", "optional", "many")
        ports = {"inputs": self.inputs, "outputs": self.outputs}
        described = {
            side: {name: {fact: getattr(port, fact) for fact in facts} for name, port in named.items()}
            for side, named in ports.items()
        }
        return {"name": self.name, "help": self.help, "keys": list(self.keys), **described, "options": self.options}


class _Describe(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, stage: Stage, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)
        self._stage = stage

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(json.dumps(self._stage.describe()))
        parser.exit()


def main(stage: Stage, run: Callable[[Context], None], argv: list[str] | None = None) -> int:
    """Run a stage from its command line and return its exit code."""
    args = stage.parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        if os.environ.get("RANK", "0") != "0":  # torchrun started it several times; pretrain's others never come here
            raise StageError("this stage runs in one process", where=stage.name, do="set its gpus and nodes to 1")
        execute(stage, run, args)
    except StageError as error:
        print(f"{stage.name}: {error}", file=sys.stderr)
        return int(error.code)
    except KeyboardInterrupt:
        print(f"{stage.name}: interrupted; nothing was half-written, run it again to go on", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        print(f"{stage.name}: {_machine_trouble(error)}", file=sys.stderr)
        return int(ExitCode.NO_ROOM)
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # nothing is left to tidy
    return int(ExitCode.OK)


def execute(stage: Stage, run: Callable[[Context], None], args: argparse.Namespace) -> None:
    """Resolve everything, run the stage, put its outputs in place."""
    keys = {key: getattr(args, key) for key in stage.keys}
    params = resolve_params(stage, keys, args)
    if args.check:
        return
    inputs = {name: _input(port, name, _given(port, name, args)) for name, port in stage.inputs.items()}
    outgoing = Outgoing({name: value for name in stage.outputs if (value := getattr(args, name)) is not None})
    for name, place in outgoing.places.items():
        check_place(name, stage.outputs[name], place, inputs)
    options = {name: value for name in stage.options if (value := getattr(args, name)) is not None}
    ctx = Context(stage.name, keys, params, inputs, outgoing.places, options=options)
    ctx.handed_over = args.executor_input is not None
    with ExitStack() as held:
        held.enter_context(_only_one(ctx))
        held.callback(ctx.release)
        _run(stage, run, ctx, outgoing)
        if args.executor_input:
            kfp_io.write_executor_output(args.executor_input, ctx.notes)
        ctx.drop_cache()


def _run(stage: Stage, run: Callable[[Context], None], ctx: Context, outgoing: Outgoing) -> None:
    """Run the stage on fresh outputs and put them in place; without success none of them stays in sight."""
    with ExitStack() as stack:
        built = outgoing.is_built(ctx)
        if not built:
            ctx.outputs = {name: fresh(stage.outputs[name], place) for name, place in ctx.places.items()}
            for name, partial in ctx.outputs.items():
                stack.push(dropper(stage.outputs[name], partial))
        stack.enter_context(ctx.tracked())
        if not built:
            run(ctx)
            finish(stage, ctx)
        outgoing.send(ctx)


def resolve_params(stage: Stage, keys: dict[str, str], args: argparse.Namespace) -> StageParams:
    """The stage's validated parameters: file (or JSON), then `--set`."""
    key = keys.get(stage.section_key or (stage.keys[-1] if stage.keys else ""))
    where = "--param" if args.param else str(args.params)
    section = section_of(_document(args), stage.name, key, where)
    where += f", {stage.name}" + (f".{key}" if key else "")
    for change in args.set:
        section = deep_merge(section, parse_change(change))
    model = stage.params if isinstance(stage.params, type) else stage.params(key, section)
    return parse(model, section, where)


def _document(args: argparse.Namespace) -> Section:
    """The tree of parameters: the parts given on the command line, or the file."""
    if not args.param:
        return read_yaml(args.params)
    document: Section = {}
    for part in args.param:
        document = deep_merge(document, whole_numbers(parse_change(part, option="--param")))
    return document


def whole_numbers(value: Any) -> Any:
    """2.0 as 2: Kubeflow turns every integer of a JSON parameter into a float, and timm takes no floats for sizes."""
    if isinstance(value, dict):
        return {key: whole_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [whole_numbers(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _value(text: str) -> Any:
    """A value as JSON, else as YAML: what is JSON means the same in both but for 1e-05, a word in YAML 1.1."""
    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def parse_change(text: str, option: str = "--set") -> Section:
    """`a.b=c` as {"a": {"b": c}}, the value read as YAML."""
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise StageError(f"{option} takes a.b=value, got '{text}'")
    try:
        change: Any = _value(value)
    except yaml.YAMLError as error:
        raise StageError(f"value not readable, {' '.join(str(error).split())}", where=f"{option} {path}") from None
    for part in reversed(path.split(".")):
        change = {part: change}
    return dict(change)


def _given(port: Port, name: str, args: argparse.Namespace) -> str | list[str] | None:
    """What the command line says of an input; a list of artifacts stands in Kubeflow's executor input alone."""
    value: str | list[str] | None = getattr(args, name)
    if value is None and port.many and args.executor_input:
        return kfp_io.input_paths(args.executor_input, name) or None
    return value


def _input(port: Port, name: str, value: str | list[str] | None) -> Path | None:
    if value is None:
        return None
    if isinstance(value, list):
        path = gathered([fetched(each) for each in value], name, cache_root(), port.named)
    elif port.ranged and address_of(value) is not None:
        return Path(value)
    else:
        path = local_path(value)
    if port.name_ok and not path.exists():
        return path
    if not path.exists():
        raise StageError(f"input '{name}' does not exist", where=path, do="run the stage that makes it first")
    if port.kind == "dir" and not path.is_dir() and not port.name_ok:
        raise StageError(f"input '{name}' must be a folder", where=path)
    if port.kind == "file" and not path.is_file():
        raise StageError(f"input '{name}' must be a file", where=path)
    return path


@contextmanager
def _only_one(ctx: Context) -> Iterator[None]:
    """Two processes never build the same outputs at once."""
    places = [place.absolute() for place in ctx.places.values()]
    claim = Claim(places, cache_root() / "locks")
    if not claim.take():
        raise StageError("another process is writing the same outputs", where=min(places), code=ExitCode.BUSY)
    try:
        yield
    finally:
        claim.release()


def _terminated(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _machine_trouble(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where} (free some space and run it again; it goes on from where it was)"
    return f"{(error.strerror or 'no access').lower()}{where} (check the permissions)"
