"""`self.model` in the hooks of Keras callbacks: the model itself, in step with the run."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import jax
import keras
import numpy as np
import pytest

import fitbus
from fitbus import ControlApplied, SetLearningRate, TrainEnd, UpdateState
from fitbus.testing import EventRecorder

from ._unmodified import Base, Pair, check_same, close, dense, x, y


class Reads(Base):
    """Notes in each hook what the model and its optimizer have."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def _read(self, *_: Any, **__: Any) -> None:
        model = self.model
        optimizer = model.optimizer
        self.found.append(
            [
                model.get_weights(),
                [np.array(variable.value) for variable in optimizer.variables],
                int(optimizer.iterations),
                float(optimizer.learning_rate),
                [model.stop_training],
            ]
        )

    on_train_begin = on_train_end = on_test_begin = on_test_end = _read
    on_epoch_begin = on_epoch_end = on_train_batch_begin = on_train_batch_end = _read
    on_test_batch_begin = on_test_batch_end = _read


def test_every_hook_reads_the_state_of_that_moment(models: Pair) -> None:
    """Weights, the optimizer's variables, its count and its learning rate, as in Keras' own fit."""
    ours, theirs = models.both(lambda: [Reads()], epochs=2, validation_split=1 / 3)
    check_same(ours, theirs)
    mine, their = ours.callbacks[0].found, theirs.callbacks[0].found
    assert len(mine) == 2 * (2 + 2 * 2 + 2 + 2 * 1) + 2
    assert close(mine, their)


def test_what_a_hook_reads_is_what_a_snapshot_has(models: Pair) -> None:
    """A fitbus callback beside it copies the very same arrays."""
    kept: list[Any] = []

    class Keeps(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kept.append([np.array(v.value) for v in self.model.trainable_variables])

    class Ours(fitbus.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            assert close(kept[-1], jax.tree.leaves(self.model.state.params))
            assert close(kept[-1], self.model.get_weights())
            ours.append(batch)

    ours: list[int] = []
    models.by_fitbus([Keeps(), Ours()])
    assert ours == [0, 1, 2]
    assert not close(kept[0], kept[1])


def test_what_a_hook_keeps_is_its_own(models: Pair) -> None:
    """Arrays of a batch's hook live on after the step that would have taken them."""
    kept: list[Any] = []

    class Keeps(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            kept.append([variable.value for variable in self.model.variables])

    models.by_fitbus([Keeps()], epochs=2)
    assert all(np.isfinite(array).all() for arrays in kept for array in arrays)
    assert len({float(arrays[0].sum()) for arrays in kept}) == 6


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, np.array])
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_train_batch_begin", "on_train_batch_end"])
def test_an_assigned_learning_rate_acts_at_once(models: Pair, hook: str, kind: Any) -> None:
    """Whatever kind of number it is; it is told as `SetLearningRate`, with the callback's name."""

    class Sets(Base):
        pass

    def sets(self: Any, index: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = kind(0.01 * (index + 1))

    setattr(Sets, hook, sets)
    recorder = EventRecorder()
    ours = models.by_fitbus([Sets(), recorder], epochs=2)
    theirs = models.by_keras([Sets()], epochs=2)
    check_same(ours, theirs)
    applied = recorder.of(ControlApplied)
    assert applied
    assert {type(event.control) for event in applied} == {SetLearningRate}
    assert {event.source for event in applied} == {Sets.__qualname__}


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_end", "on_train_batch_end"])
def test_assigned_weights_act_at_once(models: Pair, hook: str) -> None:
    """In the next hook, and in the next step; the optimizer's momenta stay."""

    class Halves(Base):
        def _halve(self, *_: Any, **__: Any) -> None:
            self.model.set_weights([weight / 2 for weight in self.model.get_weights()])

    setattr(Halves, hook, Halves._halve)
    recorder = EventRecorder()
    reads = Reads()
    ours = models.by_fitbus([Halves(), reads, recorder], epochs=2)
    expected = Reads()
    theirs = models.by_keras([Halves(), expected], epochs=2)
    check_same(ours, theirs)
    assert close(reads.found, expected.found)
    assert {type(event.control) for event in recorder.of(ControlApplied)} == {UpdateState}


def test_one_variable_of_the_optimizer_may_be_assigned(models: Pair) -> None:
    """Momenta set to zero at each epoch; and one weight alone, by `assign`."""

    class Zeroes(Base):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            optimizer = self.model.optimizer
            for variable in optimizer.variables[2:]:
                variable.assign(variable.value * 0)
            self.model.layers[0].kernel.assign(self.model.layers[0].kernel * 1.5)

    check_same(*models.both(lambda: [Zeroes()], epochs=3))


def test_stop_training_ends_the_epoch_and_is_validated(models: Pair) -> None:
    """In a hook of a batch: the epoch ends there; its validation and its end still come."""

    class Stops(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                self.model.stop_training = True

    recorder = EventRecorder()
    reads, expected = Reads(), Reads()
    ours = models.by_fitbus([Stops(), reads, recorder], epochs=3, validation_split=1 / 4)
    theirs = models.by_keras([Stops(), expected], epochs=3, validation_split=1 / 4)
    check_same(ours, theirs)
    assert close(reads.found, expected.found)
    assert models.ours.stop_training is True
    ended = recorder.of(TrainEnd)[0]
    assert (ended.reason, ended.source) == ("stopped", Stops.__qualname__)


def test_a_stop_is_not_taken_back(models: Pair) -> None:
    """In Keras a later callback can let training go on; here the first one's stop counts."""

    class Stops(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = True

    class TakesBack(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.stop_training = False

    found = models.by_fitbus([Stops(), TakesBack()], epochs=3)
    assert found.result.epoch == [0]
    models.reset()
    assert models.by_keras([Stops(), TakesBack()], epochs=3).result.epoch == [0, 1, 2]


def test_a_control_of_another_sender_is_seen_in_the_next_hook(models: Pair) -> None:
    """A learning rate and a stop that fitbus' handlers sent."""
    seen: list[Any] = []

    def handler(event: fitbus.EpochBegin) -> list[fitbus.Control]:
        return [SetLearningRate(0.25), fitbus.StopTraining("seen")]

    class Sees(Base):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            seen.append((float(self.model.optimizer.learning_rate), self.model.stop_training))

    models.by_fitbus([handler, Sees()], epochs=3)
    assert seen == [(0.25, True)]


def test_other_variables_are_refused_with_what_to_do() -> None:
    """A schedule in place of a learning rate: the compiled step knows nothing of it."""

    class Schedules(Base):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.model.optimizer = keras.optimizers.Adam()

    model = dense()
    trainer = fitbus.Trainer(fitbus.keras.KerasTask(model))
    with pytest.raises(fitbus.errors.FitbusError, match="compile the model with them"):
        trainer.fit_sync(x, y, callbacks=[Schedules()])
