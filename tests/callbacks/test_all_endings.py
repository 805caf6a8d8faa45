"""Every built-in callback survives a training that ends early, anywhere, and can be used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, StopTraining, TestBegin, TrainBegin, TrainEnd
from fitbus.callbacks import Callback, LearningRateFinder
from fitbus.events import Event

from ._every import DEAD, NAMES, PROBLEM, Place, X, Y, made, nothing_left

SHORT: dict[str, Any] = {"batch_size": 8, "epochs": 2, "validation_data": (X, Y)}

Fit = Callable[..., fitbus.History]


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    """Its steps are compiled once."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


@pytest.fixture(params=NAMES)
def callback(request: pytest.FixtureRequest, tmp_path: Path) -> Callback:
    """One of each; nobody is there to be sent to."""
    return made(request.param, Place(tmp_path, DEAD))


@pytest.fixture
def fit(trainer: fitbus.Trainer, callback: Callback) -> Iterator[Fit]:
    """Trains with it; in the end it trains as ever, and nothing is left."""
    with nothing_left(trainer):
        yield lambda *others, **given: trainer.fit_sync(
            X, Y, callbacks=[*others[:1], callback, *others[1:]], **{**SHORT, **given}
        )
        history = trainer.fit_sync(X, Y, callbacks=[callback], **SHORT)
        assert history.epoch[-1] == 1


class Fails(Callback):
    """Raises at one kind of event."""

    def __init__(self, kind: type[Event], error: type[BaseException] = ValueError) -> None:
        self.error = error
        hooks: dict[type[Event], str] = {
            TrainBegin: "on_train_begin",
            EpochBegin: "on_epoch_begin",
            BatchEnd: "on_train_batch_end",
            TestBegin: "on_test_begin",
            EpochEnd: "on_epoch_end",
            TrainEnd: "on_train_end",
        }
        setattr(self, hooks[kind], self.fail)

    def fail(self, *given: Any) -> None:
        raise self.error("no more")


@pytest.mark.parametrize("comes", ["first", "last"])
def test_another_callback_may_fail_anywhere(fit: Fit, comes: str) -> None:
    """Before this one's hook of that event or after it; its error is what `fit` raises."""
    for kind in (TrainBegin, EpochBegin, BatchEnd, TestBegin, EpochEnd, TrainEnd):
        fails = Fails(kind)
        others: list[Any] = [fails] if comes == "first" else [None, fails]
        with pytest.raises(ValueError, match="no more"):
            fit(*others)


def test_training_may_be_interrupted(fit: Fit) -> None:
    with pytest.raises(KeyboardInterrupt, match="no more"):
        fit(None, Fails(EpochEnd, KeyboardInterrupt))


def test_there_may_be_no_epoch(fit: Fit, callback: Callback) -> None:
    """Of which only one says that it had no batches."""
    if isinstance(callback, LearningRateFinder):
        with pytest.warns(RuntimeWarning, match="training had 0 batches only"):
            assert fit(epochs=0).epoch == []
    else:
        assert fit(epochs=0).epoch == []


def test_training_may_be_stopped_in_the_midst_of_an_epoch(fit: Fit) -> None:
    """That is validated, and ended."""

    def stop(event: BatchEnd) -> StopTraining | None:
        return StopTraining("enough") if event.batch == 0 else None

    history = fit(stop)
    assert history.epoch == [0]
    assert "val_loss" in history.history


def test_there_may_be_epochs_without_validation(fit: Fit) -> None:
    assert fit(validation_freq=2).epoch == [0, 1]
