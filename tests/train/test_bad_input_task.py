"""Wrong tasks and trainers: the message names what was found and what is allowed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import Control, Supervised, Trainer, TrainState
from fitbus.errors import InvalidArgumentError
from fitbus.testing import toy_problem

from ._bad_input import Mean, refused

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """One loop is enough: nothing here depends on it."""
    return "asyncio"


PROBLEM = toy_problem(40, 4)
X, Y = PROBLEM.x, PROBLEM.y
WHOLE = "give a whole number of at least 1"


# `Trainer`.


@pytest.mark.parametrize(
    ("options", "argument", "allowed"),
    [
        ({"seed": -1}, "seed", "give a whole number of at least 0"),
        ({"seed": 1.5}, "seed", "give a whole number of at least 0"),
        ({"max_in_flight": 0}, "max_in_flight", f"{WHOLE}, or 'auto'"),
        ({"max_in_flight": "many"}, "max_in_flight", f"{WHOLE}, or 'auto'"),
        ({"flush_s": -1}, "flush_s", "give seconds, a number of at least 0"),
        ({"bus": 3}, "bus", "give a fitbus.Bus, or leave it out"),
        ({"task": 3}, "task", "give it a method train_step"),
        ({"task": Mean}, "task", "give an instance of it"),
        ({"params": {"w": "abc"}}, "params['w']", "give arrays or numbers as leaves"),
        ({"params": None}, "params", "give a pytree with at least one array"),
    ],
)
def test_an_argument_of_trainer(options: dict[str, Any], argument: str, allowed: str) -> None:
    given: dict[str, Any] = {"task": PROBLEM.task, "params": PROBLEM.params, **options}
    with refused(InvalidArgumentError, f"{argument}: found ", allowed):
        Trainer(**given)


# `Supervised`.

NUMBER = "give a finite number of at least 0, or a schedule"


def supervised(**options: Any) -> Supervised:
    given: dict[str, Any] = {"apply": PROBLEM.task.apply, "loss": PROBLEM.task.loss}
    given |= {"optimizer": optax.sgd, "learning_rate": 0.1, **options}
    return Supervised(**given)


@pytest.mark.parametrize(
    ("options", "argument", "allowed"),
    [
        ({"apply": 3}, "apply", "give a function of two arguments"),
        ({"loss": "mse"}, "loss", "give a function of two arguments"),
        ({"optimizer": "adam"}, "optimizer", "give an Optax transformation, or a factory"),
        ({"optimizer": lambda: None}, "optimizer", "it must take learning_rate="),
        ({"optimizer": optax.sgd(0.1)}, "learning_rate", "the optimizer is built already"),
        ({"learning_rate": None}, "learning_rate", "needs a number or a schedule"),
        *(({"learning_rate": v}, "learning_rate", NUMBER) for v in (math.nan, -1, "a", True)),
        ({"metrics": ["a"]}, "metrics", "give a dict of names to functions"),
        ({"metrics": {3: abs}}, "metrics", "give texts other than 'loss' as names"),
        ({"metrics": {"loss": abs}}, "metrics", "give texts other than 'loss' as names"),
        ({"metrics": {"a": 3}}, "metrics['a']", "give a function of (predictions, y), or a triple"),
        ({"metrics": {"a": (abs, abs)}}, "metrics['a']", "or a triple (init, update, result)"),
        ({"controls": [3]}, "controls", "give a dict of types to functions"),
        ({"controls": {3: abs}}, "controls", "give subclasses of Control as keys"),
        ({"controls": {Control: 3}}, "controls[Control]", "give a function of (state, control)"),
    ],
)
def test_an_argument_of_supervised(options: Any, argument: str, allowed: str) -> None:
    with refused(InvalidArgumentError, f"{argument}: found ", allowed):
        supervised(**options)


def ignored(kept: Any, predictions: Any, y: Any, weight: Any) -> Any:
    return kept


EACH = "return one value for each example, of shape (32,)"
ZEROS: Callable[[], Any] = lambda: jnp.zeros(2)  # noqa: E731


@pytest.mark.parametrize(
    ("options", "argument", "problem"),
    [
        ({"loss": lambda p, y: ((p - y) ** 2).mean()}, "loss", f"found (); {EACH}"),
        ({"loss": lambda p, y: (p - y)[:, None] ** 2}, "loss", f"found (32, 1); {EACH}"),
        ({"loss": lambda p, y: None}, "loss", f"found 'NoneType'; {EACH}"),
        ({"metrics": {"m": lambda p, y: p.mean()}}, "metrics['m']", f"found (); {EACH}"),
        (
            {"metrics": {"m": (ZEROS, ignored, lambda kept: kept)}},
            "the result of the metric 'm' of train_step",
            "found (2,); return a scalar",
        ),
        (
            {"metrics": {"m": (ZEROS, lambda kept, *_: kept.sum(), lambda kept: kept)}},
            "the update of the metric 'm' of train_step",
            "found 'float32[]'; keep the accumulator's structure, shapes and dtypes: float32[2]",
        ),
    ],
)
async def test_what_functions_of_supervised_return(
    options: Any, argument: str, problem: str
) -> None:
    """Found when the step is traced; the state is as it was."""
    trainer = Trainer(supervised(**options), PROBLEM.params)
    with refused(InvalidArgumentError, f"{argument}: ", problem):
        await trainer.fit(X, Y)
    assert int(trainer.state.step) == 0


@pytest.mark.parametrize("data", [{"x": X}, {"x": X, "y": Y, "validation_data": [X, Y]}])
async def test_targets_that_the_loss_misses(data: Any) -> None:
    """Its own error, with a note that says how targets are given."""
    with pytest.raises(TypeError, match="NoneType") as caught:
        await Trainer(PROBLEM.task, PROBLEM.params).fit(**data)
    assert any(
        note.startswith("y was None: give arrays x and y") for note in caught.value.__notes__
    )


# Tasks of one's own.

PAIR = "return a pair (new state, metrics)"
SCALAR = "return a scalar, a pair (value, weight), or a fitbus.train.Fold"
TRIPLE = (ZEROS, lambda kept, value: kept, lambda kept: kept.sum())


def own(**methods: Any) -> Trainer:
    return Trainer(type("Own", (Mean,), methods)(), {"w": np.zeros(1)})


def returning(value: Callable[[TrainState, Any], Any]) -> Any:
    return lambda self, state, batch: value(state, batch)


@pytest.mark.parametrize(
    ("step", "argument", "allowed"),
    [
        (lambda s, b: None, "train_step", PAIR),
        (lambda s, b: s, "train_step", PAIR),
        (lambda s, b: (3, {"l": 1.0}), "train_step", "return a TrainState first"),
        (lambda s, b: (s, None), "the metrics of train_step", "return a dict of names to scalars"),
        (lambda s, b: (s, {}), "the metrics of train_step", "return a dict of names to scalars"),
        (lambda s, b: (s, {3: b.x.mean()}), "the metrics of train_step", "give texts as names"),
        (lambda s, b: (s, {"l": b.x}), "the metric 'l' of train_step", SCALAR),
        (lambda s, b: (s, {"l": None}), "the metric 'l' of train_step", SCALAR),
        (lambda s, b: (s, {"l": (1.0, 2.0, 3.0)}), "the metric 'l' of train_step", SCALAR),
        (
            lambda s, b: (s, {"l": {"a": 1.0}}),
            "the metric 'l' of train_step",
            "found {'a': 1.0}; " + SCALAR,
        ),
        (
            lambda s, b: (s, {"l": [1.0, 2.0]}),
            "the metric 'l' of train_step",
            f"found [1.0, 2.0]; {SCALAR}",
        ),
        (lambda s, b: (s, {"l": (1.0,)}), "the metric 'l' of train_step", SCALAR),
        (lambda s, b: (s, {"l": "low"}), "the metric 'l' of train_step", f"found 'low'; {SCALAR}"),
        (lambda s, b: (s, {"l": ((1.0, 2.0), 1.0)}), "the metric 'l' of train_step", SCALAR),
        (
            lambda s, b: (s, {"l": TRIPLE}),
            "the metric 'l' of train_step",
            "with the three functions: fitbus.train.Fold(value, init, update, result)",
        ),
        (
            lambda s, b: (dataclasses.replace(s, params={"w": jnp.zeros(2)}), {"l": 1.0}),
            "the state from train_step, leaf .params['w']",
            "found 'float32[2]'; keep its shape and dtype, float32[1]",
        ),
        (
            lambda s, b: (dataclasses.replace(s, params={"v": jnp.zeros(1)}), {"l": 1.0}),
            "the state from train_step, at .params['w']",
            "found 'nothing'; keep its structure, which has float32[1] there",
        ),
    ],
)
async def test_what_a_train_step_returns(step: Any, argument: str, allowed: str) -> None:
    trainer = own(train_step=returning(step))
    with refused(InvalidArgumentError, f"{argument}: ", allowed):
        await trainer.fit(X)
    assert int(trainer.state.step) == 0


Adam = optax.ScaleByAdamState
MIXED: dict[str, Any] = {
    "step": jnp.zeros((), jnp.int32),
    "params": {"b": {"c": jnp.zeros(2), "d": ()}, "w": jnp.zeros(3)},
    "opt_state": (Adam(jnp.zeros(()), {}, {}), optax.EmptyState()),
    "key": jax.random.key(0),
    "extra": None,
}


@pytest.mark.parametrize(
    ("changed", "path", "now", "was"),
    [
        ({"params": {"b": MIXED["params"]["b"]}}, ".params['w']", "nothing", "float32[3]"),
        (
            {"params": {**MIXED["params"], "v": jnp.ones(1)}},
            ".params['v']",
            "float32[1]",
            "nothing",
        ),
        (
            {"params": {**MIXED["params"], "b": {"c": [jnp.zeros(2)], "d": ()}}},
            ".params['b']['c']",
            "list of 1",
            "float32[2]",
        ),
        (
            {"params": {**MIXED["params"], "b": {"c": jnp.zeros(2), "d": None}}},
            ".params['b']['d']",
            "None",
            "tuple of 0",
        ),
        ({"opt_state": list(MIXED["opt_state"])}, ".opt_state", "list of 2", "tuple of 2"),
        (
            {"opt_state": (Adam(jnp.zeros(()), {"w": jnp.zeros(1)}, {}), optax.EmptyState())},
            ".opt_state[0].mu['w']",
            "float32[1]",
            "nothing",
        ),
        (
            {"opt_state": MIXED["opt_state"][::-1]},
            ".opt_state[0]",
            "EmptyState of 0",
            "ScaleByAdamState of 3",
        ),
        ({"opt_state": MIXED["opt_state"][:1]}, ".opt_state[1]", "nothing", "EmptyState of 0"),
        ({"extra": jnp.zeros(1)}, ".extra", "float32[1]", "None"),
    ],
)
async def test_another_structure_is_told_by_the_first_place_that_differs(
    changed: dict[str, Any], path: str, now: str, was: str
) -> None:
    """In one line, whatever the size of the state."""

    class Mixes(Mean):
        def train_step(self, state: TrainState, batch: fitbus.Batch) -> Any:
            return dataclasses.replace(state, **changed), {"mean": batch.x.mean()}

    trainer = Trainer(Mixes(), TrainState(**MIXED))
    with pytest.raises(InvalidArgumentError) as caught:
        await trainer.fit(X)
    assert str(caught.value) == (
        f"the state from train_step, at {path}: found {now!r}; keep its structure, which has {was}"
        " there"
    )


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [(np.arange(4), "int32"), (np.ones(4, bool), "bool"), (3, "int32"), (np.uint8(1), "uint8")],
)
async def test_what_has_no_gradient_cannot_be_a_parameter_of_supervised(
    leaf: Any, dtype: str
) -> None:
    """Refused before the first step, naming the leaf and the remedy; all else goes on."""
    task = Supervised(
        apply=lambda params, x: x @ params["w"] + params["more"][0].sum(),
        loss=lambda predictions, y: (predictions - y) ** 2,
        optimizer=optax.adam,
        learning_rate=0.1,
    )
    trainer = Trainer(task, {"w": np.ones(4, np.float32), "more": [leaf]})
    with refused(
        InvalidArgumentError,
        f"params['more'][0]: found '{dtype}'; it has no gradient: give floats",
        "let `apply` close over it",
        "`state.extra`",
    ):
        await trainer.fit(X, Y)
    assert int(trainer.state.step) == 0
    assert trainer.state.params["more"][0].dtype == dtype
    expected = X @ np.ones(4) + np.sum(leaf)
    np.testing.assert_allclose(await trainer.predict(X), expected, rtol=1e-5)
    assert (await trainer.evaluate(X, Y))["loss"] == pytest.approx(
        np.mean((expected - Y) ** 2), rel=1e-4
    )


async def test_what_other_steps_return() -> None:
    trainer = own(eval_step=returning(lambda s, b: [1]), predict_step=returning(lambda s, b: 1.0))
    with refused(InvalidArgumentError, "the metrics of eval_step: ", "return a dict of names"):
        await trainer.evaluate(X)
    with refused(InvalidArgumentError, "predict_step: found (); return arrays with a row for each"):
        await trainer.predict(X)


def test_what_a_task_has() -> None:
    with refused(InvalidArgumentError, "task.pad: found 'no'; allowed are True, False"):
        own(pad="no")
    with refused(InvalidArgumentError, "task: found ", "its `init` must return a TrainState"):
        own(init=lambda self, params, key: params)
