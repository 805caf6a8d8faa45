"""What hooks of Keras callbacks compute with the model, save of it, and what closes over it."""
# mypy: allow-subclassing-any

from __future__ import annotations

from typing import Any

import keras

import fitbus

from ._unmodified import Base, Pair, check_same, close, x, y


def test_closures_over_the_model_see_it_where_an_epoch_ends(models: Pair) -> None:
    """They predict, evaluate and set a learning rate, without asking for `self.model`."""

    def made(model: Any, kept: list[Any]) -> Any:
        def ends(epoch: int, logs: Any) -> None:
            kept.append(model.predict(x[:3], verbose=0))
            kept.append(model.evaluate(x[:16], y[:16], verbose=0))
            model.optimizer.learning_rate = 0.02 / (epoch + 1)

        return keras.callbacks.LambdaCallback(on_epoch_end=ends)

    mine: list[Any] = []
    their: list[Any] = []
    ours = models.by_fitbus([made(models.ours, mine)], epochs=3)
    theirs = models.by_keras([made(models.theirs, their)], epochs=3)
    check_same(ours, theirs)
    assert close(mine, their)


def test_a_learning_rate_set_by_a_closure_in_a_batch_acts(models: Pair) -> None:
    """There Keras on JAX loses it without a word."""

    def made(model: Any) -> Any:
        def sets(batch: int, logs: Any) -> None:
            model.optimizer.learning_rate = 0.0

        return keras.callbacks.LambdaCallback(on_train_batch_begin=sets)

    before = models.ours.get_weights()
    models.by_fitbus([made(models.ours)])
    assert close(models.ours.get_weights(), before)
    assert float(models.ours.optimizer.learning_rate) == 0.0


def test_hooks_may_predict_and_evaluate_in_a_batch(models: Pair) -> None:
    """Keras' own calls on the model, which take its arrays; training goes on undisturbed."""

    class Looks(Base):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[Any] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.found.append(self.model.predict(x[:3], verbose=0))

        def on_test_end(self, logs: Any = None) -> None:
            self.found.append(self.model(x[:2]))

    ours, theirs = models.both(lambda: [Looks()], epochs=2, validation_split=1 / 4)
    assert close(ours.callbacks[0].found, theirs.callbacks[0].found)
    check_same(ours, theirs)


def test_weights_saved_and_loaded_in_hooks(models: Pair, tmp_path: Any) -> None:
    """`save_weights` in a batch, `load_weights` at the end of the epoch."""

    class GoesBack(Base):
        def __init__(self, path: Any) -> None:
            super().__init__()
            self.path = path

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 1:
                self.model.save_weights(self.path)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.load_weights(self.path)

    def made() -> list[Any]:
        return [GoesBack(tmp_path / "w.weights.h5")]

    check_same(*models.both(made, epochs=2))


def test_the_history_so_far_is_there_in_the_hooks(models: Pair) -> None:
    """`self.model.history`, as far as the epochs before go."""

    class Looks(Base):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[Any] = []

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.found.append((list(self.model.history.epoch), dict(self.model.history.history)))

    ours, theirs = models.both(lambda: [Looks()], epochs=3)
    mine, their = (outcome.callbacks[0].found for outcome in (ours, theirs))
    assert [epochs for epochs, _ in mine] == [epochs for epochs, _ in their] == [[], [0], [0, 1]]
    assert close(mine[-1][1], their[-1][1])


def test_hooks_of_batches_that_look_away_cost_no_copy(models: Pair) -> None:
    """The model keeps the very arrays that it had; one that asks gets new ones."""

    class LooksAway(Base):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.kernel = model.layers[0].kernel
            self.arrays: set[int] = set()
            self.kept: list[Any] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self._ask()
            self.kept.append(self.kernel.value)

        def _ask(self) -> None:
            pass

    class Asks(LooksAway):
        def _ask(self) -> None:
            assert self.model is not None

    for kind, copies in ((LooksAway, 1), (Asks, 3)):
        models.reset()
        callback = kind(models.ours)
        models.by_fitbus([callback])
        assert len({id(array) for array in callback.kept}) == copies


def test_hooks_may_train_the_model_by_themselves(models: Pair) -> None:
    """`train_on_batch` in a batch: its update counts, as in Keras."""

    class Trains(Base):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.train_on_batch(x[:16], y[:16])

    ours, theirs = models.both(lambda: [Trains()])
    assert close(ours.weights, theirs.weights)
    assert int(models.ours.optimizer.iterations) == 6


def test_keras_callbacks_work_in_what_a_fitbus_callback_predicts(models: Pair) -> None:
    """`self.model.predict(x, callbacks=[...])`: with the state of that moment."""
    kernels: list[Any] = []

    class Looks(Base):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            kernels.append(self.model.get_weights()[0])

    class Ours(fitbus.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.model.predict(x[:4], callbacks=[Looks()])
            kernels.append(self.model.get_weights()[0])

    models.by_fitbus([Ours()], epochs=2)
    assert len(kernels) == 4
    assert close(kernels[0], kernels[1])
    assert close(kernels[2], kernels[3])
    assert not close(kernels[0], kernels[2])
