"""List scheduling: by hand, and against what any schedule must obey."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.forecast.rates import read_rates
from pipelines.forecast.schedule import Placed, Slots, Task, critical_path, schedule, work_seconds
from pipelines.forecast.work import Work

RATES = read_rates()


def cluster(cpus: float = 4, gpus: int = 0) -> Slots:
    return Slots(cpus, gpus, "h200" if gpus else None, cluster=True, fan_out_pods=4)


def task(name: str, seconds: float, *after: str, cpus: float = 1, gpus: int = 0) -> Task:
    return Task(name, name, seconds, cpus, gpus, after)


def times(placed: list[Placed]) -> dict[str, tuple[float, float]]:
    return {p.task.name: (p.start_s, p.end_s) for p in placed}


def test_side_by_side_where_there_is_room() -> None:
    diamond = [task("a", 2), task("b", 3, "a"), task("c", 5, "a"), task("d", 1, "b", "c")]
    assert times(schedule(diamond, cluster())) == {"a": (0, 2), "b": (2, 5), "c": (2, 7), "d": (7, 8)}
    assert [p.task.name for p in critical_path(schedule(diamond, cluster()))] == ["a", "c", "d"]


def test_one_slot_takes_the_longest_way_first() -> None:
    placed = schedule([task("a", 1), task("b", 5), task("c", 1, "b")], cluster(cpus=1))
    assert times(placed) == {"b": (0, 5), "a": (6, 7), "c": (5, 6)} or times(placed) == {
        "b": (0, 5), "c": (6, 7), "a": (5, 6)
    }  # fmt: skip
    assert max(p.end_s for p in placed) == 7


def test_devices_are_slots_too() -> None:
    placed = schedule([task(name, 4, gpus=1) for name in "abc"], cluster(gpus=2))
    assert sorted(p.start_s for p in placed) == [0, 0, 4]


def test_a_laptop_runs_one_stage_at_a_time() -> None:
    here = Slots(4, 0, None, cluster=False, fan_out_pods=1)
    placed = schedule([task("a", 2), task("b", 3), task("c", 5)], here)
    assert times(placed) == {"a": (0, 2), "b": (2, 5), "c": (5, 10)}


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    tasks: list[Task] = []
    for number in range(draw(st.integers(1, 12))):
        before = draw(st.lists(st.sampled_from([t.name for t in tasks]), unique=True, max_size=3)) if tasks else []
        seconds, cpus, gpus = draw(st.integers(1, 50)), draw(st.integers(1, 4)), draw(st.integers(0, 2))
        tasks.append(task(f"t{number}", float(seconds), *before, cpus=float(cpus), gpus=gpus))
    return tasks


@given(graphs())
def test_every_schedule_is_possible_and_its_critical_path_explains_it(tasks: list[Task]) -> None:
    slots = cluster(cpus=4, gpus=2)
    placed = schedule(tasks, slots)
    by_name = {p.task.name: p for p in placed}
    assert set(by_name) == {t.name for t in tasks}
    for p in placed:
        assert all(by_name[before].end_s <= p.start_s for before in p.task.after)
        at_once = [q.task for q in placed if q.start_s <= p.start_s < q.end_s]
        assert sum(t.cpus for t in at_once) <= slots.cpus
        assert sum(t.gpus for t in at_once) <= slots.gpus
    end = max(p.end_s for p in placed)
    assert end >= sum(t.seconds * t.cpus for t in tasks) / slots.cpus - 1e-9
    path = critical_path(placed)
    assert path[0].start_s == 0
    assert sum(p.task.seconds for p in path) == pytest.approx(end)


def test_work_is_divided_among_cores_but_not_beyond_its_pieces() -> None:
    assert work_seconds(Work(core_s=80, width=100), 8, 0, None, RATES) == 10
    assert work_seconds(Work(core_s=80, width=2), 8, 0, None, RATES) == 40
    assert work_seconds(Work(core_s=80, width=100, serial_s=5, start_s=1), 8, 0, None, RATES) == 16


def test_a_device_and_its_loader_work_side_by_side() -> None:
    device = RATES.devices["h200"]
    second = device.peak_flops * device.share_compiled
    assert work_seconds(Work(flops=10 * second, core_s=16, width=8, compiled=True), 8, 1, "h200", RATES) == 10
    assert work_seconds(Work(flops=10 * second, core_s=160, width=8, compiled=True), 8, 1, "h200", RATES) == 20
    assert work_seconds(Work(flops=10 * second, width=8, compiled=True), 8, 2, "h200", RATES) == 5
    eager = work_seconds(Work(flops=10 * second), 8, 1, "h200", RATES)
    assert eager == pytest.approx(10 * device.share_compiled / device.share_eager)
