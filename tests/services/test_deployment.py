"""What a deployment of the engine refuses before, or instead of, starting anything."""

import importlib.util
import sys
import threading
from pathlib import Path

import pytest

from aapt.checkpoint import save, untrained
from aapt.presets import DEBUG
from services import play
from services.engine import launch
from services.engine.service import Settings as EngineSettings
from services.errors import BadCheckpoint, BadSetting, ClusterTooSmall, NoCluster

ray = pytest.importorskip("ray")

from services.engine import cluster, deployment  # noqa: E402 (which need Ray)


@pytest.fixture
def engine(tmp_path: Path) -> EngineSettings:
    save(untrained(DEBUG), tmp_path / "debug", {})
    return EngineSettings(checkpoint=str(tmp_path / "debug"))


def run(settings: deployment.Settings, engine: EngineSettings) -> None:
    deployment.run(settings, engine, threading.Event())


def test_more_shards_than_tokens_are_refused_with_both_numbers(engine: EngineSettings) -> None:
    with pytest.raises(
        BadSetting, match="SHARDS: 5 ranks cannot share a latent of debug, which has 4 tokens"
    ):
        run(deployment.Settings(shards=5), engine)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"has no model\.json"):
        run(deployment.Settings(), EngineSettings(checkpoint=str(tmp_path / "nowhere")))


def test_a_cluster_that_does_not_answer_is_refused_with_its_address(engine: EngineSettings) -> None:
    with pytest.raises(NoCluster, match=r"RAY_ADDRESS '127\.0\.0\.1:1' \(.*\); start one there"):
        run(deployment.Settings(ray_address="127.0.0.1:1"), engine)


@pytest.mark.parametrize("wrong", [{"shards": 0}, {"replicas": -1}, {"gpus_per_rank": -1.0}])
def test_a_number_that_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    [name] = wrong
    with pytest.raises(BadSetting, match=f"{name.upper()} is {wrong[name]:g}"):
        deployment.Settings(**wrong)  # type: ignore[arg-type]


def test_more_than_the_machines_have_is_refused_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}] * 2
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"GPU": 8.0}}])
    cluster.check_room(cluster.Asked(2, 2, {"CPU": 1.0, "GPU": 1.0}))
    # Four GPUs, but not on one machine: a replica is not spread.
    with pytest.raises(
        ClusterTooSmall, match=r"1 replicas of 4 ranks.*4 CPU, 4 GPU.*room for 0.*16 CPU, 2 GPU"
    ):
        cluster.check_room(cluster.Asked(1, 4, {"CPU": 1.0, "GPU": 1.0}))
    with pytest.raises(ClusterTooSmall, match=r"3 replicas of 2 ranks.*room for 2"):
        cluster.check_room(cluster.Asked(3, 2, {"CPU": 1.0, "GPU": 1.0}))


async def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoCluster, match="ray, which is not installed; make play RAY=1 installs it"):
        async with launch.deployed():
            pass


def test_shards_are_only_for_an_engine_on_ray(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["play", "--shards", "2"])
    with pytest.raises(SystemExit):
        play.main()
    assert "add --ray" in capsys.readouterr().err


def test_more_ranks_than_this_machine_could_run_are_refused_before_any_is_started(
    engine: EngineSettings,
) -> None:
    with pytest.raises(BadSetting, match=r"10000 replicas of 1 ranks are 10000 processes"):
        run(deployment.Settings(replicas=10_000), engine)


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"phases": -1}, {"headroom": 0.0}, {"headroom": 1.5}])
def test_an_engine_without_room_for_anybody_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSetting, match=next(iter(wrong)).upper()):
        EngineSettings(**wrong)  # type: ignore[arg-type]


def test_a_serve_config_names_the_engine_and_its_environment_says_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"REPLICAS": "2", "SHARDS": "8", "GPUS_PER_RANK": "1", "CPUS_PER_RANK": "4"}.items():
        monkeypatch.setenv(name, value)
    made = deployment.from_environment({})._bound_deployment
    assert made.num_replicas == 2
    assert made._replica_config.placement_group_bundles == [{"CPU": 4.0, "GPU": 1.0}] * 8
    with pytest.raises(BadSetting, match=r"runtime_env\.env_vars"):
        deployment.from_environment({"SHARDS": "8"})
