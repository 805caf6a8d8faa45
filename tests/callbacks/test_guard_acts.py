"""A guard that stops, goes back, or has had enough: the same however far steps ran ahead."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

import fitbus
from fitbus import BatchEnd, StepSkipped
from fitbus.callbacks import BackupAndRestore, Guard, ReduceLROnPlateau
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder
from fitbus.train import Batch, TrainState

from ._guarded import BATCH, PROBLEM, Fit, bits, guarded_fit, with_nan

pytestmark = pytest.mark.anyio

TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
AHEAD = fitbus.Trainer(PROBLEM.task, PROBLEM.params, max_in_flight=6)


async def of_all_kinds(guard: Guard, x: Any, **options: Any) -> Fit:
    """The same training exactly, beside it, unseen, and with many steps in flight."""
    waited = await guarded_fit(TRAINER, guard, x, PROBLEM.y, listens=True, **options)
    for trainer in (TRAINER, AHEAD):
        for listens in (False, None):
            found = await guarded_fit(trainer, guard, x, PROBLEM.y, listens=listens, **options)
            if listens is False:
                np.testing.assert_equal(found.events, waited.events)
            assert bits(found.state) == bits(waited.state)
            assert found.history == waited.history
            assert [e.seq for e in found.skipped] == [e.seq for e in waited.skipped]
    return waited


@pytest.mark.parametrize("fused", [1, 3])
async def test_it_stops_at_the_step(fused: int) -> None:
    """The state is that of the step before; no later batch is told of."""
    guard = Guard("stop")
    found = await of_all_kinds(guard, with_nan(4), steps_per_execution=fused, epochs=3)
    (skipped,) = found.skipped
    assert (skipped.step, skipped.action) == (5, "stop")
    assert found.ends[-1] == (5, 4)
    assert (found.end.reason, found.end.source, found.end.step) == ("stopped", "Guard", 5)
    assert found.end.detail == (
        "left out an update at step 5, batch 4: 'loss' isn't finite, 'params/b' isn't finite"
    )
    before = await guarded_fit(
        TRAINER, None, PROBLEM.x[: 4 * BATCH], PROBLEM.y[: 4 * BATCH], listens=True
    )
    assert bits(found.state)[1:] == bits(before.state)[1:]
    assert found.history == before.history
    assert int(found.state.step) == 5
    assert guard.skipped == 1


async def test_the_last_step_of_an_epoch() -> None:
    """What comes of it comes in that epoch."""
    found = await of_all_kinds(Guard("stop"), with_nan(7), epochs=3)
    assert found.ends[-1] == (8, 7)
    assert len(found.history) == 1


async def test_several_wrong_ones_in_flight() -> None:
    """The first one acts."""
    found = await of_all_kinds(Guard("stop"), with_nan(2, 3, 4))
    assert [event.step for event in found.skipped] == [3]


async def test_batches_that_ran_ahead_are_there_for_the_next_fit() -> None:
    """Of an iterator, none is lost; a generator's buffer may be one."""
    x, taken = with_nan(2), []

    def batches() -> Iterator[Any]:
        buffer = np.empty_like(x[:BATCH])
        for start in range(0, 64, BATCH):
            taken.append(start)
            buffer[:] = x[start : start + BATCH]
            yield buffer, PROBLEM.y[start : start + BATCH]

    source = batches()
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params, max_in_flight=6)
    await trainer.fit(source, steps_per_epoch=8, callbacks=[Guard("rollback")])
    plain = await guarded_fit(TRAINER, Guard("rollback"), x, PROBLEM.y)
    assert bits(trainer.state) == bits(plain.state)
    assert len(taken) == 8


@pytest.mark.parametrize("fused", [1, 2])
async def test_it_goes_back_and_on_with_the_next_batch(fused: int) -> None:
    """To the newest state that is old enough; the batch isn't tried again."""
    guard = Guard("rollback", snapshot_every=2)
    found = await of_all_kinds(guard, with_nan(5), steps_per_execution=fused)
    (skipped,) = found.skipped
    assert (skipped.step, skipped.batch, skipped.back_to) == (6, 5, 4)
    assert found.ends == [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (5, 6), (6, 7)]
    rows = np.r_[0 : 4 * BATCH, 6 * BATCH : 8 * BATCH]
    straight = await guarded_fit(TRAINER, None, PROBLEM.x[rows], PROBLEM.y[rows])
    assert bits(found.state) == bits(straight.state)
    assert guard.rollbacks == 1


async def test_it_goes_back_to_the_beginning_if_nothing_else_is_old_enough() -> None:
    """A copy is taken before the first step."""
    found = await of_all_kinds(Guard("rollback"), with_nan(3))
    assert [event.back_to for event in found.skipped] == [0]
    rows = np.r_[4 * BATCH : 8 * BATCH]
    straight = await guarded_fit(TRAINER, None, PROBLEM.x[rows], PROBLEM.y[rows])
    assert bits(found.state) == bits(straight.state)


async def test_it_scales_the_learning_rate_each_time() -> None:
    """Also if it is one state that is gone back to twice."""
    guard = Guard("rollback", scale_learning_rate=0.5)
    found = await of_all_kinds(guard, with_nan(2, 4))
    assert [event.back_to for event in found.skipped] == [0, 0]
    rate = found.state.opt_state.hyperparams["learning_rate"]
    assert float(rate) == pytest.approx(0.1 * 0.5 * 0.5)
    applied = [event for event in found.events if event["type"] == "ControlApplied"]
    assert [event["source"] for event in applied] == ["Guard", "Guard"]


async def test_going_back_too_often_stops() -> None:
    """After as many times as `limit` says, the next one."""
    found = await of_all_kinds(Guard("rollback", limit=1), with_nan(1, 2, 3), epochs=2)
    assert [event.action for event in found.skipped] == ["rollback", "stop"]
    assert found.end.detail.startswith("training went back 1 times, and would again at step")


async def test_too_many_in_a_row_stop() -> None:
    """The count begins anew with each good one."""
    found = await of_all_kinds(Guard(limit=3), with_nan(0, 1, 3, 4, 5, 6))
    assert [(e.batch, e.action) for e in found.skipped] == [
        *((0, "skip"), (1, "skip"), (3, "skip"), (4, "skip"), (5, "stop")),
    ]
    assert found.end.detail.startswith("3 steps in a row were left out, the last at step 6")
    assert found.ends[-1] == (6, 5)


async def test_a_second_owner_of_the_learning_rate_is_refused() -> None:
    """Where it scales it."""
    with pytest.raises(InvalidArgumentError, match="sets 'learning_rate' already"):
        await TRAINER.fit(
            *(PROBLEM.x, PROBLEM.y),
            callbacks=[ReduceLROnPlateau("loss"), Guard("rollback", scale_learning_rate=0.5)],
        )


async def test_where_it_stands_is_told_right_to_other_callbacks() -> None:
    """The state and the position at each end of a batch, also within an execution."""
    places: list[tuple[int, int, int]] = []

    class Looks(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert self.run is not None
            places.append((batch, self.run.position().batch, int(self.run.state.step)))

    await guarded_fit(
        *(TRAINER, Guard("rollback", snapshot_every=1), with_nan(1), PROBLEM.y),
        callbacks=(Looks(),),
        listens=True,
        steps_per_execution=3,
    )
    assert places[:2] == [(0, 2, 2), (1, 2, 2)]
    assert places[2] == (2, 5, 3)  # the step went back to 0; the batches went on


class Failing:
    """Its data fail once it was asked for so many batches."""

    def __init__(self, x: Any, after: int) -> None:
        self._x, self._after = x, after

    def __call__(self) -> Iterator[Any]:
        for batch in range(8):
            if batch == self._after:
                raise OSError("no more")
            rows = slice(batch * BATCH, (batch + 1) * BATCH)
            yield self._x[rows], PROBLEM.y[rows]


async def test_an_error_of_the_data_behind_it() -> None:
    """The state is that of the last good step, whatever ran ahead."""
    for trainer in (TRAINER, AHEAD):
        begin = trainer.state
        with pytest.raises(OSError, match="no more"):
            await trainer.fit(Failing(with_nan(2), 4), callbacks=[Guard("rollback")])
        assert int(trainer.state.step) in (1, 3)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trainer.state.params))
        trainer.keeper.take_back(begin)


async def test_a_training_that_goes_on_keeps_its_means(tmp_path: Any) -> None:
    """Interrupted behind a step that was left out: bit-equal, logs and all."""

    def callbacks() -> list[Any]:
        return [BackupAndRestore(tmp_path / "backup", 1), Guard()]

    x = with_nan(2)
    whole = await guarded_fit(TRAINER, Guard(), x, PROBLEM.y, epochs=2)
    begin, trainer = TRAINER.state, TRAINER
    with pytest.raises(OSError, match="no more"):
        await trainer.fit(Failing(x, 5), epochs=2, callbacks=callbacks())
    trainer.keeper.take_back(begin)
    recorder = EventRecorder()
    history = await trainer.fit(Failing(x, 99), epochs=2, callbacks=[*callbacks(), recorder])
    assert bits(trainer.state) == bits(whole.state)
    assert history.history["loss"] == whole.history
    assert [event.step for event in recorder.of(StepSkipped)] == [11]
    assert [event.step for event in recorder.of(BatchEnd)] == list(range(6, 17))
    trainer.keeper.take_back(begin)


class Crash(fitbus.Callback):
    """Ends a training at a boundary, behind a backup, as a crash would."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def attach(self, run: fitbus.Run[Any]) -> None:
        super().attach(run)
        run.preparation.boundaries.append(self._at_boundary)

    def _at_boundary(self, engine: Any) -> None:
        if engine.batch == self.batch:
            raise OSError("a crash")


@pytest.mark.parametrize("listens", [True, None])
@pytest.mark.parametrize("nonfinite", ["stop", "rollback"])
async def test_no_backup_lies_between_a_trip_and_what_it_leads_to(
    tmp_path: Any, nonfinite: Any, listens: bool | None
) -> None:
    """A training that goes on from there does what one does that never crashed."""
    begin, x = TRAINER.state, with_nan(4)

    def callbacks() -> tuple[Any, ...]:
        return (BackupAndRestore(tmp_path / "backup", 1), Guard(nonfinite, snapshot_every=2))

    options: dict[str, Any] = {"listens": listens, "epochs": 1}
    whole = await guarded_fit(TRAINER, None, x, PROBLEM.y, callbacks=callbacks(), **options)
    with pytest.raises(OSError, match="a crash"):
        await guarded_fit(
            TRAINER, None, x, PROBLEM.y, callbacks=(*callbacks(), Crash(5)), **options
        )
    TRAINER.keeper.take_back(begin)
    found = await guarded_fit(TRAINER, None, x, PROBLEM.y, callbacks=callbacks(), **options)
    assert bits(found.state) == bits(whole.state)
    assert (found.end.reason, found.end.detail) == (whole.end.reason, whole.end.detail)
    assert found.history == whole.history


async def test_under_transfer_guards() -> None:
    """All that it moves it moves on purpose."""
    with jax.transfer_guard("disallow"):
        found = await guarded_fit(
            *(TRAINER, Guard("rollback", scale_learning_rate=0.5), with_nan(2), PROBLEM.y),
        )
    assert [event.step for event in found.skipped] == [3]


class Two:
    """A task with typed keys in `extra`, and a state that it gives back in part."""

    def train_step(self, state: TrainState, batch: Batch) -> Any:
        key = jax.random.fold_in(state.extra["key"], state.step)
        noise = jax.random.normal(key)
        params = {**state.params, "w": state.params["w"] + noise + batch.x[0]}
        new = dataclasses.replace(state, params=params, extra={"key": key})
        return new, {"loss": params["w"]}

    def eval_step(self, state: TrainState, batch: Batch) -> Any:
        return {"loss": state.params["w"]}

    def predict_step(self, state: TrainState, batch: Batch) -> Any:
        return batch.x


async def test_random_keys_are_taken_back_too() -> None:
    """Keys that a task goes on with are those of before, if its step is left out."""
    state = TrainState(
        *(np.int32(0), {"w": np.float32(0), "still": np.ones(2, np.float32)}, ()),
        *(jax.random.key(1), {"key": jax.random.key(2)}),
    )
    trainer = fitbus.Trainer(Two(), state)
    begin = jax.random.key_data(trainer.state.extra["key"])
    found = await guarded_fit(trainer, Guard(), np.asarray([np.nan], np.float32), batch_size=1)
    np.testing.assert_array_equal(jax.random.key_data(found.state.extra["key"]), begin)
    assert [event.leaf for event in found.skipped] == ["params/w"]
