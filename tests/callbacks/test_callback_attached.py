"""How a callback is attached, how long it lives, and what its class says of errors and overflow."""

from __future__ import annotations

from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TrainEnd
from fitbus.callbacks import Callback, Logs
from fitbus.errors import InvalidArgumentError, RunEndedError
from fitbus.testing import Gate, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


class Ends(Callback):
    """Counts the epochs and trainings that ended, and notes which runs it was called by."""

    def __init__(self) -> None:
        self.epochs = 0
        self.runs: list[str] = []

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epochs += 1

    def on_train_end(self, logs: Logs | None = None) -> None:
        assert self.run is not None
        self.runs.append(self.run.id)


class Raises(Callback):
    """Raises at the end of each epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        raise ValueError(f"epoch {epoch}")


async def test_its_error_fails_the_run_as_itself() -> None:
    callback = Raises()
    with pytest.raises(ValueError, match="epoch 0"):
        await TRAINER.fit(X, Y, epochs=3, callbacks=[callback])


@pytest.mark.parametrize(
    ("on_error", "epochs", "errors"), [("log", 3, 3), ("unsubscribe", 3, 1), ("stop", 1, 1)]
)
async def test_on_error_of_the_class_says_what_its_errors_do(
    on_error: Any, epochs: int, errors: int
) -> None:
    kind = type("Raising", (Raises,), {"on_error": on_error})
    run = TRAINER.run(X, Y, epochs=3, callbacks=[kind()])
    async with run:
        history = await run.wait()
    assert history.epoch == list(range(epochs))
    assert run.report is not None
    assert run.report.by_name["Raising"].errors == errors


async def test_overflow_and_buffer_size_of_the_class_are_its_mailboxs() -> None:
    """It is held at batch 0 until training has ended; its mailbox keeps the last two batches."""
    gate = Gate()

    class Slow(Callback):
        overflow = "drop_oldest"
        buffer_size = 2

        def __init__(self) -> None:
            self.batches: list[int] = []

        async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
            self.batches.append(batch)
            await gate.pass_async()

    def hold(event: BatchEnd) -> None:
        gate.wait_arrived_sync()

    def release(event: TrainEnd) -> None:
        gate.open()

    slow = Slow()
    await TRAINER.fit(X, Y, batch_size=2, callbacks=[slow, hold, release])
    assert slow.batches == [0, 6, 7]


async def test_it_can_be_attached_to_a_run_that_is_pending_and_to_none_that_has_ended() -> None:
    callback = Ends()
    run = TRAINER.run(X, Y)
    callback.attach(run)
    async with run:
        await run.wait()
    assert (callback.epochs, callback.runs) == (1, [run.id])
    with pytest.raises(RunEndedError):
        callback.attach(run)


async def test_callbacks_may_be_nested_lists_and_none() -> None:
    one, two, three = callbacks = [Ends(), Ends(), Ends()]
    await TRAINER.fit(X, Y, callbacks=[one, [two, (three, None)], []])
    assert [callback.epochs for callback in callbacks] == [1, 1, 1]


async def test_it_lives_for_one_call_and_can_be_used_again() -> None:
    """By the same trainer, and by another one; what is trained without it isn't its business."""
    problem = toy_problem(16, 2, seed=1)
    other = fitbus.Trainer(problem.task, problem.params, bus=TRAINER.bus)
    callback = Ends()
    runs: list[str] = []

    def note(event: TrainEnd) -> None:
        runs.append(event.run)

    await TRAINER.fit(X, Y, epochs=2, callbacks=[callback, note])
    await TRAINER.fit(X, Y, epochs=4)
    await other.fit(X, Y, epochs=3, callbacks=[callback, note])
    assert callback.epochs == 5
    assert callback.runs == runs
    assert len(set(runs)) == 2


async def test_it_can_be_used_again_after_a_training_that_failed() -> None:
    def fail(event: EpochEnd) -> None:
        raise ValueError("no more")

    callback = Ends()
    with pytest.raises(ValueError, match="no more"):
        await TRAINER.fit(X, Y, epochs=2, callbacks=[callback, fail])
    await TRAINER.fit(X, Y, epochs=2, callbacks=[callback])
    assert callback.epochs == 3
    assert len(callback.runs) == 2


@pytest.mark.parametrize("nested", [False, True])
async def test_it_is_refused_twice_in_one_run(nested: bool) -> None:
    """Its hooks would overlap. Nothing stays behind: it can be used once after that."""
    callback = Ends()
    with pytest.raises(InvalidArgumentError, match=r"^callbacks: found .*Ends.* give each run an"):
        await TRAINER.fit(X, Y, callbacks=[callback, [callback] if nested else callback])
    assert TRAINER.bus.statistics().subscriptions == ()
    await TRAINER.fit(X, Y, callbacks=[callback])
    assert callback.epochs == 1


async def test_it_is_refused_in_a_second_run_while_the_first_one_is_live() -> None:
    """`self.run` and `self.model` would be those of the other one."""
    callback, gate = Ends(), Gate()
    other = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

    async def hold(event: EpochEnd) -> None:
        await gate.pass_async()

    async with TRAINER.run(X, Y, callbacks=[callback, hold]) as run:
        await gate.wait_arrived()
        with pytest.raises(InvalidArgumentError, match=f"run '{run.id}' has it, and hasn't ended"):
            await other.fit(X, Y, callbacks=[callback])
        assert callback.run is run
        gate.open()
    await other.fit(X, Y, callbacks=[callback])
    assert (callback.epochs, len(callback.runs)) == (2, 2)


async def test_its_own_hook_cannot_give_it_to_an_evaluation_inside() -> None:
    """After that its model would be that of the evaluation. Another object will do."""

    class Evaluates(Callback):
        tests = 0
        logs: Any = None

        def on_test_begin(self, logs: Logs | None = None) -> None:
            self.tests += 1

        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
            with pytest.raises(InvalidArgumentError, match="give each run an object of its own"):
                self.model.evaluate(X, Y, callbacks=[self])
            other = Evaluates()
            self.logs = self.model.evaluate(X, Y, callbacks=[other], return_dict=True)
            self.tests += 10 * other.tests
            assert len(self.model.get_weights()) == 2

    callback = Evaluates()
    await TRAINER.fit(X, Y, callbacks=[callback])
    assert callback.tests == 10
    assert sorted(callback.logs) == ["loss", "mean_absolute_error"]


async def test_a_run_that_never_began_holds_nothing_back() -> None:
    callback, trainer = Ends(), fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    pending = trainer.run(X, Y, callbacks=[callback])
    await trainer.fit(X, Y, callbacks=[callback])
    assert callback.epochs == 1
    assert pending.status == "pending"


async def test_a_class_instead_of_an_object_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"give an instance: Raises\(\)"):
        await TRAINER.fit(X, Y, callbacks=[Raises])


def test_unless_it_says_so_a_checkpoint_keeps_nothing_of_it() -> None:
    callback = Raises()
    assert callback.state_dict() == {}
    callback.load_state_dict({"unknown": 1})
    assert callback.state_dict() == {}
