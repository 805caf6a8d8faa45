"""What objects of Keras may look like, what they are given, and which are refused."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import keras
import pytest

import fitbus
from fitbus import EpochEnd, TrainEnd
from fitbus.testing import EventRecorder

from ._unmodified import Base, Pair, Tells, close, x, y


def test_a_callback_list_stands_for_its_callbacks(models: Pair) -> None:
    """With the history and the progress bar that Keras adds to it, if asked to."""
    told: list[str] = []
    group = keras.callbacks.CallbackList([Tells("a", told), Tells("b", told)], add_history=True)
    found = models.by_fitbus([group])
    assert told[:2] == ["a train begin", "b train begin"]
    recorded = group.callbacks[-1]
    assert isinstance(recorded, keras.callbacks.History)
    assert recorded.history == found.result.history
    assert models.ours.history is recorded


def test_only_overridden_hooks_are_subscribed(models: Pair) -> None:
    """A class without any has no subscription; one for epochs doesn't make batches exact."""

    class Nothing(Base):
        pass

    class Epochs(Base):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            pass

    made = models.trainer.run(x, y, callbacks=[Nothing(), keras.callbacks.Callback()])
    assert not [s for s in made.bus.subscriptions if s.run == made.id]
    made = models.trainer.run(x, y, callbacks=[Epochs()])
    mine = [s for s in made.bus.subscriptions if s.run == made.id]
    assert [s.name for s in mine] == [Epochs.__qualname__]
    assert set(mine[0].kinds) == {EpochEnd}
    for subscription in mine:
        subscription.cancel()


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
    found = models.by_fitbus([Returns(), recorder], epochs=5)
    assert found.result.epoch == [0, 1]
    assert recorder.of(TrainEnd)[0].detail == "enough"
    assert recorder.of(TrainEnd)[0].source.endswith("Returns")


def test_a_wrapped_object_can_be_used_again(models: Pair) -> None:
    """`KerasCallback` itself in the list, in two fits one after the other."""
    stops = keras.callbacks.EarlyStopping("loss", min_delta=100, patience=1)
    wrapped = fitbus.keras.KerasCallback(stops)
    for _ in range(2):
        assert models.by_fitbus([wrapped], epochs=5).result.epoch == [0, 1]


def test_an_object_that_stands_twice_in_the_list_is_called_twice(models: Pair) -> None:
    """As in Keras."""
    told: list[int] = []
    twice = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: told.append(epoch))
    models.by_fitbus([twice, twice], epochs=2)
    assert told == [0, 0, 1, 1]
