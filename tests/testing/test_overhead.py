"""What callbacks add to a step, measured: of known costs, on each loop, and its table and JSON."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from typing import Any

import anyio
import pytest

import fitbus
from fitbus.callbacks import Callback, Logs
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.testing import Gate, Overhead, Spread, measure_overhead

pytestmark = pytest.mark.anyio

COSTS_S = 300e-6
# What the others expect is counted and computed alike on all loops, and each compiles a network.
ON_ONE_LOOP = pytest.mark.parametrize("anyio_backend", ["asyncio"])

# About what the first network that is tried takes: few others are compiled.
quick = functools.partial(measure_overhead, step_s=0.0002, pairs=1, train_s=0.01, epochs=2)


def spin(event: fitbus.BatchEnd) -> None:
    """Takes a processor for a known time: that is what is measured."""
    end = time.perf_counter() + COSTS_S
    while time.perf_counter() < end:
        pass


async def nothing(event: fitbus.BatchEnd) -> None: ...


class Hooks(Callback):
    """Counts what is called."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def _count(self, hook: str) -> None:
        self.calls[hook] = self.calls.get(hook, 0) + 1

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._count("train")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        self._count("epoch")
        self._count(" ".join(sorted(logs)))

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        self._count("test batch")


@pytest.mark.slow  # a few pairs, so that a busy machine can't decide
async def test_a_callback_is_measured_as_costing_what_it_costs() -> None:
    """A handler that holds training for 300 µs a step, against one that does nothing."""
    found = await quick([spin], step_s=0.001, pairs=5, train_s=0.05)
    idle = await quick([nothing], step_s=0.001, pairs=3, train_s=0.05)
    (step,), (idle_step,) = found.steps, idle.steps
    # Other work on the machine slows the training without it, too, by up to a handler's time.
    assert 100e-6 < step.added_s.median < 3e-3
    assert step.ratio.median > 1.05
    assert idle_step.added_s.low < step.added_s.high
    (entry,) = step.subscribers
    assert entry.name == "spin"
    assert entry.delivered == step.steps == step.delivered
    assert entry.seconds >= COSTS_S * entry.delivered
    assert entry.held_s >= 0.9 * entry.seconds  # training waited for it
    (idle_entry,) = idle_step.subscribers
    assert idle_entry.delivered == idle_step.steps
    assert idle_entry.held_s == 0
    assert idle_entry.seconds / idle_entry.delivered < COSTS_S


@pytest.mark.slow
async def test_it_measures_on_the_loop_that_it_is_awaited_in(anyio_backend: Any) -> None:
    found = await quick([nothing])
    name, options = anyio_backend
    assert found.loop == ("uvloop" if options else name)
    assert found.name == "nothing"
    assert found.steps[0].dropped == 0
    assert found.steps[0].step_s > 0


@ON_ONE_LOOP
async def test_what_a_handler_has_left_to_do_at_the_end_counts() -> None:
    """It lags behind in its mailbox: a longer training would wait for it."""

    async def lags(event: fitbus.BatchEnd) -> None:
        await anyio.sleep(0.005)  # a slow service; its time is what is measured

    (step,) = (await quick([lags])).steps
    assert step.added_s.median > 0.002
    assert step.subscribers[0].delivered == step.steps


@ON_ONE_LOOP
async def test_the_cost_of_an_epochs_end_is_told_apart() -> None:
    def saves(event: fitbus.EpochEnd) -> None:
        time.sleep(0.05)  # a slow disk; its time is what is measured

    (step,) = (await quick([saves])).steps
    assert 0.05 <= step.epoch_s.median + 0.005 < 0.5
    assert step.added_s.median < 0.01
    assert abs(step.fit_s.median) < 0.04


@ON_ONE_LOOP
async def test_the_cost_of_begin_and_end_is_told_apart() -> None:
    async def opens(event: fitbus.TrainEnd) -> None:
        await anyio.sleep(0.1)  # a slow service; its time is what is measured

    (step,) = (await quick([opens])).steps
    assert 0.1 <= step.fit_s.median + 0.02 < 0.5
    assert step.epoch_s.median < 0.05


@ON_ONE_LOOP
async def test_epoch_and_test_hooks_are_called_too() -> None:
    hooks = Hooks()
    found = await quick([hooks])
    fits = hooks.calls.pop("train")
    assert hooks.calls == {
        "epoch": 2 * fits,
        "accuracy loss val_accuracy val_loss": 2 * fits,
        "test batch": 4 * fits,
    }
    assert found.steps[0].delivered == 1 + 2 + 4  # of the one fit that is counted


@ON_ONE_LOOP
async def test_a_function_gives_new_ones_for_each_fit() -> None:
    made: list[Hooks] = []

    def make() -> list[Any]:
        made.append(Hooks())
        return [made[-1], nothing, nothing]

    found = await quick(make, name="mine")
    assert len(made) >= 2
    assert {hooks.calls["train"] for hooks in made} == {1}
    assert found.name == "mine"
    names = [entry.name for entry in found.steps[0].subscribers]
    assert names == ["Hooks", "nothing", "nothing"]
    assert [entry.delivered for entry in found.steps[0].subscribers[1:]] == [
        found.steps[0].steps
    ] * 2


@pytest.mark.slow
@ON_ONE_LOOP
async def test_what_is_lost_is_counted() -> None:
    gate = Gate()

    @fitbus.handler(fitbus.BatchEnd, overflow="latest")
    async def stuck(event: fitbus.BatchEnd) -> None:
        await gate.pass_async()

    @fitbus.handler(fitbus.TrainEnd)
    def let_go(event: fitbus.TrainEnd) -> None:
        gate.open()

    def make() -> list[Any]:
        nonlocal gate
        gate = Gate()
        return [stuck, let_go]

    (step,) = (await quick(make)).steps
    assert step.dropped > 0
    assert step.subscribers[0].delivered + step.dropped == step.steps


@ON_ONE_LOOP
async def test_a_callback_that_fails_raises_its_error() -> None:
    def fails(event: fitbus.EpochEnd) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        await quick([fails])


@ON_ONE_LOOP
async def test_a_training_that_ends_sooner_is_measured_by_the_steps_it_made() -> None:
    def enough(event: fitbus.EpochEnd) -> fitbus.StopTraining:
        return fitbus.StopTraining("after one epoch")

    (step,) = (await quick([enough, nothing])).steps
    assert step.steps == step.subscribers[1].delivered > 0


@ON_ONE_LOOP
async def test_a_training_without_steps_is_refused() -> None:
    def never(event: fitbus.TrainBegin) -> fitbus.StopTraining:
        return fitbus.StopTraining()

    with pytest.raises(FitbusError, match="stopped training before its first step"):
        await quick([never])


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("step_s", 0, "give seconds, a number above 0"),
        ("step_s", [0.1, float("nan")], "give seconds, a number above 0"),
        ("step_s", "0.1", "give seconds, a number above 0"),
        ("step_s", (), "give at least one number of seconds"),
        ("pairs", 0, "give a whole number of at least 1"),
        ("pairs", 1.5, "give a whole number of at least 1"),
        ("train_s", -1, "give seconds, a number above 0"),
        ("epochs", True, "give a whole number of at least 1"),
        ("name", 3, "give a text, or leave it out"),
        ("callbacks", None, "give callbacks and handlers, or a function that returns them"),
        ("callbacks", Hooks, "give callbacks and handlers, or a function that returns them"),
        ("callbacks", [Hooks], r"give an instance: Hooks\(\)"),
        ("callbacks", [3], "give Callback objects, handlers, or lists of them"),
    ],
)
@ON_ONE_LOOP
async def test_a_wrong_argument_is_refused(argument: str, value: Any, says: str) -> None:
    given: dict[str, Any] = {"callbacks": [], argument: value}
    with pytest.raises(InvalidArgumentError, match=says) as refused:
        await quick(given.pop("callbacks"), **given)
    assert refused.value.argument == argument


@pytest.mark.slow
@ON_ONE_LOOP
async def test_the_table_and_the_json_say_all(anyio_backend: Any) -> None:
    found = await quick([nothing], step_s=[0.0001, 0.0002])
    lines = [json.loads(line) for line in found.to_json().splitlines()]
    assert [line["asked_s"] for line in lines] == [0.0001, 0.0002]
    for line, step in zip(lines, found.steps, strict=True):
        whole = {name: getattr(found, name) for name in (line.keys() & vars(found)) - {"steps"}}
        assert whole.keys() == {"name", "pairs", "loop", "device", "versions"}
        counts = {"delivered": step.delivered, "dropped": step.dropped}
        fields = json.loads(json.dumps(dataclasses.asdict(step)))
        assert line == whole | counts | fields
    assert str(found) == found.table()
    rows = found.table().splitlines()
    assert rows[0].startswith("nothing (asyncio, ")
    assert [row.split()[:2] for row in rows[3:5]] == [["0.1", "ms"], ["0.2", "ms"]]
    assert [row.split()[:3] for row in rows[7:9]] == [
        ["nothing", "0.1", "ms"],
        ["nothing", "0.2", "ms"],
    ]
    assert f"{found.steps[0].step_s * 1e3:.3g} ms" in rows[3]
    assert "noise" in rows[-1]


def test_a_spread_is_the_median_and_the_quartiles() -> None:
    assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


def test_the_table_of_nothing_has_no_subscribers() -> None:
    spread = Spread(0.0, 0.0, 0.0)
    step = fitbus.testing.StepOverhead(0.001, 0.001, spread, spread, spread, spread, 4, ())
    rows = Overhead("", (step,), 1, "asyncio", "cpu", "").table().splitlines()
    assert rows[5].split()[0] == "subscriber"
    assert rows[6] == ""
