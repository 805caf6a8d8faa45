"""Methods that can't be hooks are told when a callback is attached: misspelt, or of other arity."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest

import fitbus
from fitbus.callbacks import Callback, LambdaCallback, Logs
from fitbus.errors import InvalidHandlerError
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: what is asked here is decided before anything starts."""
    return "asyncio"


def nothing(*arguments: Any) -> None:
    """A hook that may take anything."""


def made(**members: Any) -> Callback:
    """An object of a class `Mine` with these members."""
    kind: type[Callback] = type("Mine", (Callback,), members)
    return kind()


def attach(callback: Callback) -> None:
    """Attaches it to a run that isn't started; if it is refused, nothing stays behind."""
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    try:
        trainer.run(X, Y, callbacks=[callback])
    except InvalidHandlerError:
        assert trainer.bus.statistics().subscriptions == ()
        raise


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("on_epochend", "on_epoch_end"),
        ("on_epoch_ends", "on_epoch_end"),
        ("on_epoch_start", "on_epoch_begin"),
        ("on_Epoch_End", "on_epoch_end"),
        ("on_batch_ends", "on_batch_end"),
        ("on_train_batchend", "on_train_batch_end"),
        ("on_training_end", "on_train_end"),
        ("on_test_beginn", "on_test_begin"),
    ],
)
def test_a_misspelt_hook_is_warned_of_with_the_one_that_was_meant(
    misspelt: str, meant: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Through the logger "fitbus", when it is attached; `async def`, or set on the object, too."""

    async def anything(*arguments: Any) -> None:
        """A hook that may take anything."""

    on_object = made()
    setattr(on_object, misspelt, nothing)
    for callback in (made(**{misspelt: nothing}), made(**{misspelt: anything}), on_object):
        attach(callback)
    expected = f"Mine.{misspelt} is no hook, and is never called; did you mean {meant}?"
    assert caplog.record_tuples == [("fitbus", logging.WARNING, expected)] * 3


def test_what_is_no_misspelt_hook_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Names that are far from one, or don't begin with on_; what can't be called; helpers."""

    def ask(self: Any) -> None:
        raise AssertionError("a property was asked for")

    members: dict[str, Any] = {
        "on_message": nothing,
        "on_improvement": nothing,
        "on_epoch_saved": nothing,
        "onepoch_end": nothing,
        "epoch_ends": nothing,
        "on_error": "log",
        "on_train_ends": 3,
        "on_test_ends": property(ask),
        "on_epoch_end": nothing,
        "on_epoch_end_": nothing,  # beside the hook itself: a helper
    }
    attach(made(**members))
    attach(fitbus.callbacks.EarlyStopping())
    attach(LambdaCallback(on_epoch_end=nothing))
    assert caplog.record_tuples == []


class Arities:
    """Hooks that can't be called with what they get."""

    def alone(self) -> None:
        raise AssertionError

    def index_only(self, epoch: int) -> None:
        raise AssertionError

    async def index_only_async(self, epoch: int) -> None:
        raise AssertionError

    def too_many(self, epoch: int, batch: int, logs: Logs) -> None:
        raise AssertionError

    def by_keyword(self, epoch: int, *, logs: Logs) -> None:
        raise AssertionError


A = Arities
WRONG: list[tuple[str, Any, str, str]] = [
    ("on_epoch_end", lambda: None, "()", "def on_epoch_end(self, epoch, logs=None)"),
    ("on_epoch_end", A.alone, "(self) -> 'None'", "def on_epoch_end(self, epoch, logs=None)"),
    ("on_epoch_end", A.index_only, "epoch: 'int')", "`def on_epoch_end(self, epoch, logs=None)`"),
    ("on_epoch_begin", A.index_only_async, "epoch", "`async def on_epoch_begin(self, epoch, logs"),
    ("on_epoch_end", A.too_many, "batch", "def on_epoch_end(self, epoch, logs=None)"),
    ("on_epoch_end", A.by_keyword, "*, logs", "def on_epoch_end(self, epoch, logs=None)"),
    ("on_train_begin", A.alone, "(self)", "def on_train_begin(self, logs=None)"),
    ("on_train_end", A.too_many, "batch", "def on_train_end(self, logs=None)"),
    ("on_batch_end", A.index_only, "epoch", "def on_batch_end(self, batch, logs=None)"),
    ("on_predict_batch_end", A.index_only, "", "def on_predict_batch_end(self, batch, logs=None)"),
    ("on_test_end", A.by_keyword, "", "def on_test_end(self, logs=None)"),
    ("on_epoch_end", staticmethod(lambda epoch: None), "(epoch)", "def on_epoch_end(epoch, logs"),
    ("on_epoch_end", 3, "3", "def on_epoch_end(epoch, logs=None)"),
]


@pytest.mark.parametrize(("hook", "function", "found", "expected"), WRONG)
def test_a_hook_of_another_arity_is_refused_when_it_is_attached(
    hook: str, function: Any, found: str, expected: str
) -> None:
    """Naming it, what it takes, and what it must take."""
    with pytest.raises(InvalidHandlerError) as caught:
        attach(made(**{hook: function}))
    assert caught.value.argument == f"Mine.{hook}"
    assert found in str(caught.value)
    assert expected in str(caught.value)


class Called:
    """An object that can be called with an index only."""

    def __call__(self, epoch: int) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    "function", [lambda epoch: None, Called(), functools.partial(lambda epoch, a: None, a=1)]
)
def test_a_function_of_another_arity_is_refused_too(function: Any) -> None:
    """Of a `LambdaCallback`: without `self`."""
    callback = LambdaCallback(on_epoch_end=function)
    with pytest.raises(InvalidHandlerError, match=r"`def on_epoch_end\(epoch, logs=None\)`"):
        attach(callback)


async def test_whatever_can_take_what_a_hook_gets_is_one() -> None:
    """Defaults, other names, `*args`, `**kwargs`; `def` and `async def`; of object and class."""
    calls: list[str] = []

    def anything(*arguments: Any, **more: Any) -> None:
        calls.append("train begin")

    def other_names(
        me: Any, number: int, values: Any, spare: int = 3, *, flag: bool = True
    ) -> None:
        calls.append(f"epoch begin {number} {spare} {flag}")

    def of_class(cls: Any, batch: int, logs: Any) -> None:
        calls.append(f"batch end {batch} of {cls.__name__}")

    async def anything_async(me: Any, *arguments: Any) -> None:
        calls.append(f"epoch end {arguments[0]} {sorted(arguments[1])}")

    callback = made(
        on_train_begin=anything,
        on_epoch_begin=other_names,
        on_train_batch_end=classmethod(of_class),
        on_epoch_end=anything_async,
        on_train_end=staticmethod(lambda logs: calls.append("train end")),
    )
    await TRAINER.fit(X, Y, batch_size=16, callbacks=[callback])
    assert calls == [
        "train begin",
        "epoch begin 0 3 True",
        "batch end 0 of Mine",
        "epoch end 0 ['loss', 'mean_absolute_error']",
        "train end",
    ]


async def test_what_does_not_tell_what_it_takes_is_tried() -> None:
    """Some of what is written in C: it is refused when it is called."""
    with pytest.raises(TypeError, match="dict expected at most 1 argument"):
        await TRAINER.fit(X, Y, batch_size=16, callbacks=[LambdaCallback(on_epoch_begin=dict)])
