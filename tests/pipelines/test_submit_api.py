"""Kubeflow's API through the generated client, against a server over HTTP."""

import socket
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml

from components.common.errors import ExitCode, StageError
from pipelines.cluster import Cluster
from pipelines.submit import spec
from pipelines.submit.api import Kfp
from pipelines.submit.kube import connect
from pipelines.submit.links import mlflow_page
from pipelines.submit.upload import start, upload, version_name, without_cache


@pytest.fixture
def api(kfp):
    return Kfp(kfp.url, "team-a")


def test_the_same_content_is_uploaded_once(api, kfp, documents):
    first = upload(api, documents, "abc123-dirty")
    again = upload(api, documents, "abc123-dirty")
    assert (first.version_id, first.reused, again.version_id, again.reused) == (
        first.version_id,
        False,
        first.version_id,
        True,
    )
    assert len(kfp.asked("POST", "/pipelines/upload_version")) == 1
    assert len(kfp.asked("POST", "/pipelines$")) == 1
    stored = kfp.versions[first.version_id]["pipeline_spec"]
    assert spec.as_documents(stored) == documents


def test_other_content_is_another_version_of_the_same_pipeline(api, kfp, documents):
    first = upload(api, documents, "abc")
    other = upload(api, without_cache(documents), "abc")
    assert first.pipeline_id == other.pipeline_id
    assert first.name != other.name
    assert len(kfp.versions) == 2


def test_a_version_is_named_by_revision_and_content(documents):
    name = version_name(documents, "ABCDEF0123456789-dirty")
    assert name.startswith("abcdef012345-")
    as_integers = list(yaml.safe_load_all(yaml.safe_dump_all(documents).replace("clips: 4.0", "clips: 4")))
    assert as_integers == documents
    assert version_name(as_integers, "ABCDEF0123456789") == name


def test_without_cache_switches_it_off_everywhere(documents):
    text = yaml.safe_dump(without_cache(documents))
    assert "enableCache" not in text
    assert "enableCache: true" in yaml.safe_dump(documents)


def test_more_than_a_page_of_versions_is_searched(api, kfp, documents):
    wanted = upload(api, documents, "abc")
    for number in range(150):
        entry = {"name": f"v{number}", "display_name": f"v{number}", "pipeline_id": wanted.pipeline_id}
        kfp._new(kfp.versions, "pipeline_version_id", entry)
    assert upload(api, documents, "abc").reused


def test_a_run_has_its_parameters_root_and_account(api, kfp, documents):
    cluster = Cluster.read()
    version = upload(api, documents, "abc")
    run_id = start(api, version, "my run", {"seed": 7}, "tries", cluster)
    start(api, version, "my run", {}, "tries", cluster)
    run = kfp.all_runs[run_id]
    assert run["runtime_config"] == {"parameters": {"seed": 7}, "pipeline_root": "s3://longtake/kfp"}
    assert run["service_account"] == "longtake-pipeline"
    assert [e["display_name"] for e in kfp.experiments.values()] == ["tries"]


def test_a_parameter_that_the_pipeline_lacks_is_told_in_the_servers_words(api, documents):
    with pytest.raises(StageError, match="parameter sead is not an input"):
        start(api, upload(api, documents, "abc"), "x", {"sead": 7}, "tries", Cluster.read())


@pytest.mark.parametrize("tag", ["2.16.1", "v2.5.0", "1.8.22"])
def test_an_older_server_is_refused_with_the_version_needed(api, kfp, tag):
    kfp.tag_name = tag
    with pytest.raises(StageError, match=rf"{tag} is too old, 2\.17 is needed: .*retry window"):
        api.check_version()


@pytest.mark.parametrize("tag", ["2.17.0", "2.18.0-rc.1", "3.0.0", "unknown"])
def test_a_newer_or_unnamed_server_is_taken(api, kfp, tag):
    kfp.tag_name = tag
    assert api.check_version() == tag


def test_listings_name_the_namespace_only_where_there_are_several_users(api, kfp):
    api.check_version()
    api.runs()
    assert "namespace" not in kfp.asked("GET", "/runs")[-1].query
    kfp.multi_user, several = True, Kfp(kfp.url, "team-a")
    several.check_version()
    several.runs()
    assert kfp.asked("GET", "/runs")[-1].query["namespace"] == "team-a"


def test_no_server_is_said_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(StageError, match=r"no answer from Kubeflow Pipelines.*refused.*port-forward") as caught:
        Kfp(f"http://127.0.0.1:{port}").check_version()
    assert caught.value.code == ExitCode.UNREACHABLE


def test_http_asked_for_https_is_said(kfp):
    with pytest.raises(StageError, match=r"no secure connection to Kubeflow Pipelines.*http instead of https"):
        Kfp(kfp.url.replace("http://", "https://")).check_version()


def test_an_untrusted_certificate_is_said_and_a_ca_file_mends_it(kfp, tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    make += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(make, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    kfp.secure(context)
    with pytest.raises(StageError, match=r"no secure connection.*--ca-file"):
        Kfp(kfp.url).check_version()
    assert Kfp(kfp.url, ca_file=cert).check_version()


def test_something_else_at_the_address_is_said(api, kfp):
    kfp.fail("healthz", 200, "<html>a login page</html>")
    with pytest.raises(StageError, match="that is not Kubeflow Pipelines"):
        api.check_version()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "does not know you.*--token-file"),
        (302, "does not know you"),
        (403, "does not let you create the run: User 'me' is not authorized"),
        (503, "answered 503"),
    ],
)
def test_refusals_say_what_to_do(api, kfp, documents, status, words):
    version = upload(api, documents, "abc")
    kfp.fail("/runs$", status, {"code": 7, "message": "User 'me' is not authorized"})
    with pytest.raises(StageError, match=words):
        start(api, version, "x", {}, "tries", Cluster.read())


def test_the_token_is_read_anew_for_each_call_and_never_shown(kfp, tmp_path):
    kfp.token = "right-one"
    file = tmp_path / "token"
    file.write_text("stale\n")
    api = Kfp(kfp.url, "", file)
    with pytest.raises(StageError, match="does not know you") as caught:
        api.check_version()
    assert "stale" not in str(caught.value)
    file.write_text("right-one\n")
    assert api.check_version() == kfp.tag_name


def test_a_token_can_come_from_the_environment(kfp, monkeypatch):
    kfp.token = "right-one"
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "right-one")
    assert Kfp(kfp.url).check_version()


@pytest.mark.parametrize("content", ["", "two words", "a\nb"])
def test_a_token_file_holds_one_token(kfp, tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(StageError, match="one token"):
        Kfp(kfp.url, "", tmp_path / "token")


def test_a_missing_token_file_is_named(kfp, tmp_path):
    with pytest.raises(StageError, match="no-token"):
        Kfp(kfp.url, "", tmp_path / "no-token")


@pytest.mark.parametrize("host", ["", "kfp.example.org", "ftp://x", "http://"])
def test_a_host_is_an_address(host):
    with pytest.raises(StageError, match="must be an address"):
        Kfp(host)


def test_a_kubeconfig_that_was_named_must_be_usable(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert connect("longtake") is None
    with pytest.raises(StageError, match="kubeconfig not usable"):
        connect("longtake", Path(tmp_path / "missing"))
    (tmp_path / "broken").write_text("a: [")
    with pytest.raises(StageError, match="kubeconfig not usable"):
        connect("longtake", tmp_path / "broken")


def test_an_unknown_context_is_refused(cluster, tmp_path):
    with pytest.raises(StageError, match=r"kubeconfig not usable.*other"):
        connect("longtake", cluster.kubeconfig(tmp_path), "other")


def test_the_link_leads_to_the_runs_of_the_stages(kfp):
    kfp.route(
        "GET",
        "/api/2.0/mlflow/experiments/get-by-name",
        lambda request: {"experiment": {"experiment_id": "7", "name": request.query["experiment_name"]}},
    )
    link = mlflow_page("r-1", kfp.url)
    assert link == f"{kfp.url}/#/experiments/7/runs?searchFilter=tags.pipeline_run%20%3D%20%22r-1%22"
    kfp.fail("mlflow", 503)
    assert mlflow_page("r-1", kfp.url).startswith(f"{kfp.url} (no answer")
    assert "--mlflow URL" in mlflow_page("r-1", "sqlite:///mlflow.db")
