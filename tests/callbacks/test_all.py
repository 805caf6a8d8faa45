"""What every built-in callback must do: used twice, cancelled, failed, where it cannot write."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import fitbus
from fitbus import BatchEnd, EpochEnd, TrainEnd
from fitbus.callbacks import Callback, LearningRateFinder
from fitbus.errors import InvalidArgumentError
from fitbus.testing import Gate

from ._every import (
    BROKEN,
    FOREVER,
    NAMES,
    PROBLEM,
    WORKING,
    Place,
    X,
    Y,
    kind_of,
    made,
    nothing_left,
)
from ._failing_server import FailingServer

pytestmark = pytest.mark.anyio

OWNERS = ["LearningRateFinder", "LearningRateScheduler", "ParamScheduler", "ReduceLROnPlateau"]
STOPS = {"LearningRateFinder"}  # its work is done after so many batches
SHORT: dict[str, Any] = {"batch_size": 8, "epochs": 2}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server's."""
    with FailingServer() as server:
        yield server.root


@pytest.fixture
def place(tmp_path: Path, url: str) -> Place:
    """Where to write."""
    return Place(tmp_path, url)


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    """Its steps are compiled once."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


@pytest.fixture(autouse=True)
def nothing_is_left(trainer: fitbus.Trainer) -> Iterator[None]:
    """No thread, and no subscription, outlives a test."""
    with nothing_left(trainer):
        yield


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each built-in callback."""
    found: str = request.param
    return found


@pytest.fixture
def callback(name: str, place: Place) -> Callback:
    """One of each."""
    return made(name, place)


def test_each_has_an_entry() -> None:
    """One that is new has to be written into the tables, so that all of this holds for it."""
    assert sorted(WORKING) == NAMES
    places = {"backup_dir", "directory", "filename", "filepath", "log_dir", "path", "root"}
    writes = {n for n in NAMES if places & set(inspect.signature(kind_of(n)).parameters)}
    assert set(BROKEN) == writes


async def test_it_can_be_used_in_two_fits(
    trainer: fitbus.Trainer, name: str, callback: Callback
) -> None:
    """One after the other; nothing of the first is in the way of the second."""
    for _ in range(2):
        history = await trainer.fit(X, Y, **SHORT, callbacks=[callback])
        assert history.epoch == [0, 1]
        assert callback.run is not None
        assert callback.run.status == ("stopped" if name in STOPS else "completed")


async def test_twice_in_one_list_it_is_refused(trainer: fitbus.Trainer, callback: Callback) -> None:
    """And can be used afterwards, once."""
    with pytest.raises(InvalidArgumentError, match=r"callbacks: .* has it, and hasn't ended"):
        await trainer.fit(X, Y, **SHORT, callbacks=[callback, callback])
    history = await trainer.fit(X, Y, **SHORT, callbacks=[callback])
    assert history.epoch == [0, 1]


async def test_two_of_a_kind_go_together_unless_they_own_the_same(
    trainer: fitbus.Trainer, name: str, callback: Callback, place: Place
) -> None:
    """Those that set the learning rate, or guard steps, are refused before the first one."""
    (place.folder / "second").mkdir()
    second = made(name, Place(place.folder / "second", place.url))
    step = int(trainer.state.step)
    if name in OWNERS:
        with pytest.raises(InvalidArgumentError, match=f"{name}.* sets 'learning_rate' already"):
            await trainer.fit(X, Y, **SHORT, callbacks=[callback, second])
        assert int(trainer.state.step) == step
    elif name == "Guard":
        with pytest.raises(InvalidArgumentError, match="the steps have a guard already"):
            await trainer.fit(X, Y, **SHORT, callbacks=[callback, second])
    else:
        history = await trainer.fit(X, Y, **SHORT, callbacks=[callback, second])
        assert history.epoch == [0, 1]


@pytest.mark.parametrize(("first", "other"), list(itertools.permutations(OWNERS, 2)))
async def test_the_learning_rate_has_one_owner(
    trainer: fitbus.Trainer, first: str, other: str, place: Place
) -> None:
    """Whichever comes first; both are named."""
    callbacks = [made(name, place) for name in (first, other)]
    with pytest.raises(InvalidArgumentError, match=f"{other}.*{first}.* sets 'learning_rate'"):
        await trainer.fit(X, Y, **SHORT, callbacks=callbacks)


async def test_after_a_cancelled_fit_it_can_be_used_again(
    trainer: fitbus.Trainer, callback: Callback
) -> None:
    """It was told of the end, and the trainer's state is there."""
    gate = Gate()
    ends: list[TrainEnd] = []

    def run_on(event: BatchEnd) -> None:
        if event.epoch == 1:
            gate.open()
            gate.pass_sync()

    def note(event: TrainEnd) -> None:
        ends.append(event)

    async with anyio.create_task_group() as tasks:

        async def fit() -> None:
            await trainer.fit(
                X, Y, batch_size=8, epochs=FOREVER, callbacks=[callback, run_on, note]
            )

        tasks.start_soon(fit)
        await gate.wait_arrived()
        tasks.cancel_scope.cancel()
    assert callback.run is not None
    (end,) = ends
    assert end.reason == callback.run.status
    # The finder stops by itself after a few steps, perhaps just before it is cancelled.
    own = ("cancelled", "stopped") if isinstance(callback, LearningRateFinder) else ("cancelled",)
    assert end.reason in own
    assert int(trainer.state.step) == ends[0].step
    epochs = ends[0].epoch + 2  # more than a backup may already have
    await trainer.fit(X, Y, batch_size=8, epochs=epochs, callbacks=[callback])
    assert callback.run.status in ("completed", "stopped")


async def test_after_a_failed_fit_it_can_be_used_again(
    trainer: fitbus.Trainer, callback: Callback
) -> None:
    """The error of another callback leaves `fit` as itself, with no note of this one's."""

    def fail(event: EpochEnd) -> None:
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more") as raised:
        await trainer.fit(X, Y, **SHORT, callbacks=[callback, fail])
    (note,) = raised.value.__notes__
    assert "fail raised ValueError: no more, at EpochEnd" in note
    assert callback.run is not None
    assert callback.run.status == "failed"
    history = await trainer.fit(X, Y, **SHORT, callbacks=[callback])
    assert history.epoch[-1] == 1


async def test_it_may_be_given_to_evaluate_and_predict(
    trainer: fitbus.Trainer, callback: Callback
) -> None:
    """Before a fit and after one, the same object; results are those without it."""
    expected = await trainer.evaluate(X, Y, batch_size=8)
    assert await trainer.evaluate(X, Y, batch_size=8, callbacks=[callback]) == expected
    outputs = await trainer.predict(X, batch_size=8)
    assert (await trainer.predict(X, batch_size=8, callbacks=[callback]) == outputs).all()
    await trainer.fit(X, Y, **SHORT, callbacks=[callback])
    expected = await trainer.evaluate(X, Y, batch_size=8)
    assert await trainer.evaluate(X, Y, batch_size=8, callbacks=[callback]) == expected


@pytest.mark.parametrize("broken", BROKEN)
async def test_where_it_cannot_write_it_says_so(
    trainer: fitbus.Trainer, broken: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """The error, or the warning, names the path; training ends as the docstring says."""
    how = BROKEN[broken]
    callback = how.make(kind_of(broken), place)
    named = how.names or str(place.file)
    step = int(trainer.state.step)
    if how.outcome == "completed":
        history = await trainer.fit(X, Y, **SHORT, callbacks=[callback])
        assert history.epoch == [0, 1]
        assert named in caplog.text
        return
    with pytest.raises((OSError, fitbus.errors.FitbusError)) as raised:
        await trainer.fit(X, Y, **SHORT, callbacks=[callback])
    assert named in str(raised.value)
    if how.outcome == "refused":
        assert int(trainer.state.step) == step
