"""What a cluster offers the pipeline: names, images, pools, retries. Read from cluster.yaml, never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from components.common.config import Params, deep_merge, parse, read_yaml

DEFAULTS = Path(__file__).with_name("cluster.yaml")


class Toleration(Params):
    """Kubernetes' own fields."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Pool(Params):
    """Which nodes take a pod."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)


class Retry(Params):
    """How a failed pod is tried again."""

    attempts: int = Field(3, ge=0, description="further attempts after the first")
    backoff_s: int = Field(60, ge=0, description="seconds before the first further attempt")
    factor: float = Field(2.0, ge=1, description="each wait is so many times the one before")
    window_s: int = Field(1_209_600, gt=0, description="seconds from the first attempt in which a retry may start")


class Launcher(Params):
    """The pod that watches a stage on several nodes."""

    cpu: float = Field(1, gt=0, description="cores")
    memory_gib: float = Field(2, gt=0)


class Cluster(Params):
    """Settings of one cluster; `config_map`, `secret` and `cache_pvc` may be null where there is none."""

    namespace: str
    service_account: str
    images: dict[str, str]
    image_pull_secrets: list[str] = Field(default_factory=list)
    config_map: str | None = None
    config_map_keys: list[str] = Field(default_factory=list)
    secret: str | None = None
    secret_keys: list[str] = Field(default_factory=list)
    cache_pvc: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    run_as_user: int = Field(gt=0, description="numeric and not root")
    run_as_group: int = Field(ge=0)
    cpu_pool: Pool = Pool()
    gpu_pool: Pool = Pool()
    gpus: bool = Field(True, description="false: no devices here, stages that ask for some run on cores")
    retry: Retry = Retry()
    launcher: Launcher = Launcher()
    fan_out_pods: int = Field(gt=0)
    pipeline_root: str

    @classmethod
    def read(cls, file: Path | None = None) -> Cluster:
        """The defaults with a cluster's own file over them; lists and pools of the file replace the defaults'.

        Raises:
            StageError: the file is missing, unreadable, or has an unknown or impossible value.
        """
        settings = read_yaml(DEFAULTS)
        if file is not None:
            settings = deep_merge(settings, read_yaml(file))
        return parse(cls, settings, str(file or DEFAULTS.name))
