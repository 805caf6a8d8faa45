"""The Keras-shaped view of a run that callbacks have as `self.model`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np

from fitbus._lists import flattened
from fitbus.bus import stands_in
from fitbus.control import Control, SetLearningRate, StopTraining, UpdateState
from fitbus.errors import InvalidArgumentError, WrongThreadError
from fitbus.train._applying import hyperparameters
from fitbus.train._nested import Nested
from fitbus.train._npz import save_npz
from fitbus.train._state import TrainState, copied
from fitbus.train._view import View

if TYPE_CHECKING:
    from fitbus.train._engine import Engine
    from fitbus.train._run import Run
    from fitbus.train._trainer import Trainer

__all__ = ["ModelView", "OptimizerView"]


@final
class ModelView(View):
    """What a callback's `def` hooks may do with the run that waits for them, in Keras' words.

    What they write acts at once, and is seen by the next hook. Everywhere else its state and its
    computations raise `WrongThreadError`: use `await run.snapshot()`, `run.predict` and
    `run.evaluate` there. A name that it doesn't have can't be set.
    """

    __slots__ = ("_run", "_source", "_trainer", "history")
    called = "model"

    def __init__(self, trainer: Trainer, run: Run[Any], source: str) -> None:
        self._trainer = trainer
        self._run = run
        self._source = source
        # The run's own, as far as it has come; Keras' `History` puts itself there.
        self.history: Any = run.driver.record

    # What may be asked anywhere.

    @property
    def stop_training(self) -> bool:
        """Whether a stop was asked for. Setting True sends `StopTraining`, False nothing.

        A stop that was asked for, by whomever, isn't taken back.
        """
        return self._run.stopping

    @stop_training.setter
    def stop_training(self, stop: bool) -> None:
        if stop:
            self._post(StopTraining(f"stop_training was set by {self._source}"))

    # What belongs to waiting `def` hooks.

    @property
    def optimizer(self) -> OptimizerView:
        """The optimizer's hyperparameters."""
        return OptimizerView(self._engine, self._post_now)

    @property
    def stop_evaluating(self) -> bool:
        """Whether the evaluation ends after this batch."""
        return self._engine("stop_evaluating").stop_evaluation

    @stop_evaluating.setter
    def stop_evaluating(self, stop: bool) -> None:
        self._engine("stop_evaluating").stop_evaluation = bool(stop)

    @property
    def stop_predicting(self) -> bool:
        """Whether the prediction ends after this batch."""
        return self._engine("stop_predicting").stop_evaluation

    @stop_predicting.setter
    def stop_predicting(self, stop: bool) -> None:
        self._engine("stop_predicting").stop_evaluation = bool(stop)

    @property
    def state(self) -> TrainState:
        """The state on the device; valid until the hook returns."""
        return self._engine("state").state

    def get_weights(self) -> list[np.ndarray[Any, Any]]:
        """Copies of all parameters, NumPy arrays in the order of the pytree's leaves.

        Of a task that says what its weights are (`weights(state)`), those.
        """
        weights = self._weights("get_weights")
        return [np.array(leaf, copy=True) for leaf in jax.tree.leaves(weights)]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replaces all parameters; the optimizer's state stays as it is.

        Args:
            weights: Arrays of the shapes, and in the order, of `get_weights()`.

        Raises:
            InvalidArgumentError: Their number or a shape is another.
        """
        leaves, tree = jax.tree.flatten(self._weights("set_weights"))
        arrays = [np.asarray(weight) for weight in weights]
        if [array.shape for array in arrays] != [leaf.shape for leaf in leaves]:
            raise InvalidArgumentError(
                "weights",
                [array.shape for array in arrays],
                f"give arrays of the shapes {[leaf.shape for leaf in leaves]}",
            )
        new = [array.astype(leaf.dtype) for array, leaf in zip(arrays, leaves, strict=True)]
        put = getattr(self._trainer.steps.task, "with_weights", None)
        weights = jax.tree.unflatten(tree, new)
        if put is None:
            put = lambda state, params: dataclasses.replace(state, params=params)  # noqa: E731  # for one call
        self._post_now(UpdateState(lambda state: put(state, weights)))

    def save_weights(self, filepath: str | Path, overwrite: bool = True) -> None:
        """Writes the parameters to a file, as NumPy's npz, under the paths of their leaves.

        Types that such a file can't hold, like bfloat16, are written as float32, which holds them.

        Args:
            filepath: The file.
            overwrite: False refuses a file that exists.

        Raises:
            InvalidArgumentError: The file exists, and isn't to be overwritten; or its name is that
                of a file of Keras.
        """
        save_npz(filepath, self._weights("save_weights"), overwrite=overwrite)

    def load_weights(self, filepath: str | Path) -> None:
        """Reads parameters that `save_weights` wrote.

        Raises:
            InvalidArgumentError: The file's names aren't those of the parameters.
        """
        weights = self._weights("load_weights")
        names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(weights)]
        with np.load(filepath) as file:
            if sorted(file.files) != sorted(names):
                raise InvalidArgumentError(
                    "filepath", str(filepath), f"its arrays are {file.files}; expected {names}"
                )
            self.set_weights([file[name] for name in names])

    def predict(
        self,
        x: Any,
        batch_size: int | None = 32,
        verbose: int | str = 0,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
    ) -> Any:
        """Predicts with the state as it is; publishes nothing, unless given callbacks."""
        del verbose
        self._engine("predict")
        return self._nested(Nested.predict(self._trainer, x, batch_size, steps), callbacks)

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = 32,
        verbose: int | str = 0,
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Iterable[Any] | None = None,
        *,
        return_dict: bool = False,
    ) -> Any:
        """Evaluates the state as it is; publishes nothing, unless given callbacks.

        Returns:
            As in Keras: the loss, or a list of the loss and the metrics; with `return_dict` a dict.
        """
        del verbose
        self._engine("evaluate")
        nested = Nested.evaluate(self._trainer, x, y, batch_size, sample_weight, steps)
        logs: dict[str, float] = self._nested(nested, callbacks)
        if return_dict:
            return logs
        values = [logs["loss"], *(logs[name] for name in logs if name != "loss")]
        return values[0] if len(values) == 1 else values

    # Inside.

    def _engine(self, what: str) -> Engine:
        """The engine, for a waiting `def` hook of the run."""
        engine = self._run.driver.engine
        if engine is None or not stands_in(engine.publisher):
            raise WrongThreadError(
                f"model.{what} belongs to waiting `def` hooks; elsewhere use"
                " `await run.snapshot()`, `run.predict`, `run.evaluate`, and controls to change"
                " things, such as SetLearningRate"
            )
        return engine

    def _weights(self, what: str) -> Any:
        return self._trainer.steps.weights(self._engine(what).state)

    def _nested(self, nested: Nested, callbacks: Iterable[Any] | None) -> Any:
        attached = list(flattened(callbacks))
        state = self._engine("predict").state
        try:
            return nested.prepared(copied(state) if attached else state, attached)()
        finally:
            nested.close()

    def _post_now(self, control: Control) -> None:
        receipt = self._post(control)
        if receipt.outcome is not None:  # open only in a hook of a notice: acts at the boundary
            receipt.result()

    def _post(self, control: Control) -> Any:
        return self._run.post(control, self._source)

    def __repr__(self) -> str:
        """Shows the run."""
        return f"<ModelView of {self._run!r}>"


@final
class OptimizerView(View):
    """The optimizer of a `ModelView`."""

    __slots__ = ("_engine", "_post_now")
    called = "model.optimizer"

    def __init__(
        self, engine: Callable[[str], Engine], post_now: Callable[[Control], None]
    ) -> None:
        self._engine = engine
        self._post_now = post_now

    @property
    def learning_rate(self) -> float:
        """The learning rate in the optimizer's state.

        Setting it acts at once; in a hook of a notice, such as `ControlApplied`, at the boundary.

        Raises:
            WrongThreadError: Not in a waiting `def` hook: there, return `SetLearningRate(value)`.
            AttributeError: The optimizer keeps none in its state.
            InvalidArgumentError: What it is set to is no finite number of at least 0.
        """
        known = hyperparameters(self._engine("optimizer").state.opt_state)
        if "learning_rate" not in known:
            raise AttributeError(
                "learning_rate: the optimizer keeps none in its state; give Supervised the factory,"
                " `optimizer=optax.adam, learning_rate=1e-3`"
            )
        return float(known["learning_rate"])

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        self._engine("optimizer.learning_rate")
        self._post_now(SetLearningRate(value))

    @property
    def lr(self) -> float:
        """The old name of `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: float) -> None:
        self.learning_rate = value

    @property
    def iterations(self) -> int:
        """Completed optimizer updates."""
        return int(self._engine("optimizer").state.step)
