"""A monitor that can never appear: refused, or warned of where a callback might still add it."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest

import fitbus
from fitbus.callbacks import Callback, EarlyStopping
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem

PROBLEM = toy_problem(32)


class Looks(Callback):
    """Only looks at the logs, which can't be told from outside."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen = logs["loss"]


class OnlyLooks(Looks):
    """Says so."""

    adds_logs: ClassVar[bool | frozenset[str]] = False


class Adds(Callback):
    """Adds a name that it declares."""

    adds_logs: ClassVar[bool | frozenset[str]] = frozenset({"points"})

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["points"] = float(epoch)


def fit(*callbacks: Callback) -> fitbus.History:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    return trainer.fit_sync(PROBLEM.x, PROBLEM.y, epochs=2, callbacks=callbacks)


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_beside_a_callback_that_may_add_names_a_warning_lists_those_there_will_be(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.warns(RuntimeWarning, match="no 'lss' in the logs"):
        assert fit(EarlyStopping("lss", mode="min"), Looks()).epoch == [0, 1]
    (message,) = warned(caplog)
    assert "unless a callback adds it" in message
    assert "'lss'" in message
    assert "['loss', 'mean_absolute_error']" in message


@pytest.mark.parametrize("beside", [OnlyLooks, Adds])
def test_beside_one_that_says_what_it_adds_it_is_refused(beside: type[Callback]) -> None:
    with pytest.raises(InvalidArgumentError, match="lss"):
        fit(EarlyStopping("lss", mode="min"), beside())


def test_a_name_that_is_declared_may_be_monitored(caplog: pytest.LogCaptureFixture) -> None:
    assert fit(Adds(), EarlyStopping("points", mode="max")).epoch == [0, 1]
    assert warned(caplog) == []
