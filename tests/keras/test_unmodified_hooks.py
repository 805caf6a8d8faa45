"""Objects of Keras' callback class in a run: which hooks, in which order, with what."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import keras

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd
from fitbus.callbacks import History
from fitbus.testing import EventRecorder

from ._unmodified import Base, Pair, Tells, check_same, close


def test_several_callbacks_are_called_in_the_order_of_the_list(models: Pair) -> None:
    """At each event all of them, one by one, as in Keras; nested lists are flattened."""
    told: dict[str, list[str]] = {"ours": [], "theirs": []}
    for name, train in (("ours", models.by_fitbus), ("theirs", models.by_keras)):
        a, b, c = (Tells(letter, told[name]) for letter in "abc")
        callbacks = [a, [b, [c]]] if name == "ours" else [a, b, c]
        train(callbacks, epochs=2, validation_split=1 / 3)
    assert told["ours"] == told["theirs"]
    assert told["ours"][:3] == ["a train begin", "b train begin", "c train begin"]


def test_fitbus_handlers_keep_their_place_between_keras_callbacks(models: Pair) -> None:
    """One order for all that wait in the training thread."""
    told: list[str] = []

    def handler(event: EpochEnd) -> None:
        told.append(f"handler epoch {event.epoch} end")

    class Ours(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            told.append(f"fitbus epoch {epoch} end")

    models.by_fitbus([Tells("a", told), handler, Ours(), Tells("b", told)])
    ends = [line for line in told if line.endswith("epoch 0 end")]
    assert ends == ["a epoch 0 end", "handler epoch 0 end", "fitbus epoch 0 end", "b epoch 0 end"]


def test_a_tuple_of_a_list_and_of_an_empty_one(models: Pair) -> None:
    """Nothing is called twice, and nothing is an error."""
    told: list[str] = []
    models.by_fitbus([(), [[Tells("a", told)], None]])
    assert told.count("a train end") == 1


def test_additions_to_logs_reach_later_callbacks_of_both_kinds(models: Pair) -> None:
    """A Keras callback's reach fitbus' History; a fitbus callback's reach a Keras one."""

    class Adds(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["from_keras"] = epoch + 0.5

    class Ours(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert logs["from_keras"] == epoch + 0.5
            logs["from_fitbus"] = epoch + 0.25

    theirs, history = keras.callbacks.History(), History()
    found = models.by_fitbus([Adds(), Ours(), theirs, history], epochs=2)
    for record in (found.result.history, theirs.history, history.history):
        assert record["from_keras"] == [0.5, 1.5]
        assert record["from_fitbus"] == [0.25, 1.25]


def test_a_fitbus_monitor_may_watch_what_a_keras_callback_adds(models: Pair) -> None:
    """A lambda's addition too: the name isn't refused before the first step."""
    stops = fitbus.callbacks.EarlyStopping("added", mode="min", patience=1)
    adds = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs.update(added=float(epoch))
    )
    found = models.by_fitbus([adds, stops], epochs=9)
    assert found.result.epoch == [0, 1]


def test_logs_that_are_replaced_or_cleared_stay_private_to_the_event(models: Pair) -> None:
    """The events of handlers and streams keep the run's own values."""

    class Clears(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs.clear()

    recorder = EventRecorder()
    found = models.by_fitbus([Clears(), recorder])
    assert found.result.history == {}
    assert set(recorder.of(EpochEnd)[0].logs) == {"loss", "mae"}


def test_old_names_of_batch_hooks_are_called(models: Pair) -> None:
    """Once a batch; and the new name wins where there are both, as in Keras."""

    class Old(Base):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[str] = []

        def on_batch_begin(self, batch: int, logs: Any = None) -> None:
            self.told.append(f"begin {batch} {sorted(logs)}")

        def on_batch_end(self, batch: int, logs: Any = None) -> None:
            self.told.append(f"end {batch} {sorted(logs)}")

    class Both(Old):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.told.append(f"new end {batch}")

    ours, theirs = models.both(lambda: [Old(), Both()])
    check_same(ours, theirs)
    for mine, their in zip(ours.callbacks, theirs.callbacks, strict=True):
        assert mine.told == their.told
    assert ours.callbacks[0].told[:2] == ["begin 0 []", "end 0 ['loss', 'mae']"]
    assert ours.callbacks[1].told[1] == "new end 0"


def test_batch_calls_are_in_order_and_alone_where_keras_uses_a_pool(models: Pair) -> None:
    """`async_safe` is ignored: each batch once, in order, in one thread; a stop acts at once."""
    import threading

    class Safe(Base):
        async_safe = True

        def __init__(self) -> None:
            super().__init__()
            self.batches: list[int] = []
            self.threads: set[int] = set()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batches.append(batch)
            self.threads.add(threading.get_ident())
            if batch == 3:
                self.model.stop_training = True

    safe = Safe()
    found = models.by_fitbus([safe], batch_size=1, epochs=2)
    assert safe.batches == [0, 1, 2, 3]
    assert len(safe.threads) == 1
    assert found.result.epoch == [0]


def test_keras_callbacks_work_in_evaluate_and_predict(models: Pair) -> None:
    """Their test and predict hooks; a closure over the model sees the trainer's weights."""

    class Counts(Base):
        def __init__(self) -> None:
            super().__init__()
            self.told: list[Any] = []

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.told.append(("test", batch))
            if batch == 1:
                self.model.stop_evaluating = True

        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            self.told.append(("predict", batch, len(logs["outputs"])))
            if batch == 0:
                self.model.stop_predicting = True

        def on_test_end(self, logs: Any = None) -> None:
            self.told.append(self.model.get_weights())

        on_predict_end = on_test_end

    for call in ("evaluate", "predict"):
        ours, theirs = models.both(lambda: [Counts()], call)
        check_same(ours, theirs)
        assert close(ours.callbacks[0].told, theirs.callbacks[0].told)
    assert len(ours.result) == 16


def test_batches_of_events_match_the_hooks(models: Pair) -> None:
    """A recorder beside sees the same indices and values."""
    rows: list[Any] = []

    class Rows(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            rows.append((batch, dict(logs)))

    recorder = EventRecorder()
    models.by_fitbus([Rows(), recorder], epochs=2)
    assert rows == [(event.batch, event.logs) for event in recorder.of(BatchEnd)]
    assert len(recorder.of(EpochBegin)) == 2
