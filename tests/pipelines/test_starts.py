"""A method that goes on from another's model is an edge of the DAG, here, in DVC and in Kubeflow."""

import pytest

from components.common.errors import StageError
from pipelines.dag import check_sources, read_dag
from pipelines.wiring import wire
from tests.pipelines.tiny import ROOT, tiny_workspace

SCRATCH = "components/pretrain/scratch"


def test_the_start_is_an_edge_and_an_input(tmp_path):
    folder = tiny_workspace(tmp_path / "world", methods={"dino": SCRATCH, "next_frame": "models/dino"}, tasks=["vos"])
    dag = read_dag(folder)
    assert ("pretrain@dino", "pretrain@next_frame") in dag.edges
    wirings = wire(dag, ROOT)
    started = wirings["pretrain@next_frame"]
    assert ("start", "pretrain@dino") in {(link.flag, link.producer) for link in started.links}
    assert ("start", SCRATCH) in wirings["pretrain@dino"].names  # a file of the image: no artifact


def test_a_start_that_nobody_trains_is_told(tmp_path):
    folder = tiny_workspace(tmp_path / "world", methods={"next_frame": "models/dino"}, tasks=["vos"])
    with pytest.raises(StageError, match="'models/dino' is a dependency of 'pretrain@next_frame' that no stage makes"):
        check_sources(read_dag(folder))
