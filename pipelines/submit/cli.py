"""What the command lines of `pipelines.submit` and `pipelines.runs` share: how to reach the servers."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from components.common.errors import StageError
from pipelines.cluster import Cluster
from pipelines.submit.api import Kfp
from pipelines.submit.kube import Kube, connect


@dataclass(frozen=True)
class Access:
    """The two servers, and the settings of their cluster; `kube` is None where there is no way to it."""

    api: Kfp
    kube: Kube | None
    cluster: Cluster


def add_access(parser: argparse.ArgumentParser) -> None:
    """Host, namespace and credentials: by flags and environment only."""
    group = parser.add_argument_group("access")
    group.add_argument("--host", default=os.environ.get("LONGTAKE_KFP_HOST"), metavar="URL",
                       help="Kubeflow Pipelines, as opened in a browser (or LONGTAKE_KFP_HOST)")  # fmt: skip
    group.add_argument(
        "--namespace", metavar="NAME", help="where the pods run; default: that of the cluster's settings"
    )
    group.add_argument("--token-file", type=Path, help="holds a bearer token (or KF_PIPELINES_TOKEN)")
    group.add_argument("--ca-file", type=Path, help="CA bundle of the host, for https with a certificate of your own")
    group.add_argument("--kubeconfig", type=Path, help="default: KUBECONFIG, ~/.kube/config, or that of this pod")
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: its current one")
    group.add_argument("--cluster", type=Path, metavar="FILE", help="settings over pipelines/cluster.yaml")


def access(args: argparse.Namespace) -> Access:
    """Reach Kubeflow, and the cluster where that is possible; raises StageError with what stands in the way."""
    cluster = settings(args)
    if not args.host:
        raise StageError("no server is named", do="--host URL, or set LONGTAKE_KFP_HOST")
    api = Kfp(args.host, cluster.namespace, args.token_file, args.ca_file)
    api.check_version()
    return Access(api, connect(cluster.namespace, args.kubeconfig, args.context), cluster)


def settings(args: argparse.Namespace) -> Cluster:
    """The cluster's settings with `--namespace` over them."""
    cluster = Cluster.read(args.cluster)
    return cluster.model_copy(update={"namespace": args.namespace}) if args.namespace else cluster
