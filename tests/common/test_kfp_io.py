"""Executor inputs as Kubeflow's launcher and its local runner write them."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import StageError
from components.common.kfp_io import input_paths, write_executor_output

DATASET = {"schemaTitle": "system.Dataset", "schemaVersion": "0.0.1"}
RUN = "/tmp/out/longtake-2026-11-21-12-36-53-598294"
# Recorded from kfp 2.17's DockerRunner: two iterations of a ParallelFor, collected.
ITERATIONS = [f"{RUN}/for-loop-2-iteration-{number}/extract/frames" for number in range(2)]
LOCAL = {
    "inputs": {
        "artifacts": {
            "merge": {
                "artifacts": [{"name": "frames", "type": DATASET, "uri": uri, "metadata": {}} for uri in ITERATIONS]
            }
        }
    },
    "outputs": {
        "artifacts": {"frames": {"artifacts": [{"name": "frames", "type": DATASET, "uri": f"{RUN}/merge/frames"}]}},
        "outputFile": f"{RUN}/merge/executor_output.json",
    },
}


def on_cluster(*uris):
    artifacts = [{"name": "frames", "type": DATASET, "uri": uri, "metadata": {"n_frames": 3.0}} for uri in uris]
    return json.dumps({"inputs": {"parameterValues": {"seed": 0.0}, "artifacts": {"merge": {"artifacts": artifacts}}}})


def test_a_local_run_names_plain_paths():
    assert input_paths(json.dumps(LOCAL), "merge") == ITERATIONS


def test_on_a_cluster_addresses_become_the_places_of_the_launcher():
    """The launcher's rule is LocalPathForURI in backend/src/v2/component of Kubeflow Pipelines."""
    uris = ("s3://longtake/kfp/a/frames", "gs://b/x", "minio://mlpipeline/v2/y", "oci://quay.io/org/model:1")
    assert input_paths(on_cluster(*uris), "merge") == [
        "/s3/longtake/kfp/a/frames",
        "/gcs/b/x",
        "/minio/mlpipeline/v2/y",
        "/oci/quay.io_org_model:1/models",
    ]


def test_a_task_without_the_list_has_no_paths():
    assert input_paths(json.dumps(LOCAL), "metrics") == []
    assert input_paths(json.dumps({"outputs": LOCAL["outputs"]}), "merge") == []  # what is empty is left out


@pytest.mark.parametrize(
    "text",
    [
        "{{$}}",
        "[]",
        '{"inputs": 3, "outputs": 3}',
        '{"inputs": {"artifacts": {"merge": 3}}, "outputs": {}}',
        '{"inputs": {"artifacts": {"merge": {"artifacts": [{"name": "x"}]}}}, "outputs": {"outputFile": 3}}',
    ],
)
def test_what_is_no_executor_input_is_said_so(text):
    for read in (lambda: input_paths(text, "merge"), lambda: write_executor_output(text, {})):
        with pytest.raises(StageError, match="not an executor input of Kubeflow Pipelines") as error:
            read()
        assert error.value.where == "--executor-input"


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_any_json_is_read_or_refused(value):
    for text in (json.dumps(value), json.dumps({"inputs": value}), json.dumps({"inputs": {"artifacts": value}})):
        with contextlib.suppress(StageError):
            assert input_paths(text, "merge") == []
