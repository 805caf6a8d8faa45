"""Callbacks made of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

import fitbus
from fitbus import ControlApplied, SetLearningRate, StopTraining
from fitbus.callbacks import Callback, LambdaCallback
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)

ENDS = ("begin", "end")
KINDS = ("train", "test", "predict")
PLAIN = [f"on_{kind}_{end}" for kind in KINDS for end in ENDS]
INDEXED = [
    f"on_{kind}_{end}" for kind in ("epoch", *(f"{kind}_batch" for kind in KINDS)) for end in ENDS
]
FIT = """
    on_train_begin on_epoch_begin:0
    on_train_batch_begin:0 on_train_batch_end:0 on_train_batch_begin:1 on_train_batch_end:1
    on_test_begin on_test_batch_begin:0 on_test_batch_end:0 on_test_end
    on_epoch_end:0 on_train_end
"""
PREDICT = "on_predict_begin on_predict_batch_begin:0 on_predict_batch_end:0 on_predict_end"


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
async def test_every_hook_can_be_given_by_name(is_async: bool) -> None:
    calls: list[str] = []

    def make(name: str) -> Callable[..., Any]:
        def plain(logs: dict[str, Any]) -> None:
            calls.append(name)

        def indexed(index: int, logs: dict[str, Any]) -> None:
            calls.append(f"{name}:{index}")

        async def plain_async(logs: dict[str, Any]) -> None:
            calls.append(name)

        async def indexed_async(index: int, logs: dict[str, Any]) -> None:
            calls.append(f"{name}:{index}")

        if name in PLAIN:
            return plain_async if is_async else plain
        return indexed_async if is_async else indexed

    callback = LambdaCallback(**{name: make(name) for name in PLAIN + INDEXED})
    assert len(PLAIN + INDEXED) == 14
    await TRAINER.fit(
        X, Y, batch_size=4, validation_split=0.5, validation_steps=1, callbacks=[callback]
    )
    assert calls == FIT.split()
    calls.clear()
    await TRAINER.predict(X, batch_size=16, callbacks=[callback])
    assert calls == PREDICT.split()


async def test_the_six_of_keras_can_be_given_in_its_order() -> None:
    calls: list[str] = []

    def note(*arguments: Any) -> None:
        calls.append(" ".join(sorted(arguments[-1])) or "-")

    await TRAINER.fit(
        X, Y, batch_size=8, callbacks=[LambdaCallback(note, note, note, note, note, note)]
    )
    metrics = "loss mean_absolute_error"
    assert calls == ["-", "-", "-", metrics, "-", metrics, metrics, metrics]


@pytest.mark.parametrize("old", ["on_batch_begin", "on_batch_end"])
async def test_the_old_names_are_those_of_training_batches(old: str) -> None:
    batches: list[int] = []
    callback = LambdaCallback(**{old: lambda batch, logs: batches.append(batch)})
    await TRAINER.fit(X, Y, batch_size=8, validation_split=0.5, callbacks=[callback])
    assert batches == [0]


@pytest.mark.parametrize(
    "name", ["on_epoch_ends", "on_error", "attach", "model", "run", "epoch_end", "set_params"]
)
def test_a_name_that_is_no_hook_is_refused_with_the_list_of_hooks(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        LambdaCallback(**{name: lambda: None})
    message = str(raised.value)
    assert message.startswith(f"LambdaCallback: found {name!r}; ")
    assert all(hook in message for hook in [*PLAIN, *INDEXED, "on_batch_begin", "on_batch_end"])


@pytest.mark.parametrize("value", [3, "print", True])
def test_what_cannot_be_called_is_refused_with_the_hooks_name(value: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"LambdaCallback\.on_test_end: "):
        LambdaCallback(on_test_end=value)


async def test_none_is_no_hook() -> None:
    """As it is where a hook is left out: nothing is subscribed."""
    run = TRAINER.run(X, Y, callbacks=[LambdaCallback(None, on_test_end=None)])
    async with run:
        await run.wait()
    assert run.report is not None
    assert run.report.subscribers == ()


async def test_what_a_function_returns_is_sent() -> None:
    """A control, or a list of them, in the callback's name."""
    recorder = EventRecorder()
    callback = LambdaCallback(
        on_epoch_begin=lambda epoch, logs: [SetLearningRate(0.01 * (epoch + 1))],
        on_epoch_end=lambda epoch, logs: StopTraining() if epoch == 1 else None,
    )
    history = await TRAINER.fit(X, Y, epochs=9, callbacks=[callback, recorder])
    assert history.epoch == [0, 1]
    told = [(event.source, event.control) for event in recorder.of(ControlApplied)]
    assert [source for source, _ in told] == ["LambdaCallback"] * 3


class Told:
    """An object that can be called."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, epoch: int, logs: dict[str, Any]) -> None:
        self.epochs.append(epoch)

    def note(self, epoch: int, logs: dict[str, Any], *, offset: int = 0) -> None:
        self.epochs.append(epoch + offset)

    async def anote(self, epoch: int, logs: dict[str, Any], *, offset: int = 0) -> None:
        self.epochs.append(epoch + offset)


class ToldAsync(Told):
    """One whose call is a coroutine."""

    async def __call__(self, epoch: int, logs: dict[str, Any]) -> None:  # type: ignore[override]  # on purpose
        self.epochs.append(epoch)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda told: told, 0),
        (lambda told: told.note, 0),
        (lambda told: told.anote, 0),
        (lambda told: functools.partial(told.note, offset=10), 10),
        (lambda told: functools.partial(told.anote, offset=10), 10),
    ],
    ids=["object", "method", "async method", "partial", "async partial"],
)
async def test_whatever_can_be_called_will_do(make: Callable[[Told], Any], first: int) -> None:
    told = Told()
    await TRAINER.fit(X, Y, epochs=2, callbacks=[LambdaCallback(on_epoch_end=make(told))])
    assert told.epochs == [first, first + 1]


async def test_an_object_whose_call_is_a_coroutine_is_awaited() -> None:
    told = ToldAsync()
    await TRAINER.fit(X, Y, epochs=2, callbacks=[LambdaCallback(on_epoch_end=told)])
    assert told.epochs == [0, 1]


async def test_two_of_them_share_no_hooks() -> None:
    one, two = Told(), Told()
    callbacks = [LambdaCallback(on_epoch_begin=one), LambdaCallback(on_epoch_end=two)]
    await TRAINER.fit(X, Y, epochs=1, callbacks=callbacks)
    assert (one.epochs, two.epochs) == ([0], [0])
    assert Callback().on_epoch_end(0, {}) is None
