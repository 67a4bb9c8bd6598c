"""promote against a real MLflow registry in an SQLite file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.common.stage import main
from components.common.tracking import store
from components.promote import commands, promotion
from components.promote.__main__ import STAGE, cli, run
from components.promote.registry import Registry

World = Any  # tests/promote/conftest.py


def promote(world: World) -> dict[str, Any]:
    assert main(STAGE, run, [*world.argv, "--decision", str(world.decision)]) == 0
    return dict(world.decided())


def registry() -> Registry:
    return Registry(store.client(), "tiny")


def state() -> list[tuple[int, str, list[str]]]:
    found = registry()
    return [(v.number, v.run, found.aliases(v.number)) for v in found.versions()]


def test_the_life_of_a_champion(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    first = promote(world)
    assert (first["outcome"], first["candidate"]["run"], first["candidate"]["version"]) == ("promoted", "dino", 1)
    assert first["opponent"] == {"kind": "baseline", "run": "random"}
    assert state() == [(1, "dino", ["candidate", "champion"])]

    world.run("dora", 0.59, 0.7, seed=3)  # better on vos, loses less than 0.02 on knn
    world.set_params({**_params(world), "exclude": ["random", "dino"]})
    second = promote(world)
    assert (second["outcome"], second["opponent"]["run"], second["opponent"]["version"]) == ("promoted", "dino", 1)
    assert state() == [(1, "dino", []), (2, "dora", ["candidate", "champion"])]
    assert registry().version(2).tags["previous_champion"] == "1"  # type: ignore[union-attr]

    world.run("ibot", 0.9, 0.65, seed=4)  # worse on vos: registered as a candidate, not promoted
    world.set_params({**_params(world), "exclude": ["random", "dino", "dora"]})
    third = promote(world)
    assert third["outcome"] == "kept" and "vos main 0.6500 against 0.7000" in third["reason"]
    assert state() == [(1, "dino", []), (2, "dora", ["champion"]), (3, "ibot", ["candidate"])]

    assert commands.main(STAGE, ["rollback", "--model", "tiny"]) == 0
    assert state() == [(1, "dino", ["champion"]), (2, "dora", []), (3, "ibot", ["candidate"])]
    world.set_params({**_params(world), "exclude": ["random", "dino", "ibot"]})
    assert "rolled back by hand" in promote(world)["reason"]  # a pipeline does not bring it back by itself
    assert commands.main(STAGE, ["rollback", "--model", "tiny", "--to", "2"]) == 0
    assert state()[1] == (2, "dora", ["candidate", "champion"])
    capsys.readouterr()
    assert commands.main(STAGE, ["list", "--model", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "knn 0.5900  vos 0.7000" in lines[1] and "champion" in lines[1]


def test_the_champion_gives_embeddings_and_timm_loads_the_same_file(world: World, tmp_path: Path) -> None:
    import mlflow
    import timm
    import torch
    from safetensors.torch import load_file

    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    promote(world)
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    features = mlflow.pyfunc.load_model("models:/tiny@champion").predict(images)
    place = Path(mlflow.artifacts.download_artifacts("models:/tiny@champion", dst_path=str(tmp_path)))
    folder = place / "artifacts" / "encoder"
    config = json.loads((folder / "config.json").read_text())
    encoder = timm.create_model(config["architecture"], **config["model_args"]).eval()
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    with torch.no_grad():
        x = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        np.testing.assert_allclose(features, encoder.forward_features(x)[:, 0].numpy(), atol=2e-5)
    version = store.client().get_model_version_by_alias("tiny", "champion")
    assert "A tiny encoder." in version.description and "| vos | main | 0.6000 | tiny | sample |" in version.description
    assert version.tags["git_revision"] == "unknown" and version.tags["longtake.method"] == "dino"
    best = store.client().search_logged_models(
        [store.experiment_id(store.client())], order_by=[{"field_name": "metrics.vos/main", "ascending": False}]
    )
    assert [model.name for model in best] == ["dino", "random"]


def _params(world: World) -> dict[str, Any]:
    return dict(json.loads(world.params.read_text())["promote"])


def test_run_again_changes_nothing(world: World) -> None:
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    promote(world)
    before, registered = world.decision.read_bytes(), _dump()
    told = [tags["mlflow.modelVersions"] for _, tags, *_ in registered[1] if "mlflow.modelVersions" in tags]
    assert told == ['[{"name": "tiny", "version": "1"}]']  # so that MLflow's page of models links to the registry
    promote(world)
    assert world.decision.read_bytes() == before
    assert _dump() == registered


def _dump() -> Any:
    """Everything the registry and the logged models hold."""
    client = store.client()
    versions = sorted(client.search_model_versions("name = 'tiny'"), key=lambda v: int(v.version))
    models = client.search_logged_models([store.experiment_id(client)])
    told = [(m.model_id, m.tags, m.status, sorted((x.key, x.value) for x in m.metrics)) for m in models]
    aliases = client.get_registered_model("tiny").aliases
    return [(v.version, v.tags, v.description, v.source) for v in versions], sorted(told, key=str), aliases


def test_new_scores_of_the_champion_are_recorded_and_it_stays(world: World) -> None:
    world.run("dino", 0.6, 0.6)
    promote(world)
    world.score("dino", "vos", 0.7)
    again = promote(world)
    assert (again["outcome"], again["reason"]) == ("kept", "'dino' is the champion already")
    assert registry().at("champion").scores["vos"].value == 0.7  # type: ignore[union-attr]
    before = world.decision.read_bytes()
    promote(world)
    assert world.decision.read_bytes() == before


@pytest.mark.parametrize("step", ["ensure", "tag", "point"])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_write_and_run_again(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    """The n-th registry write dies, before or after it took effect, for every n; then the stage is run again."""
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    real = getattr(Registry, step)
    for n in range(1, 12):
        monkeypatch.setattr(Registry, step, _dying(real, n, after))
        try:
            main(STAGE, run, [*world.argv, "--decision", str(world.decision)])
        except RuntimeError:
            assert not world.decision.exists()
        else:
            break
        finally:
            monkeypatch.setattr(Registry, step, real)
        decided = promote(world)
        assert decided["outcome"] == "promoted" and decided["candidate"]["version"] == 1
        assert state() == [(1, "dino", ["candidate", "champion"])]
        _forget(world)
    assert n > 1


def _dying(real: Any, n: int, after: bool) -> Any:
    """`real`, but its n-th call dies: having taken effect (`after`) or not."""
    calls = 0

    def call(self: Registry, *args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(self, *args, **options) if calls != n or after else None
        if calls == n:
            raise RuntimeError("killed")
        return result

    return call


def _forget(world: World) -> None:
    client = store.client()
    client.delete_registered_model("tiny")
    world.decision.unlink()


@pytest.mark.slow  # starts the stage four times
def test_sigkill_at_random_instants_then_run_again(world: World) -> None:
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    command = [sys.executable, "-m", "components.promote", *world.argv, "--decision", str(world.decision)]
    for delay_s in np.random.default_rng(0).uniform(1.5, 6.0, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0
    killed = world.decision.read_bytes()
    assert state() == [(1, "dino", ["candidate", "champion"])]
    _forget(world)
    promote(world)
    assert world.decision.read_bytes() == killed


@pytest.mark.slow  # two interpreters import MLflow
def test_two_at_once_make_one_version(world: World) -> None:
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    store.client()
    places = [world.root / f"decision{i}.json" for i in range(2)]

    def start(place: Path) -> int:
        """As two workspaces would: one registry, caches of their own."""
        command = [sys.executable, "-m", "components.promote", *world.argv, "--decision", str(place)]
        own = {"OMP_NUM_THREADS": "1", "LONGTAKE_CACHE": str(place.with_suffix(".cache"))}
        return subprocess.run(command, env={**os.environ, **own}, timeout=120).returncode

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(start, places)) == [0, 0]
    assert state() == [(1, "dino", ["candidate", "champion"])]
    assert places[0].read_bytes() == places[1].read_bytes()


def test_a_champion_that_moves_meanwhile_is_met_afresh(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a server without a lock: another promotion moves the alias between the decision and its last write."""
    world.run("old", 0.5, 0.5, seed=1)
    promote(world)
    world.run("rival", 0.9, 0.9, seed=2)
    world.run("dino", 0.6, 0.6, seed=3)
    rival, moved = {**_params(world), "exclude": ["old", "dino"]}, []
    real = promotion.decide

    def interrupted(*args: Any) -> Any:
        decision = real(*args)
        if not moved:
            moved.append(True)
            from components.promote.config import PromoteParams
            from components.promote.evidence import read_evidence

            promotion.promote(registry(), read_evidence(world.metrics, world.models), PromoteParams(**rival))
        return decision

    monkeypatch.setattr(promotion, "decide", interrupted)
    world.set_params({**_params(world), "exclude": ["old", "rival"]})
    decided = promote(world)
    assert (decided["outcome"], decided["opponent"]["run"]) == ("kept", "rival")
    assert registry().at("champion").run == "rival"  # type: ignore[union-attr]


def test_explain_writes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("random", 0.3, 0.3, seed=1)
    world.run("dino", 0.6, 0.6, seed=2)
    database = Path(store.tracking_uri().removeprefix("sqlite:///"))
    database.unlink()
    assert commands.main(STAGE, ["explain", *world.argv]) == 0
    told = capsys.readouterr().out
    assert not database.exists()
    assert "candidate: dino (not registered yet)" in told and "promoted: passed all 2 gates" in told
    assert "pass  must_beat: vos main 0.6000 against 0.3000 of the baseline 'random' (+0.3000; needed: better)" in told
    promote(world)
    capsys.readouterr()
    before = _dump()
    assert commands.main(STAGE, ["explain", *world.argv, "--set", "must_beat.vos.margin=0.4"]) == 0
    assert "is the champion already" in capsys.readouterr().out
    assert commands.main(STAGE, ["explain", *world.argv]) == 0
    assert "decided before on the same inputs" in capsys.readouterr().out
    assert _dump() == before


def test_dry_run_of_the_stage_command_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("dino", 0.6, 0.6)
    assert cli([*world.argv, "--decision", str(world.decision), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "(nothing was written)"
    assert not world.decision.exists()


def test_bad_input_is_one_clear_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(said: str) -> None:
        assert main(STAGE, run, [*world.argv, "--decision", str(world.decision)]) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error and len(error.splitlines()) == 1
        assert not world.decision.exists()

    world.models.mkdir()
    fails("no usable metrics")
    (world.metrics / "dino-vos.json").write_text("{")
    fails("no usable metrics (not readable as JSON")
    world.run("dino", 0.6, 0.6)
    world.model("dino", seed=9)
    fails("was measured on other weights")
    world.run("dino", 0.6, 0.6)
    world.set_params({"rank_by": ["knn", "vos"], "must_beet": {}})
    fails("unknown key 'must_beet', did you mean 'must_beat'?")
    world.set_params({"rank_by": ["knn"], "must_beat": {"vos": {"margin": -1}}})
    fails("'must_beat.vos.margin' = -1")


def test_rollback_of_nothing_is_one_clear_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("dino", 0.6, 0.6)
    promote(world)
    for argv, said in {
        ("--model", "tinny"): "no registered model 'tinny', did you mean 'tiny'?",
        ("--model", "tiny"): "version 1 replaced no champion that still stands",
        ("--model", "tiny", "--to", "9"): "no version 9; there are 1",
    }.items():
        assert commands.main(STAGE, ["rollback", *argv]) == 2
        assert said in capsys.readouterr().err


def test_a_registry_that_is_away_is_one_clear_line(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("dino", 0.6, 0.6)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert main(STAGE, run, [*world.argv, "--decision", str(world.decision)]) == 4
    error = capsys.readouterr().err
    assert "the model registry failed" in error and "http://127.0.0.1:9" in error and "secret" not in error
    assert len(error.splitlines()) == 1 and not world.decision.exists()
