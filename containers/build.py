"""Build the images of the pipeline and say their sizes: `make images`. Standard library only, so it needs no setup.

    python containers/build.py [--base IMAGE|local] [--registry HOST/PATH] [--tag TAG] [--push] [data] [train] [...]

Options that it does not know go to `docker build` (`--network=host`, `--no-cache`). SSL_CERT_FILE, PIP_CONFIG_FILE and
UV_CONFIG_FILE, where set, reach the build as secrets: mounted while packages are fetched, part of no layer.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("data", "train")
BASE = "python:3.11-slim-bookworm"
LOCAL_BASE = "longtake/base:bookworm"  # what containers/base.sh makes
SECRETS = {"ca": "SSL_CERT_FILE", "pip": "PIP_CONFIG_FILE", "uv": "UV_CONFIG_FILE"}
PLUGIN_SINCE = 23  # from this version on, docker's command line builds with BuildKit by its buildx plugin only


class BuildError(Exception):
    """What went wrong and what to do about it, in one line."""

    code = 1


class MissingError(BuildError):
    """This machine lacks what a build needs: an engine, a base image."""

    code = 2


def main(argv: list[str] | None = None) -> int:
    """Build, perhaps push, and print one line an image; returns the exit code."""
    args, extra = parser().parse_known_args(argv)
    names = [name for name in IMAGES if name in extra] or list(IMAGES)
    options = [option for option in extra if option not in IMAGES]
    try:
        docker = find_docker()
        base = find_base(docker, args.base)
        for name in names:
            tag = f"{args.registry}/longtake/{name}:{args.tag}".lstrip("/")
            build(docker, name, tag, base, options)
            print(f"{tag}\t{int(ask(docker, 'image', 'inspect', '--format={{.Size}}', tag)) / 1e9:.2f} GB", flush=True)
            if args.push:
                print(f"{push(docker, tag)}\tfor `images` in pipelines/cluster.yaml", flush=True)
    except BuildError as error:
        print(f"images: {error}", file=sys.stderr)
        return error.code
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="containers/build.py", description="Build the images of the pipeline.")
    parser.add_argument("--base", default=BASE, help="an image with Python 3.11 and venv, or `local`: made from Debian")
    parser.add_argument("--registry", default="", help="put before the names, for a push")
    parser.add_argument("--tag", default="dev")
    parser.add_argument("--push", action="store_true", help="push, and print the digests that a cluster is to use")
    return parser


def find_docker() -> str:
    """A docker command whose engine answers and that can build: DOCKER, else the one on the PATH, else Debian's.

    Raises:
        MissingError: no engine answers, or no command can build.
    """
    asked = os.environ.get("DOCKER")
    commands = [asked] if asked else ["docker", "/usr/bin/docker"]
    answering = {command: major for command in commands if (major := client_version(command))}
    if not answering:
        raise MissingError("no Docker engine answers; start one (`dockerd`), or say where it is (DOCKER_HOST)")
    for command, major in answering.items():
        if major < PLUGIN_SINCE or succeeds(command, "buildx", "version"):
            return command
    raise MissingError("this docker command builds by its buildx plugin only: install that, or name another (DOCKER=)")


def client_version(docker: str) -> int:
    """Major version of a docker command; 0 where there is none, or no engine answers it."""
    try:
        client, _engine = ask(docker, "version", "--format={{.Client.Version}} {{.Server.Version}}").split()
    except (BuildError, OSError, ValueError):
        return 0
    return int(client.partition(".")[0])


def find_base(docker: str, base: str) -> str:
    """The name of a base image that is here now; the local one is made if it is missing.

    Raises:
        MissingError: it is not here and no registry gives it.
    """
    name = LOCAL_BASE if base == "local" else base
    if succeeds(docker, "image", "inspect", name):
        return name
    if base == "local":
        done = subprocess.run([ROOT / "containers/base.sh", name], env={**os.environ, "DOCKER": docker})
        if done.returncode:
            raise MissingError("the local base image could not be made, see above")
    elif not succeeds(docker, "pull", name):
        raise MissingError(f"no registry gives the base image {name}; `make images BASE=local` makes one from Debian")
    return name


def build(docker: str, name: str, tag: str, base: str, options: list[str]) -> None:
    """Build one image; docker's own output goes through.

    Raises:
        BuildError: docker says no; its output tells why.
    """
    facts = {"BASE": base, "IMAGE": name, **labels()}
    arguments = [f"--build-arg={key}={value}" for key, value in facts.items()]
    secrets = [f"--secret=id={key},src={os.environ[name]}" for key, name in SECRETS.items() if os.environ.get(name)]
    command = [docker, "build", *arguments, *secrets, "--file=containers/Dockerfile", f"--tag={tag}", *options, "."]
    if subprocess.run(command, cwd=ROOT, env={**os.environ, "DOCKER_BUILDKIT": "1"}).returncode:
        raise BuildError(f"{tag} could not be built, see above")


def labels() -> dict[str, str]:
    """Revision, version and time of what is built: the commit's, so that the same commit gives the same labels.

    Raises:
        BuildError: SOURCE_DATE_EPOCH is no number.
    """
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or git("log", "-1", "--format=%ct") or "0"
    if not epoch.isdecimal():
        raise BuildError(f"SOURCE_DATE_EPOCH counts seconds since 1970, got '{epoch}'")
    return {
        "REVISION": git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown",
        "VERSION": version,
        "CREATED": datetime.fromtimestamp(int(epoch), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def push(docker: str, tag: str) -> str:
    """Push an image and return its name by digest."""
    if subprocess.run([docker, "push", "--quiet", tag], stdout=subprocess.DEVNULL).returncode:
        raise BuildError(f"{tag} could not be pushed, see above; is `docker login` done?")
    digests = ask(docker, "image", "inspect", '--format={{join .RepoDigests " "}}', tag).split()
    repository = tag.rpartition(":")[0]
    return next(digest for digest in digests if digest.startswith(f"{repository}@"))


def git(*arguments: str) -> str:
    """What git says of this checkout; nothing where there is no git or no checkout."""
    try:
        return ask("git", "-C", str(ROOT), *arguments)
    except (BuildError, OSError):
        return ""


def ask(*command: str) -> str:
    """Output of a command."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(done.stderr.strip() or f"{command[0]} failed")
    return done.stdout.strip()


def succeeds(*command: str) -> bool:
    """Whether a command ends well; its output is nobody's business."""
    return subprocess.run(command, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
