"""Objects of Keras' callback class in a run: which hooks, in which order, with what."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import keras
import pytest

import fitbus
from fitbus import BatchEnd, EpochBegin, EpochEnd, TrainEnd
from fitbus.callbacks import History
from fitbus.testing import EventRecorder

from ._unmodified import Pair, check_same, close, pair, x, y

Base: Any = keras.callbacks.Callback


class Tells(Base):
    """Notes in a shared list what is called."""

    def __init__(self, name: str, told: list[str]) -> None:
        super().__init__()
        self.called, self.told = name, told

    def on_train_begin(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} train begin")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} epoch {epoch} begin")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} epoch {epoch} end")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.told.append(f"{self.called} batch {batch}")

    def on_test_end(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} test end")

    def on_train_end(self, logs: Any = None) -> None:
        self.told.append(f"{self.called} train end")


@pytest.fixture(scope="module")
def models() -> Pair:
    """Both models, compiled once."""
    return pair()


def test_several_callbacks_are_called_in_the_order_of_the_list(models: Pair) -> None:
    """At each event all of them, one by one, as in Keras; nested lists are flattened."""
    told: dict[str, list[str]] = {"ours": [], "theirs": []}
    models.reset()
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

    models.reset()
    models.by_fitbus([Tells("a", told), handler, Ours(), Tells("b", told)])
    ends = [line for line in told if line.endswith("epoch 0 end")]
    assert ends == ["a epoch 0 end", "handler epoch 0 end", "fitbus epoch 0 end", "b epoch 0 end"]


def test_a_callback_list_stands_for_its_callbacks(models: Pair) -> None:
    """With the history and the progress bar that Keras adds to it, if asked to."""
    told: list[str] = []
    models.reset()
    group = keras.callbacks.CallbackList([Tells("a", told), Tells("b", told)], add_history=True)
    found = models.by_fitbus([group])
    assert told[:2] == ["a train begin", "b train begin"]
    recorded = group.callbacks[-1]
    assert isinstance(recorded, keras.callbacks.History)
    assert recorded.history == found.result.history
    assert models.ours.history is recorded


def test_a_tuple_of_a_list_and_of_an_empty_one(models: Pair) -> None:
    """Nothing is called twice, and nothing is an error."""
    told: list[str] = []
    models.reset()
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
    models.reset()
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
    models.reset()
    found = models.by_fitbus([adds, stops], epochs=9)
    assert found.result.epoch == [0, 1]


def test_logs_that_are_replaced_or_cleared_stay_private_to_the_event(models: Pair) -> None:
    """The events of handlers and streams keep the run's own values."""

    class Clears(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs.clear()

    recorder = EventRecorder()
    models.reset()
    found = models.by_fitbus([Clears(), recorder])
    assert found.result.history == {}
    assert set(recorder.of(EpochEnd)[0].logs) == {"loss", "mae"}


def test_only_overridden_hooks_are_subscribed(models: Pair) -> None:
    """A class without any has no subscription; one for epochs doesn't make batches exact."""

    class Nothing(Base):
        pass

    class Epochs(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            pass

    models.reset()
    made = models.trainer.run(x, y, callbacks=[Nothing(), keras.callbacks.Callback()])
    assert not [s for s in made.bus.subscriptions if s.run == made.id]
    made = models.trainer.run(x, y, callbacks=[Epochs()])
    mine = [s for s in made.bus.subscriptions if s.run == made.id]
    assert [s.name for s in mine] == [Epochs.__qualname__]
    assert set(mine[0].kinds) == {EpochEnd}
    for subscription in mine:
        subscription.cancel()


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
    models.reset()
    found = models.by_fitbus([safe], batch_size=1, epochs=2)
    assert safe.batches == [0, 1, 2, 3]
    assert len(safe.threads) == 1
    assert found.result.epoch == [0]


def test_params_and_model_are_given_as_keras_gives_them(models: Pair) -> None:
    """The model itself, then `params`; before anything is called."""

    class Notes(Base):
        def __init__(self) -> None:
            super().__init__()
            self.order: list[Any] = []

        def set_params(self, params: Any) -> None:
            super().set_params(params)
            self.order.append(("params", dict(params), self.model is not None))

        def set_model(self, model: Any) -> None:
            super().set_model(model)
            self.order.append(("model", self.params))

        def on_train_begin(self, logs: Any = None) -> None:
            self.order.append("train begin")

    ours, theirs = models.both(lambda: [Notes()], epochs=2)
    assert ours.callbacks[0].order == theirs.callbacks[0].order
    assert ours.callbacks[0].order[1] == ("params", {"verbose": 0, "epochs": 2, "steps": 3}, True)
    assert ours.callbacks[0].model is models.ours


def test_an_object_of_another_class_with_the_hooks_works_too(models: Pair) -> None:
    """Duck typing: only those hooks are called that it has, and its model is up to date."""

    class Duck:
        def __init__(self) -> None:
            self.weights: list[Any] = []

        def set_model(self, model: Any) -> None:
            self.model = model

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.weights.append(self.model.get_weights())
            if batch == 1:
                self.model.set_weights([w * 0 for w in self.model.get_weights()])

    class Same(Base):
        def __init__(self) -> None:
            super().__init__()
            self.weights: list[Any] = []

        on_train_batch_end = Duck.on_train_batch_end

    duck, same = Duck(), Same()
    models.reset()
    models.by_fitbus([duck], epochs=2)
    models.by_keras([same], epochs=2)
    assert len(duck.weights) == 6
    assert close(duck.weights, same.weights)


def test_what_is_no_callback_is_refused_with_what_to_do(models: Pair) -> None:
    """A class, and an object with a hook that can't be called."""

    class Attribute(Base):
        on_epoch_end = "text"

    with pytest.raises(fitbus.errors.InvalidArgumentError, match=r"give an instance: Tells\(\)"):
        models.trainer.run(x, y, callbacks=[Tells])
    with pytest.raises(fitbus.errors.InvalidArgumentError, match=r"Attribute.on_epoch_end.*method"):
        models.trainer.run(x, y, callbacks=[Attribute()])
    with pytest.raises(fitbus.errors.InvalidArgumentError, match=r"keras.callbacks.Callback"):
        fitbus.keras.KerasCallback(object())


def test_an_asynchronous_hook_is_refused_before_the_first_step(models: Pair) -> None:
    """Keras never awaits one, so it would be lost there without a word."""

    class Asynchronous(Base):
        async def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            pass

    with pytest.raises(fitbus.errors.InvalidArgumentError, match=r"the class a fitbus\.Callback"):
        models.trainer.run(x, y, callbacks=[Asynchronous()])


def test_hooks_of_batches_may_take_logs_as_a_keyword_or_under_any_name(models: Pair) -> None:
    """Keras gives them by keyword, so the first works there; the second works here too."""
    told: list[str] = []

    class Keyword(Base):
        def on_train_batch_end(self, batch: int, *, logs: Any = None) -> None:
            told.append(f"keyword {batch} {sorted(logs)}")

        def on_train_batch_begin(self, batch: int, **given: Any) -> None:
            told.append(f"begin {batch} {given}")

    named = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, x: told.append(f"named {b}")
    )
    models.reset()
    models.by_fitbus([Keyword(), named])
    assert told[:3] == ["begin 0 {'logs': {}}", "keyword 0 ['loss', 'mae']", "named 0"]
    models.reset()
    models.by_keras([Keyword()])
    assert told[9:11] == told[:2]


def test_hooks_may_return_controls(models: Pair) -> None:
    """As those of fitbus' own callbacks; whatever else they return is ignored, as in Keras."""

    class Returns(Base):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> Any:
            return "ignored"

        def on_epoch_end(self, epoch: int, logs: Any = None) -> Any:
            return fitbus.StopTraining("enough") if epoch == 1 else 7

    recorder = EventRecorder()
    models.reset()
    found = models.by_fitbus([Returns(), recorder], epochs=5)
    assert found.result.epoch == [0, 1]
    assert recorder.of(TrainEnd)[0].detail == "enough"
    assert recorder.of(TrainEnd)[0].source.endswith("Returns")


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
    models.reset()
    models.by_fitbus([Rows(), recorder], epochs=2)
    assert rows == [(event.batch, event.logs) for event in recorder.of(BatchEnd)]
    assert len(recorder.of(EpochBegin)) == 2
