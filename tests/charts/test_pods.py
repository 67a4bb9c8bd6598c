"""Pods: restricted, by version, with everything they name there to be found."""

from __future__ import annotations

import re
from typing import Any

from tests.charts.conftest import FULL, SETS, Objects, Render, containers, kind, named, pods

# Secrets and claims that a set of values brings along instead of the chart.
BROUGHT = {"db-login", "store-keys", "registry-login", "my-cache", "tls"}


def test_pods_pass_the_restricted_standard(objects: Objects) -> None:
    """The standard's rules, as Kubernetes lists them; an API server judges the same in test_control_plane.py."""
    for component, pod in pods(objects).items():
        spec, security = pod["spec"], pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True and security["runAsUser"] > 0, component
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, component
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec), component
        allowed = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
        assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"]), component
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
            assert own["readOnlyRootFilesystem"] is True and "privileged" not in own
            assert not any("hostPort" in port for port in container.get("ports", []))


def test_no_pod_sees_a_token_or_its_neighbours_addresses(objects: Objects) -> None:
    for component, pod in pods(objects).items():
        assert pod["spec"]["automountServiceAccountToken"] is False, component
        assert pod["spec"]["enableServiceLinks"] is False, component
        assert "serviceAccountName" not in pod["spec"], component


def test_images_are_named_by_version_or_digest(render: Render) -> None:
    images = [c["image"] for values in SETS.values() for pod in pods(render(values)).values() for c in containers(pod)]
    assert all(re.fullmatch(r"[a-z0-9./-]+(:v?\d[\w.-]*|@sha256:[0-9a-f]{64})", image) for image in images), set(images)
    pinned = {c["image"] for c in containers(pods(render(FULL))["mlflow"])}
    assert pinned == {"ghcr.io/mlflow/mlflow@sha256:" + "a" * 64}


def test_every_container_states_what_it_takes(objects: Objects) -> None:
    for component, pod in pods(objects).items():
        for container in containers(pod):
            resources = container["resources"]
            assert {"cpu", "memory"} == set(resources["requests"]) == set(resources["limits"]), component


def test_what_is_mounted_or_read_exists(objects: Objects) -> None:
    there = {(o["kind"], o["metadata"]["name"]) for o in objects} | {
        (k, n) for k in ("Secret", "PersistentVolumeClaim") for n in BROUGHT
    }
    for pod in pods(objects).values():
        claims = _claims(objects, pod)
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        for source in _sources(pod):
            assert source in there, source
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= set(volumes) | claims
    config = {o["metadata"]["name"]: o["data"] for o in kind(objects, "ConfigMap")}
    for pod in pods(objects).values():  # a script that is run lies in the mounted folder
        for container in containers(pod):
            scripts = [word for word in container.get("command", []) if word.startswith("/scripts/")]
            assert all(script.removeprefix("/scripts/") in config[_scripts(pod)] for script in scripts)


def _claims(objects: Objects, pod: dict[str, Any]) -> set[str]:
    """Volumes that a StatefulSet makes for the pod."""
    owners = [o for o in kind(objects, "StatefulSet") if o["spec"]["template"] is pod]
    return {claim["metadata"]["name"] for o in owners for claim in o["spec"]["volumeClaimTemplates"]}


def _scripts(pod: dict[str, Any]) -> str:
    return next(v["configMap"]["name"] for v in pod["spec"]["volumes"] if v["name"] == "scripts")


def _sources(pod: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, name) of every Secret, ConfigMap and claim a pod names."""
    found = [("Secret", each["name"]) for each in pod["spec"].get("imagePullSecrets", [])]
    for volume in pod["spec"]["volumes"]:
        if "configMap" in volume:
            found.append(("ConfigMap", volume["configMap"]["name"]))
        if "secret" in volume:
            found.append(("Secret", volume["secret"]["secretName"]))
        if "persistentVolumeClaim" in volume:
            found.append(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    variables = [variable for container in containers(pod) for variable in container.get("env", [])]
    found += [("Secret", v["valueFrom"]["secretKeyRef"]["name"]) for v in variables if "valueFrom" in v]
    return found


def test_selectors_find_their_pods_and_no_others(objects: Objects) -> None:
    labels = {component: pod["metadata"]["labels"] for component, pod in pods(objects).items()}
    for each in kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        wanted = each["spec"]["selector"]["matchLabels"].items()
        found = {component for component, has in labels.items() if wanted <= has.items()}
        assert found == {each["metadata"]["labels"]["app.kubernetes.io/component"]}


def test_services_reach_a_port_of_a_container(objects: Objects) -> None:
    for service in kind(objects, "Service"):
        component = service["metadata"]["labels"]["app.kubernetes.io/component"]
        pod = pods(objects)[component]
        assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for c in containers(pod) for port in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]  # policies name the pod's port


def test_probes_ask_where_something_listens(objects: Objects) -> None:
    for component in {"mlflow", "postgresql", "seaweedfs"} & set(pods(objects)):
        for container in pods(objects)[component]["spec"]["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[probe].get("httpGet", {"port": next(iter(ports))})
                assert asked["port"] in ports and container[probe].get("timeoutSeconds", 1) <= 10


def test_mlflow_is_set_up_to_be_asked_by_name_and_to_unpickle_nothing(render: Render) -> None:
    container = pods(render(FULL))["mlflow"]["spec"]["containers"][0]
    arguments = dict(argument.removeprefix("--").partition("=")[::2] for argument in container["args"])
    hosts = arguments["allowed-hosts"].split(",")
    assert {
        "longtake-mlflow.longtake.svc:5000",
        "localhost:*",
        "mlflow.example.org",
        "ml.example.org",
        "mlflow.lan:*",
    } <= set(hosts)
    assert "*" not in hosts
    origins = arguments["cors-allowed-origins"].split(",")
    assert {"https://mlflow.example.org", "https://notebooks.example.org"} <= set(origins) and "*" not in origins
    assert arguments["artifacts-destination"] == "s3://longtake/mlflow"
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_plain_ingress_is_an_http_origin(render: Render) -> None:
    values = {"mlflow": {"ingress": {"enabled": True, "host": "mlflow.lan"}}}
    arguments = pods(render(values))["mlflow"]["spec"]["containers"][0]["args"]
    assert any(a.startswith("--cors") and a.endswith(",http://mlflow.lan") for a in arguments)


def test_only_the_store_s_s3_port_listens_outside_of_its_pod(render: Render) -> None:
    container = pods(render({}))["seaweedfs"]["spec"]["containers"][0]
    arguments = dict(argument.removeprefix("-").partition("=")[::2] for argument in container["args"][1:])
    assert arguments["ip.bind"] == "127.0.0.1" and arguments["s3.ip.bind"] == "0.0.0.0"
    assert arguments["s3.port"] == "8333" and arguments["s3.port.iceberg"] == arguments["s3.port.lance"] == "0"


def test_ingress_and_route_lead_to_the_service(render: Render) -> None:
    objects = render(FULL)
    service = named(objects, "Service", "longtake-mlflow")["spec"]["ports"][0]
    (rule,) = named(objects, "Ingress", "longtake-mlflow")["spec"]["rules"]
    assert rule["host"] == "mlflow.example.org"
    assert rule["http"]["paths"][0]["backend"]["service"] == {
        "name": "longtake-mlflow",
        "port": {"name": service["name"]},
    }
    route = named(objects, "HTTPRoute", "longtake-mlflow")["spec"]
    assert route["parentRefs"] == [{"name": "gateway"}] and route["hostnames"] == ["ml.example.org"]
    assert route["rules"][0]["backendRefs"] == [{"name": "longtake-mlflow", "port": service["port"]}]


def test_the_cache_is_made_by_a_pod_like_the_pipelines(render: Render) -> None:
    spec = pods(render({"pipelines": {"runAsUser": 4242}}))["cache"]["spec"]
    identity = {key: spec["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")}
    assert identity == {"runAsUser": 4242, "runAsGroup": 0, "fsGroup": 0}
    assert "nodeSelector" not in spec
    one_node = pods(render(FULL))["cache"]["spec"]
    assert one_node["nodeSelector"] == {"pool": "h200"} and one_node["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_servers_of_one_release_share_the_load_and_survive_a_drain(render: Render) -> None:
    objects = render(FULL)
    assert named(objects, "PodDisruptionBudget", "longtake-mlflow")["spec"]["maxUnavailable"] == 1
    deployment = named(objects, "Deployment", "longtake-mlflow")["spec"]
    assert deployment["replicas"] == 2 and deployment["strategy"] == {"type": "Recreate"}
