"""A callback's hooks: which are called, when, with what, one at a time; and what they return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio.lowlevel
import pytest

import fitbus
from fitbus import ControlApplied, SetLearningRate, StopTraining, TrainEnd
from fitbus.callbacks import Callback, Logs
from fitbus.errors import InvalidHandlerError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

ENDS = ("begin", "end")
KINDS = ("train", "test", "predict")
HOOKS = [
    *(f"on_{kind}_{end}" for kind in (*KINDS, "epoch") for end in ENDS),
    *(f"on_{kind}_batch_{end}" for kind in KINDS for end in ENDS),
]
METRICS = ["loss", "mean_absolute_error"]
ALL = [*METRICS, *(f"val_{name}" for name in METRICS)]
TEST: list[Any] = [
    ("on_test_begin", []),
    ("on_test_batch_begin", 0, []),
    ("on_test_batch_end", 0, METRICS),
    ("on_test_batch_begin", 1, []),
    ("on_test_batch_end", 1, METRICS),
    ("on_test_end", METRICS),
]
PREDICT = [
    ("on_predict_begin", []),
    ("on_predict_batch_begin", 0, []),
    ("on_predict_batch_end", 0, ["outputs"]),
    ("on_predict_batch_begin", 1, []),
    ("on_predict_batch_end", 1, ["outputs"]),
    ("on_predict_end", []),
]


def epoch(number: int) -> list[Any]:
    return [
        ("on_epoch_begin", number, []),
        ("on_train_batch_begin", 0, []),
        ("on_train_batch_end", 0, METRICS),
        ("on_train_batch_begin", 1, []),
        ("on_train_batch_end", 1, METRICS),
        *TEST,
        ("on_epoch_end", number, ALL),
    ]


FIT = [("on_train_begin", []), *epoch(0), *epoch(1), ("on_train_end", ALL)]


class Noting(Callback):
    """Notes each call of a hook, with its index and the names in its logs."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.open = 0
        self.overlaps = 0

    def enter(self, name: str, arguments: tuple[Any, ...]) -> None:
        self.overlaps += self.open > 0
        self.open += 1
        *index, logs = arguments
        assert type(logs) is dict
        self.calls.append((name, *index, list(logs)))


def noting(*names: str, is_async: Callable[[str], bool]) -> Noting:
    """One that has these hooks, each of which takes a moment."""

    def make(name: str) -> Callable[..., Any]:
        def hook(self: Noting, *arguments: Any) -> None:
            self.enter(name, arguments)
            threading.Event().wait(0)  # lets go of the interpreter: others could come in
            self.open -= 1

        async def hook_async(self: Noting, *arguments: Any) -> None:
            self.enter(name, arguments)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            self.open -= 1

        return hook_async if is_async(name) else hook

    kind: type[Noting] = type("Noted", (Noting,), {name: make(name) for name in names})
    return kind()


COLOURS: dict[str, Callable[[str], bool]] = {
    "def": lambda name: False,
    "async": lambda name: True,
    "async batches": lambda name: "batch" in name,
    "async begins": lambda name: name.endswith("begin"),
    "async ends": lambda name: name.endswith("end"),
}


@pytest.mark.parametrize("colour", COLOURS)
async def test_all_14_hooks_are_called_in_order_one_at_a_time(colour: str) -> None:
    """Whatever their colours: one object is one subscriber, and gets all in `seq` order."""
    assert len(HOOKS) == 14
    callback = noting(*HOOKS, is_async=COLOURS[colour])
    await TRAINER.fit(X, Y, batch_size=4, epochs=2, validation_split=0.5, callbacks=[callback])
    assert callback.calls == FIT
    callback.calls.clear()
    await TRAINER.evaluate(X, Y, batch_size=8, callbacks=[callback])
    assert callback.calls == TEST
    callback.calls.clear()
    await TRAINER.predict(X, batch_size=8, callbacks=[callback])
    assert callback.calls == PREDICT
    assert callback.overlaps == 0


@pytest.mark.parametrize("colour", ["def", "async"])
@pytest.mark.parametrize("end", ENDS)
async def test_the_old_names_stand_for_the_hooks_of_training_batches(end: str, colour: str) -> None:
    """Unless the new name is there too: then it alone is called, as in Keras."""
    old, new = f"on_batch_{end}", f"on_train_batch_{end}"
    names = METRICS if end == "end" else []
    both = noting(old, new, is_async=COLOURS[colour])
    callback = noting(old, is_async=COLOURS[colour])
    await TRAINER.fit(X, Y, batch_size=4, validation_split=0.5, callbacks=[callback, both])
    assert callback.calls == [(old, 0, names), (old, 1, names)]
    assert both.calls == [(new, 0, names), (new, 1, names)]
    callback.calls.clear()
    await TRAINER.evaluate(X, Y, callbacks=[callback])
    await TRAINER.predict(X, callbacks=[callback])
    assert callback.calls == []


@pytest.mark.parametrize("colour", ["def", "async"])
@pytest.mark.parametrize(
    ("names", "delivered"),
    [
        ((), None),
        (("on_epoch_end",), 2),
        (("on_test_end", "on_train_batch_end"), 6),
        (HOOKS, len(FIT)),
    ],
)
async def test_only_the_hooks_that_it_has_are_subscribed(
    names: tuple[str, ...], delivered: int | None, colour: str
) -> None:
    callback = noting(*names, is_async=COLOURS[colour])
    run = TRAINER.run(X, Y, batch_size=4, epochs=2, validation_split=0.5, callbacks=[callback])
    async with run:
        await run.wait()
    assert run.report is not None
    found = {entry.name: entry.delivered for entry in run.report.subscribers}
    assert found == ({} if delivered is None else {"Noted": delivered})
    assert len(callback.calls) == (delivered or 0)


async def test_hooks_may_be_inherited_and_set_on_the_object() -> None:
    class Heir(type(noting("on_epoch_begin", is_async=COLOURS["def"]))):  # type: ignore[misc]  # made above
        pass

    heir = Heir()
    heir.on_epoch_end = lambda epoch, logs=None: heir.calls.append("set on the object")
    await TRAINER.fit(X, Y, batch_size=4, callbacks=[heir])
    assert heir.calls == [("on_epoch_begin", 0, []), "set on the object"]


class Steers(Callback):
    """Returns a control from a `def` hook, a list of them from an `async def` one."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> SetLearningRate:
        return SetLearningRate(0.125 / 2**epoch)

    async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> list[Any]:
        return [SetLearningRate(0.5), StopTraining("seen enough")] if epoch == 1 else []


class Rates(Callback):
    """Notes the learning rate, in hooks that come after those of `Steers`."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self.rates.append(self.model.optimizer.learning_rate)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.rates.append(self.model.optimizer.learning_rate)


async def test_controls_that_hooks_return_act_at_their_event_in_the_callbacks_name() -> None:
    rates, recorder = Rates(), EventRecorder()
    await TRAINER.fit(X, Y, batch_size=4, epochs=9, callbacks=[Steers(), rates, recorder])
    assert rates.rates == [0.125, 0.125, 0.0625, 0.5]
    told = [(event.epoch, event.source) for event in recorder.of(ControlApplied)]
    assert told == [(0, "Steers"), (1, "Steers"), (1, "Steers"), (1, "Steers")]
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail, end.source) == ("stopped", "seen enough", "Steers")


async def test_a_concurrent_hook_can_return_a_stop() -> None:
    class Stops(Callback):
        async def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> StopTraining:
            return StopTraining("at once")

    recorder = EventRecorder()
    await TRAINER.fit(X, Y, batch_size=4, epochs=10**6, callbacks=[Stops(), recorder])
    (end,) = recorder.of(TrainEnd)
    assert (end.reason, end.detail) == ("stopped", "at once")
    assert end.source.endswith("Stops")


def ending_epochs(colour: str, returns: Callable[[Logs], Any]) -> Callback:
    """A callback whose hook returns something."""

    class Returns(Callback):
        def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> Any:
            assert logs is not None
            return returns(logs)

    class ReturnsAsync(Callback):
        async def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> Any:
            assert logs is not None
            return returns(logs)

    return Returns() if colour == "def" else ReturnsAsync()


@pytest.mark.parametrize("colour", ["def", "async"])
async def test_what_is_no_control_is_ignored(colour: str) -> None:
    """As in Keras: whatever a one-line hook comes to, such as the length of what was written."""
    returns: list[Callable[[Logs], Any]] = [
        lambda logs: logs,
        lambda logs: 39,
        lambda logs: "text",
        lambda logs: [0.5, None],
        lambda logs: ((), {}),
        lambda logs: X,
        lambda logs: callbacks[0].run.post(fitbus.Resume()),  # type: ignore[union-attr]  # it is live
    ]
    callbacks = [ending_epochs(colour, what) for what in returns]
    history = await TRAINER.fit(X, Y, epochs=2, callbacks=callbacks)
    assert history.epoch == [0, 1]


@pytest.mark.parametrize("colour", ["def", "async"])
@pytest.mark.parametrize(
    ("returned", "found"),
    [
        (StopTraining, "found <class 'fitbus.*; StopTraining is the class: return an instance"),
        (
            [StopTraining(), None],
            r"found \[StopTraining\(.*, None\]; return None, a Control or a list",
        ),
    ],
    ids=["a class", "a list with something else in it"],
)
async def test_controls_that_would_be_lost_are_refused(
    colour: str, returned: Any, found: str
) -> None:
    with pytest.raises(InvalidHandlerError, match=rf"Returns(Async)?: {found}"):
        await TRAINER.fit(X, Y, callbacks=[ending_epochs(colour, lambda logs: returned)])


async def test_a_coroutine_that_nobody_awaits_is_refused() -> None:
    async def write() -> None:
        """Would never be called."""

    coroutine = write()
    with pytest.raises(InvalidHandlerError, match=r"Returns: found <coroutine"):
        await TRAINER.fit(X, Y, callbacks=[ending_epochs("def", lambda logs: coroutine)])
    coroutine.close()
