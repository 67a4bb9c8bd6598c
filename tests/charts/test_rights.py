"""Rights, secrets and settings: no more than needed, given once, and by the names that the compiler uses."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from pipelines.cluster import Cluster
from tests.charts.conftest import EXTERNAL, FULL, Helm, Objects, Render, kind, named, pods

Rules = set[tuple[str, str, str, str]]
ALWAYS: Rules = {
    *(("", "pods", verb, "*") for verb in ("get", "list", "watch")),
    ("", "pods/log", "get", "*"),
    ("argoproj.io", "workflowtaskresults", "create", "*"),
    ("argoproj.io", "workflowtaskresults", "patch", "*"),
    ("", "configmaps", "get", "kfp-launcher"),
}
TRAIN_JOBS: Rules = {
    *(("trainer.kubeflow.org", "trainjobs", verb, "*") for verb in ("create", "get", "list", "watch", "delete")),
    *(("batch", "jobs", verb, "*") for verb in ("get", "list", "watch")),
}
AGENT: Rules = {
    *(("argoproj.io", "workflowtasksets", verb, "*") for verb in ("get", "list", "watch")),
    ("argoproj.io", "workflowtasksets/status", "patch", "*"),
}


def rules(objects: Objects, role: str = "longtake-pipeline") -> Rules:
    """(group, resource, verb, name) of a Role."""
    return {
        (group, resource, verb, name)
        for rule in named(objects, "Role", role)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", ["*"])
    }


def test_rights_of_a_pipeline(render: Render) -> None:
    assert rules(render({})) == ALWAYS
    assert rules(render({"pipelines": {"trainJobs": {"enabled": True}}})) == ALWAYS | TRAIN_JOBS


def test_a_secret_can_be_read_only_where_values_ask_for_it_and_by_name(render: Render) -> None:
    secret = ("", "secrets", "get", "longtake-s3")
    assert rules(render(FULL)) == ALWAYS | TRAIN_JOBS | AGENT | {secret}
    assert rules(render(FULL), "longtake-driver-plugin") == {
        ("", "serviceaccounts/token", "create", "longtake-pipeline"),
        secret,
    }


def test_drivers_in_argos_agent_get_theirs_on_demand(render: Render) -> None:
    objects = render({"pipelines": {"kfp": {"driverPlugin": {"enabled": True}}}})
    assert rules(objects) == ALWAYS | AGENT
    assert rules(objects, "longtake-driver-plugin") == {("", "serviceaccounts/token", "create", "longtake-pipeline")}
    token = named(objects, "Secret", "longtake-pipeline.service-account-token")
    assert token["type"] == "kubernetes.io/service-account-token" and "data" not in token
    assert token["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "longtake-pipeline"}


def test_roles_are_of_the_namespace_and_bound_to_one_account(objects: Objects) -> None:
    assert not kind(objects, "ClusterRole", "ClusterRoleBinding")
    (account,) = kind(objects, "ServiceAccount")
    bound = {b["roleRef"]["name"]: b["subjects"] for b in kind(objects, "RoleBinding")}
    assert set(bound) == {role["metadata"]["name"] for role in kind(objects, "Role")}
    plugin = bound.pop(account["metadata"]["name"].replace("-pipeline", "-driver-plugin"), None)
    assert plugin is None or [s["name"] for s in plugin] == ["ml-pipeline-driver-agent-executor-plugin"]
    name = account["metadata"]["name"]
    assert bound == {name: [{"kind": "ServiceAccount", "name": name, "namespace": "longtake"}]}


def test_secrets_are_generated_only_where_none_is_named(render: Render) -> None:
    assert {s["metadata"]["name"] for s in kind(render({}), "Secret")} == {"longtake-postgresql", "longtake-s3"}
    assert kind(render(EXTERNAL), "Secret") == []
    named_ones = {"database": {"embedded": {"existingSecret": "mine"}}, "s3": {"existingSecret": "also-mine"}}
    objects = render(named_ones)
    assert kind(objects, "Secret") == []
    text = yaml.safe_dump_all(objects)
    assert "longtake-s3" not in text and text.count("also-mine") > 5


def test_generated_secrets_are_long_random_and_kept(template: Helm) -> None:
    first, second = (kind([d for d in yaml.safe_load_all(template({}).stdout) if d], "Secret") for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        for key, value in one["data"].items():
            assert len(base64.b64decode(value)) >= 20 and value != other["data"][key]


def test_no_secret_stands_in_a_pod_a_config_map_or_an_argument(render: Render) -> None:
    objects = render({})
    secrets = [base64.b64decode(v).decode() for s in kind(objects, "Secret") for v in s["data"].values()]
    rest = yaml.safe_dump_all([o for o in objects if o["kind"] != "Secret"])
    assert not any(secret in rest for secret in secrets)
    for pod in pods(objects).values():
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            for variable in container.get("env", []):
                secret = any(word in variable["name"] for word in ("PASSWORD", "SECRET", "ACCESS_KEY"))
                assert ("valueFrom" in variable) == (secret and not variable["name"].endswith("_FILE"))


def cluster(objects: Objects, tmp_path: Path, name: str = "longtake") -> Cluster:
    """The settings of a release, read as a submission reads them."""
    file = tmp_path / "cluster.yaml"
    file.write_text(named(objects, "ConfigMap", f"{name}-cluster")["data"]["cluster.yaml"])
    return Cluster.read(file)


def test_a_release_called_longtake_is_what_the_compiler_takes_by_default(render: Render, tmp_path: Path) -> None:
    assert cluster(render({}), tmp_path) == Cluster.read()


def test_settings_follow_the_values(render: Render, tmp_path: Path) -> None:
    settings = cluster(render(FULL), tmp_path)
    assert settings.gpu_pool.node_selector == {"pool": "h200"}
    assert settings.cpu_pool.tolerations[0].key == "spot" and settings.fan_out_pods == 64
    assert settings.image_pull_secrets == ["registry-login"]
    settings = cluster(render({**EXTERNAL, "fullnameOverride": "other"}), tmp_path, "other")
    assert settings.service_account == "other-pipeline" and settings.cache_pvc == "other-cache"
    assert settings.secret == "store-keys" and settings.config_map == "other-env"


def test_what_the_settings_name_exists(render: Render, tmp_path: Path) -> None:
    objects = render({})
    settings = cluster(objects, tmp_path)
    assert set(named(objects, "ConfigMap", settings.config_map or "")["data"]) == set(settings.config_map_keys)
    assert set(named(objects, "Secret", settings.secret or "")["data"]) == set(settings.secret_keys)
    assert named(objects, "PersistentVolumeClaim", settings.cache_pvc or "")
    assert named(objects, "ServiceAccount", settings.service_account)
    assert settings.namespace == "longtake" and settings.run_as_user == 10001


def test_kubeflow_keeps_artifacts_in_our_store_where_asked(render: Render) -> None:
    def provider(values: dict[str, Any]) -> dict[str, Any]:
        config = named(render(values), "ConfigMap", "kfp-launcher")["data"]
        assert config["defaultPipelineRoot"] == "s3://longtake/kfp"
        return yaml.safe_load(config["providers"])["s3"]["default"]

    by_environment = {"pipelines": {"kfp": {"launcherConfig": {"create": True}}}}
    embedded, external = provider(by_environment), provider({**EXTERNAL, **by_environment})
    assert embedded["endpoint"] == "longtake-seaweedfs.longtake.svc:8333" and embedded["disableSSL"] is True
    assert external["endpoint"] == "s3.eu-west-1.amazonaws.com" and external["disableSSL"] is False
    assert embedded["credentials"] == {"fromEnv": True}
    assert provider(FULL)["credentials"]["secretRef"]["secretName"] == "longtake-s3"
