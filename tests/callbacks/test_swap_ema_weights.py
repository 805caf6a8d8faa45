"""Averages of the parameters: in place for tests and predictions, and never longer than said."""

from __future__ import annotations

import dataclasses
from typing import Any

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import (
    EpochBegin,
    EpochEnd,
    PredictBegin,
    PredictEnd,
    TestBegin,
    TestEnd,
    TrainEnd,
    TrainState,
)
from fitbus.callbacks import BackupAndRestore, Callback, EarlyStopping, Logs, SwapEMAWeights
from fitbus.errors import InvalidArgumentError
from fitbus.testing import Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(32, 3)
X, Y = PROBLEM.x, PROBLEM.y
DECAY = 0.5
AVERAGE = optax.ema(DECAY)


class Averaged:
    """Keeps averages of the parameters, by means of Optax."""

    def __init__(self) -> None:
        self.eval_step = PROBLEM.task.eval_step
        self.predict_step = PROBLEM.task.predict_step

    def init(self, params: Any, key: Any) -> TrainState:
        opt_state = PROBLEM.task.optimizer.init(params)
        return TrainState(0, params, opt_state, key, {"ema": AVERAGE.init(params)})

    def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
        new, metrics = PROBLEM.task.train_step(state, batch)
        _, ema = AVERAGE.update(new.params, state.extra["ema"])
        return dataclasses.replace(new, extra={"ema": ema}), metrics


@pytest.fixture(scope="module")
def averaged() -> Any:
    """One task for all, so that little is compiled."""
    return fitbus.Trainer(Averaged(), PROBLEM.params)


@pytest.fixture
def trainer(averaged: fitbus.Trainer) -> fitbus.Trainer:
    return averaged


def put(trainer: fitbus.Trainer, state: TrainState) -> fitbus.Trainer:
    """The trainer with another state: nothing is compiled again."""
    trainer.keeper.take_back(fitbus.Trainer(PROBLEM.task, state).state)
    return trainer


async def called(trainer: fitbus.Trainer, call: str, callbacks: Any, test: Any = (X, Y)) -> Any:
    """Tests, predicts, or trains with validation."""
    if call == "fit":
        return await trainer.fit(
            X, Y, batch_size=8, validation_data=test, callbacks=callbacks, drain_s=5
        )
    if call == "evaluate":
        test = test if isinstance(test, tuple) else (test, None)
        return await trainer.evaluate(*test, callbacks=callbacks)
    x = test[0] if isinstance(test, tuple) else lambda: (x for x, _ in test())
    return await trainer.predict(x, callbacks=callbacks)


def swap(**given: Any) -> SwapEMAWeights:
    return SwapEMAWeights(decay=DECAY, **given)


def w(state: TrainState) -> bytes:
    return np.asarray(state.params["w"]).tobytes()


def debiased(state: TrainState) -> bytes:
    kept = state.extra["ema"]
    return np.asarray(kept.ema["w"] / (1 - DECAY ** int(kept.count))).tobytes()


class Seen:
    """The parameters, and the averages, at each event of some types."""

    def __init__(self) -> None:
        self.run: Any = None
        self.what: list[tuple[str, str]] = []

    def attach(self, run: Any) -> None:
        epochs = EpochBegin, EpochEnd, TrainEnd
        tests = TestBegin, TestEnd, PredictBegin, PredictEnd
        run.add(lambda event: self.look(run, event), *epochs, *tests, wait=True)

    def look(self, run: Any, event: fitbus.Event) -> None:
        is_average = w(run.state) == debiased(run.state)
        self.what.append((type(event).__name__, "average" if is_average else "own"))


async def test_the_averages_are_in_place_during_validation_only(trainer: fitbus.Trainer) -> None:
    """They are debiased as Optax does it; training goes on as if nothing had been."""
    seen = Seen()
    options: Any = {"batch_size": 8, "epochs": 2, "validation_data": (X, Y)}
    begin = trainer.state
    await trainer.fit(X, Y, **options)
    plain = trainer.state
    await put(trainer, begin).fit(X, Y, callbacks=[swap(), seen], **options)
    assert seen.what[1:] == [
        ("TestBegin", "average"),
        ("TestEnd", "own"),
        ("EpochEnd", "own"),
        ("EpochBegin", "own"),
        ("TestBegin", "average"),
        ("TestEnd", "own"),
        ("EpochEnd", "own"),
        ("TrainEnd", "own"),
    ]
    assert w(trainer.state) == w(plain)
    assert debiased(trainer.state) == debiased(plain)


async def test_evaluate_and_predict_use_them_and_the_parameters_are_back(
    trainer: fitbus.Trainer,
) -> None:
    await trainer.fit(X, Y, batch_size=8)
    state = trainer.state
    kept = state.extra["ema"]
    ema = jax.tree.map(lambda leaf: leaf / (1 - DECAY ** int(kept.count)), kept.ema)
    logs = await trainer.evaluate(X, Y, callbacks=[swap()])
    assert w(trainer.state) == w(state)
    seen = Seen()
    predicted = await trainer.predict(X, callbacks=[swap(), seen])
    assert seen.what == [("PredictBegin", "average"), ("PredictEnd", "own")]
    assert w(trainer.state) == w(state)
    assert not np.array_equal(predicted, await trainer.predict(X))
    put(trainer, dataclasses.replace(state, params=ema))
    assert logs == await trainer.evaluate(X, Y)
    np.testing.assert_array_equal(predicted, await trainer.predict(X))


async def test_swap_on_epoch_leaves_them_in_place_until_the_next_epoch_begins(
    trainer: fitbus.Trainer,
) -> None:
    """What comes after it at the end of an epoch sees them; after the last epoch they stay."""
    seen = Seen()
    await trainer.fit(X, Y, batch_size=8, epochs=2, callbacks=[swap(swap_on_epoch=True), seen])
    assert seen.what[1:] == [
        ("EpochEnd", "average"),
        ("EpochBegin", "own"),
        ("EpochEnd", "average"),
        ("TrainEnd", "average"),
    ]
    assert w(trainer.state) == debiased(trainer.state)


async def test_they_stay_where_training_was_stopped_after_an_epoch(trainer: fitbus.Trainer) -> None:
    def stop(event: EpochEnd) -> fitbus.StopTraining:
        return fitbus.StopTraining("enough")

    await trainer.fit(X, Y, batch_size=8, epochs=3, callbacks=[swap(swap_on_epoch=True), stop])
    assert w(trainer.state) == debiased(trainer.state)


@pytest.mark.parametrize("on_epoch", [False, True])
async def test_after_an_error_the_parameters_are_back(
    trainer: fitbus.Trainer, on_epoch: bool
) -> None:
    """In a validation, or with averages in place between two epochs."""

    def fail(event: fitbus.Event) -> None:
        raise ValueError("no more")

    handler = fitbus.handler(EpochEnd if on_epoch else fitbus.TestBatchEnd)(fail)
    with pytest.raises(ValueError, match="no more"):
        await trainer.fit(
            X,
            Y,
            batch_size=8,
            validation_data=(X, Y),
            callbacks=[swap(swap_on_epoch=on_epoch), handler],
        )
    assert w(trainer.state) != debiased(trainer.state)


@pytest.mark.parametrize("call", ["evaluate", "predict", "fit"])
async def test_after_an_error_of_the_data_they_are_back(trainer: fitbus.Trainer, call: str) -> None:
    def batches() -> Any:
        yield (X[:8], Y[:8])
        raise OSError("gone")

    await trainer.fit(X, Y, batch_size=8)
    own = w(trainer.state)
    with pytest.raises(OSError, match="gone"):
        await called(trainer, call, [swap()], batches)
    if call == "fit":
        assert w(trainer.state) != debiased(trainer.state)
    else:
        assert w(trainer.state) == own


@pytest.mark.parametrize("call", ["evaluate", "predict", "fit"])
async def test_after_a_cancellation_they_are_back(trainer: fitbus.Trainer, call: str) -> None:
    """While the averages are in place, at a batch of the test."""
    gate = Gate()
    kinds = (fitbus.TestBatchEnd, fitbus.PredictBatchEnd)

    @fitbus.handler(*kinds, wait=True)
    async def hold(event: fitbus.Event) -> None:
        await gate.pass_async()

    await trainer.fit(X, Y, batch_size=8)
    own = w(trainer.state)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(called, trainer, call, [swap(), hold])
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
        gate.open()
    if call == "fit":
        assert w(trainer.state) != debiased(trainer.state)
    else:
        assert w(trainer.state) == own


async def test_what_another_callback_puts_back_at_the_end_of_a_failed_training_stays(
    trainer: fitbus.Trainer,
) -> None:
    """The parameters are back before the end is told, so that best weights aren't overwritten."""
    weights: list[Any] = []

    class Keep(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            if epoch == 0:
                weights.append(self.model.get_weights())

    def fail(event: TestBegin) -> None:
        if event.epoch == 1:
            raise ValueError("no more")

    best = EarlyStopping("val_loss", restore_best_weights=True)
    with pytest.raises(ValueError, match="no more"):
        await trainer.fit(
            X,
            Y,
            batch_size=8,
            epochs=3,
            validation_data=(X, Y),
            callbacks=[Keep(), best, swap(), fail],
        )
    assert w(trainer.state) == weights[0][1].tobytes()


async def test_a_training_goes_on_from_a_backup_with_the_averages_in_place(
    trainer: fitbus.Trainer, tmp_path: Any
) -> None:
    """The backup at the end of an epoch has the parameters too: the end is the same bit for bit."""

    def fail(event: EpochBegin) -> None:
        if event.epoch == 2:
            raise ValueError("interrupted")

    options: Any = {"batch_size": 8, "epochs": 3}
    begin = trainer.state
    await trainer.fit(X, Y, callbacks=[swap(swap_on_epoch=True)], **options)
    plain = trainer.state
    backup = [BackupAndRestore(tmp_path / "backup"), swap(swap_on_epoch=True)]
    with pytest.raises(ValueError, match="interrupted"):
        await put(trainer, begin).fit(X, Y, callbacks=[*backup, fail], **options)
    backup = [swap(swap_on_epoch=True), BackupAndRestore(tmp_path / "backup")]
    await put(trainer, begin).fit(X, Y, callbacks=backup, **options)
    assert w(trainer.state) == w(plain)
    assert debiased(trainer.state) == debiased(plain)


async def test_averages_as_they_are_or_where_a_function_says() -> None:
    """Without Optax' state nothing is corrected."""
    state = fitbus.Trainer(PROBLEM.task, PROBLEM.answer).state
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    by_hand = await put(trainer, state).evaluate(X, Y)
    state = dataclasses.replace(trainer.state, extra={"ema": state.params}, params=PROBLEM.params)
    put(trainer, state)
    assert await trainer.evaluate(X, Y, callbacks=[SwapEMAWeights()]) == by_hand
    found = SwapEMAWeights(ema=lambda state: state.extra["ema"])
    assert await trainer.evaluate(X, Y, callbacks=[found]) == by_hand
    zeros = SwapEMAWeights(ema=lambda state: jax.tree.map(jnp.zeros_like, state.params))
    assert (await trainer.evaluate(X, Y, callbacks=[zeros]))["loss"] > by_hand["loss"]


async def test_before_the_first_step_an_average_is_the_parameters() -> None:
    """Where nothing was averaged yet, nothing is divided by zero."""
    trainer = fitbus.Trainer(Averaged(), PROBLEM.answer)
    logs = await trainer.evaluate(X, Y, callbacks=[swap()])
    assert logs == await trainer.evaluate(X, Y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"keeps no averages.*state.extra\['ema'\]"),
        ({"ema": lambda state: None}, "SwapEMAWeights"),
        ({"ema": lambda state: state.params["w"]}, "those of the parameters"),
        ({"ema": lambda state: jax.tree.map(lambda p: p[None], state.params)}, "same shapes"),
        ({"ema": lambda state: AVERAGE.init(state.params)}, "give its decay"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
async def test_a_run_without_averages_is_refused_before_its_first_batch(
    given: Any, message: str, call: str
) -> None:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    with pytest.raises(InvalidArgumentError, match=message):
        await called(trainer, call, [SwapEMAWeights(**given)])
    assert int(trainer.state.step) == 0


async def test_averages_of_updates_in_a_chain_are_not_taken_for_those_of_parameters() -> None:
    task = fitbus.Supervised(
        PROBLEM.task.apply, PROBLEM.task.loss, optax.chain(optax.ema(0.9), optax.sgd(0.1))
    )
    trainer = fitbus.Trainer(task, PROBLEM.params)
    with pytest.raises(InvalidArgumentError, match="keeps no averages"):
        await trainer.fit(X, Y, callbacks=[swap()])


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"swap_on_epoch": 1}, "swap_on_epoch"),
        ({"ema": 0.9}, "ema"),
        ({"decay": 1}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"decay": "0.9"}, "decay"),
        ({"decay": True}, "decay"),
    ],
)
def test_an_argument_out_of_range_is_refused(given: Any, argument: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"SwapEMAWeights.{argument}"):
        SwapEMAWeights(**given)
