"""Replacing all processes one after the other: fakes for workers and broker, time as a number."""

from __future__ import annotations

from typing import Any

import pytest

from reqpool_ops.children import Child
from reqpool_ops.rolling import COME_UP_S, RestartFailed, Restarts, Steps, replace_all


class FakeFleet:
    """Places of workers, and what is done to them, in order."""

    def __init__(self, count: int) -> None:
        self.workers = [self.place(f"worker-{number}") for number in range(1, count + 1)]
        self.live = {worker.id for worker in self.workers}
        self.done: list[str] = []

    def place(self, name: str) -> Child:
        child = Child(name)
        child.renew_id()
        return child

    @property
    def staying(self) -> list[Child]:
        return [worker for worker in self.workers if not worker.leaving]

    def is_live(self, worker: Child) -> bool:
        return worker.id in self.live

    def add_beside(self, worker: Child, now_s: float) -> Child:
        self.done.append(f"start {worker.name}")
        successor = self.place(worker.name)
        self.workers.insert(self.workers.index(worker) + 1, successor)
        return successor

    def dismiss(self, worker: Child, now_s: float) -> None:
        self.done.append(f"dismiss {worker.name}")
        worker.leaving = True

    def go(self) -> None:
        """Those that were told to go have gone."""
        self.workers = self.staying


class FakeBroker:
    """A broker and the one that stands by, and what is done to them, in the fleet's list."""

    def __init__(self, fleet: FakeFleet) -> None:
        self.fleet = fleet
        self.child = Child("broker")
        self.standby: Child | None = None
        self.is_standby_warm = False
        self.ready = True

    def stand_by(self, now_s: float) -> Child:
        self.fleet.done.append("start broker")
        self.standby = Child("broker")
        self.standby.process = object()  # type: ignore[assignment]
        return self.standby

    def dismiss(self, now_s: float) -> None:
        self.fleet.done.append("dismiss broker")

    def drop_standby(self) -> None:
        self.standby = None

    def follow(self) -> None:
        """The old one has gone: the one that stands by follows."""
        assert self.standby is not None
        self.child, self.standby, self.ready = self.standby, None, False
        self.fleet.live.clear()


class Run:
    """A restart, driven by hand."""

    def __init__(self, workers: int) -> None:
        self.fleet = FakeFleet(workers)
        self.broker: Any = FakeBroker(self.fleet)
        fleet: Any = self.fleet
        self.steps: Steps = replace_all(fleet, self.broker)
        next(self.steps)
        self.now_s = 1000.0
        self.said = ""

    def step(self, span_s: float = 0.1) -> list[str]:
        """Let time pass and return what is done then."""
        self.now_s += span_s
        self.fleet.done.clear()
        try:
            self.steps.send(self.now_s)
        except StopIteration as end:
            self.said = end.value
        return list(self.fleet.done)

    def all_live(self) -> None:
        self.fleet.live = {worker.id for worker in self.fleet.workers}

    def replace_workers(self) -> None:
        for _ in list(self.fleet.workers):
            self.step()
            self.all_live()
            self.step()
            self.fleet.go()


def test_each_worker_is_told_to_go_only_when_its_successor_is_live() -> None:
    run = Run(workers=2)
    assert run.step() == ["start worker-1"]
    assert run.step() == []
    run.all_live()
    assert run.step() == ["dismiss worker-1"]
    assert run.step() == []  # it finishes what it runs
    run.fleet.go()
    assert run.step() == ["start worker-2"]


def test_the_broker_is_told_to_go_only_when_its_successor_needs_nothing_but_its_line() -> None:
    run = Run(workers=1)
    run.replace_workers()
    assert run.step() == ["start broker"]
    assert run.step() == []
    run.broker.is_standby_warm = True
    assert run.step() == ["dismiss broker"]
    assert run.step() == []
    run.broker.follow()
    run.step()
    run.broker.ready = True
    run.step()
    assert not run.said  # the workers have not come to it yet
    run.all_live()
    run.step()
    assert run.said.startswith("1 worker and the broker replaced in 0.")


def test_a_worker_whose_successor_does_not_come_up_stays() -> None:
    run = Run(workers=2)
    first, second = run.fleet.workers
    run.step()
    with pytest.raises(RestartFailed, match="the new worker-1 did not come up"):
        run.step(COME_UP_S + 1)
    run.fleet.go()
    assert run.fleet.workers == [first, second]


def test_a_worker_that_died_meanwhile_is_new_already() -> None:
    run = Run(workers=2)
    run.step()
    run.fleet.workers[-1].renew_id()
    run.all_live()
    assert run.step() == ["dismiss worker-1"]
    run.fleet.go()
    assert run.step() == ["start broker"]


def test_a_broker_whose_successor_ends_stays() -> None:
    run = Run(workers=1)
    run.replace_workers()
    run.step()
    run.broker.standby.process = None
    with pytest.raises(RestartFailed, match="the new broker did not come up"):
        run.step()
    assert run.broker.standby is None


def test_a_broker_that_dies_before_it_is_told_to_go_is_followed_at_once() -> None:
    run = Run(workers=1)
    run.replace_workers()
    run.step()
    run.broker.follow()
    run.broker.ready = True
    run.all_live()
    assert run.step() == []
    assert run.said


class Asked:
    """Restarts of a cluster without workers, and what is noted of them."""

    def __init__(self) -> None:
        fleet: Any = FakeFleet(0)
        self.broker: Any = FakeBroker(fleet)
        self.broker.is_standby_warm = True
        self.noted: dict[str, Any] = {}
        self.restarts = Restarts(fleet, self.broker, self.note)
        self.restarts.note()

    def note(self, **figures: Any) -> None:
        self.noted |= figures

    def finish(self) -> None:
        """Let the restart that is running come to its end."""
        self.broker.follow()
        self.broker.ready = True
        self.restarts.further(1001.0)

    @property
    def counts(self) -> tuple[int, int]:
        return self.noted["restarts_asked"], self.noted["restarts_done"]


def test_a_restart_that_is_asked_for_during_another_follows_it() -> None:
    asked = Asked()
    asked.restarts.further(1000.0)
    assert not asked.restarts.is_running
    asked.restarts.ask()
    asked.restarts.further(1000.0)
    assert asked.restarts.is_running
    asked.restarts.ask()
    asked.restarts.ask()
    assert asked.counts == (3, 0)
    asked.finish()
    assert asked.counts == (3, 1)
    assert asked.noted["restart_well"]
    asked.restarts.further(1002.0)  # one for both
    assert asked.restarts.is_running
    asked.finish()
    assert asked.counts == (3, 3)
    asked.restarts.further(1003.0)
    assert not asked.restarts.is_running


def test_a_restart_that_is_given_up_is_noted_with_its_reason() -> None:
    asked = Asked()
    asked.restarts.give_up("the cluster is stopping")
    assert (asked.noted["restart_well"], asked.noted["restart_said"]) == (True, "")
    asked.restarts.ask()
    asked.restarts.further(1000.0)
    asked.restarts.give_up("the cluster is stopping")
    assert asked.counts == (1, 1)
    assert (asked.noted["restart_well"], asked.noted["restart_said"]) == (False, "the cluster is stopping")
    assert not asked.restarts.is_running


def test_a_restart_that_fails_is_noted_with_what_did_not_come_up() -> None:
    asked = Asked()
    asked.broker.is_standby_warm = False
    asked.restarts.ask()
    asked.restarts.further(1000.0)
    asked.restarts.further(1000.0 + COME_UP_S + 1)
    assert not asked.noted["restart_well"]
    assert "the new broker did not come up" in asked.noted["restart_said"]
    assert not asked.restarts.is_running
