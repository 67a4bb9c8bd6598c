"""The real tools of the chart's tests, built once from their Go modules into a cache folder outside the repository.

python -m tests.charts.tools            # helm, helm-docs
python -m tests.charts.tools --all      # and a Kubernetes API server with its etcd: some ten minutes of one core
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MODULES = {
    "helm": ("helm.sh/helm/v3/cmd/helm", "v3.22.0"),
    "helm-docs": ("github.com/norwoodj/helm-docs/cmd/helm-docs", "v1.14.2"),
}
# Kubernetes' own module replaces its parts by folders of its repository, which `go install` refuses; the parts are
# published too, under the same number.
KUBERNETES = "1.36.3"
CONTROL_PLANE = {
    "kube-apiserver": (
        f"k8s.io/kubernetes v{KUBERNETES}",
        'import ("os"; "k8s.io/component-base/cli"; "k8s.io/kubernetes/cmd/kube-apiserver/app")\n'
        "func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }",
    ),
    "etcd": (
        "go.etcd.io/etcd/server/v3 v3.7.3",
        'import ("os"; "go.etcd.io/etcd/server/v3/etcdmain")\nfunc main() { etcdmain.Main(os.Args) }',
    ),
}
VERSION = "k8s.io/component-base/version.git"


class Unavailable(Exception):
    """This machine cannot have the tool; the message says why."""


def folder() -> Path:
    """Where tools are kept: below XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "longtake-tools"


def tool(name: str, build: bool = True) -> Path:
    """The executable: of the PATH, of the cache, or built now.

    Raises:
        Unavailable: it is nowhere, and `build` is false, Go is not at hand, or its modules cannot be fetched.
    """
    version = MODULES[name][1] if name in MODULES else KUBERNETES
    cached = folder() / version / name
    if found := shutil.which(name):
        return Path(found)
    if cached.exists():
        return cached
    if not build:
        more = "" if name in MODULES else " --all"
        raise Unavailable(f"{name} is neither on the PATH nor in {folder()}: python -m tests.charts.tools{more}")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with (folder() / f"{name}.lock").open("w") as lock:  # several test processes may ask at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cached.exists():
            _install(name, cached) if name in MODULES else _compile(name, cached)
    return cached


def _install(name: str, target: Path) -> None:
    module, version = MODULES[name]
    _go(["install", "-trimpath", "-ldflags=-s -w", f"{module}@{version}"], target.parent, GOBIN=str(target.parent))


def _compile(name: str, target: Path) -> None:
    module, program = CONTROL_PLANE[name]
    source = folder() / f"{name}.build"
    source.mkdir(exist_ok=True)
    (source / "main.go").write_text(f"package main\n\n{program}\n")
    (source / "go.mod").write_text(f"module build\n\ngo 1.26.0\n\nrequire {module}\n{_replacements(module)}")
    _go(["mod", "tidy"], source)
    major, minor, _ = KUBERNETES.split(".")
    told = {"Version": f"v{KUBERNETES}", "Major": major, "Minor": minor}
    flags = " ".join(f"-X {VERSION}{key}={value}" for key, value in told.items())
    partial = target.with_suffix(".partial")
    _go(["build", "-trimpath", f"-ldflags=-s -w {flags}", "-o", str(partial), "."], source)
    partial.rename(target)
    shutil.rmtree(source)


def _replacements(module: str) -> str:
    if not module.startswith("k8s.io/kubernetes "):
        return ""
    fetched = _go(["mod", "download", "-json", module.replace(" ", "@")], folder())
    lines = [line for line in fetched.splitlines() if '"GoMod"' in line]
    text = Path(lines[0].split('"')[3]).read_text()
    parts = [line.split()[0] for line in text.splitlines() if "=> ./staging/" in line]
    staged = "v0." + KUBERNETES.partition(".")[2]
    return "replace (\n" + "".join(f"\t{part} => {part} {staged}\n" for part in parts) + ")\n"


def _go(arguments: Sequence[str], cwd: Path, **environment: str) -> str:
    # an official installation leaves Go beside the PATH of a plain shell
    go = shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/go/bin"]))
    if go is None:
        raise Unavailable("neither the tool nor Go is at hand")
    process = subprocess.run(
        [go, *arguments], cwd=cwd, env={**os.environ, "CGO_ENABLED": "0", **environment}, capture_output=True, text=True
    )
    if process.returncode:
        raise Unavailable(f"go {arguments[0]}: {process.stderr.strip().splitlines()[-1]}")
    return process.stdout


if __name__ == "__main__":
    for wanted in [*MODULES, *(CONTROL_PLANE if "--all" in sys.argv else [])]:
        print(tool(wanted))
