"""Hyperparameters in whatever optimizer: where they are found, and what can't be set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import Control, ScaleLearningRate, SetHyperparameter, SetLearningRate, StopTraining
from fitbus.control import Rejected
from fitbus.testing import toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(64, 4)
X, Y = PROBLEM.x, PROBLEM.y
injected = optax.inject_hyperparams


def trainer_with(optimizer: Any, learning_rate: Any = None) -> fitbus.Trainer:
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optimizer, learning_rate)
    return fitbus.Trainer(task, PROBLEM.params)


async def outcomes(trainer: fitbus.Trainer, *controls: Control) -> list[Any]:
    """What becomes of controls, sent to a run that ends before its first step: nothing compiles."""
    found: list[Any] = []

    async def send(event: fitbus.TrainBegin) -> StopTraining:
        for control in controls:
            receipt = run.post(control)
            await settled(receipt)
            found.append(receipt.outcome)
        return StopTraining()

    run = trainer.run(X, Y, callbacks=[send])
    async with run:
        pass
    return found


async def settled(receipt: fitbus.Receipt) -> None:
    try:
        await receipt
    except fitbus.errors.ControlRejectedError:
        assert isinstance(receipt.outcome, Rejected)


def found(trainer: fitbus.Trainer, name: str) -> list[float]:
    """Every value of a hyperparameter in the optimizer's state."""
    leaves = jax.tree_util.tree_leaves_with_path(trainer.state.opt_state)
    wanted = f".hyperparams['{name}']"
    return [float(leaf) for path, leaf in leaves if jax.tree_util.keystr(path).endswith(wanted)]


NESTED = {
    "bare": lambda: injected(optax.adam)(learning_rate=0.1),
    "in a chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), injected(optax.adam)(learning_rate=0.1)
    ),
    "in a chain in a chain": lambda: optax.chain(
        optax.chain(optax.identity(), injected(optax.adam)(learning_rate=0.1))
    ),
    "in a wrapper": lambda: optax.MultiSteps(injected(optax.adam)(learning_rate=0.1), 2),
    "in another injection": lambda: injected(
        lambda clip: optax.chain(
            optax.clip_by_global_norm(clip), injected(optax.adam)(learning_rate=0.1)
        )
    )(clip=1.0),
}


@pytest.mark.parametrize("where", NESTED)
async def test_the_learning_rate_is_found_anywhere(where: str) -> None:
    trainer = trainer_with(NESTED[where]())
    before: Any = jax.tree.structure(trainer.state)
    applied = await outcomes(
        trainer,
        SetLearningRate(0.5),
        ScaleLearningRate(0.5),
        SetHyperparameter("b1", 0.75),
    )
    assert [type(outcome).__name__ for outcome in applied] == ["Applied"] * 3
    assert found(trainer, "learning_rate") == [0.25]
    assert found(trainer, "b1") == [0.75]
    assert jax.tree.structure(trainer.state) == before


async def test_with_several_optimizers_all_that_have_it_are_set() -> None:
    optimizer = optax.multi_transform(
        {
            "fast": injected(optax.adam)(learning_rate=0.1),
            "slow": injected(optax.sgd)(learning_rate=0.01),
        },
        {"w": "fast", "b": "slow"},
    )
    trainer = trainer_with(optimizer)
    await outcomes(trainer, ScaleLearningRate(0.5))
    assert sorted(found(trainer, "learning_rate")) == pytest.approx([0.005, 0.05])
    await outcomes(trainer, SetHyperparameter("b2", 0.5), SetLearningRate(0.25))
    assert found(trainer, "b2") == [0.5]
    assert found(trainer, "learning_rate") == [0.25, 0.25]


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.chain(optax.adam(0.1))])
@pytest.mark.parametrize(
    "control", [SetLearningRate(0.1), ScaleLearningRate(0.1), SetHyperparameter("b1", 0.1)]
)
async def test_an_optimizer_without_injection_says_how_to_build_one(
    optimizer: Any, control: Control
) -> None:
    assert await outcomes(trainer_with(optimizer), control) == [
        Rejected(
            "the optimizer keeps no hyperparameters in its state; build it as"
            " `optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)`, or give Supervised the"
            " factory, `optimizer=optax.adam, learning_rate=1e-3`"
        )
    ]


async def test_what_a_schedule_drives_cannot_be_set() -> None:
    """It would be overwritten at the next step. What the schedule doesn't drive still can."""
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    trainer = trainer_with(optax.adam, schedule)
    rejected = Rejected(
        "'learning_rate' is driven by a schedule, which would overwrite it; build the optimizer"
        " with a number instead"
    )
    assert await outcomes(trainer, SetLearningRate(0.5), ScaleLearningRate(0.5)) == [rejected] * 2
    assert found(trainer, "learning_rate") == pytest.approx([0.1])
    (applied,) = await outcomes(trainer, SetHyperparameter("b1", 0.5))
    assert isinstance(applied, fitbus.Applied)
    assert found(trainer, "b1") == [0.5]


def whole(count: Any) -> optax.GradientTransformation:
    return optax.scale(count)


@pytest.mark.parametrize(
    ("optimizer", "controls", "why"),
    [
        (
            injected(optax.sgd)(learning_rate=0.5),
            [SetLearningRate(1e300)],
            "'learning_rate' is kept as float32, which can't hold 1e+300",
        ),
        (
            injected(optax.sgd)(learning_rate=0.5),
            [ScaleLearningRate(1e300)],
            "'learning_rate' is kept as float32, which can't hold 5e+299",
        ),
        (
            injected(whole)(count=np.array(3, np.int32)),
            [SetHyperparameter("count", 0.5)],
            "'count' is kept as int32, which can't hold 0.5",
        ),
        (
            injected(whole)(count=np.array(3, np.int32)),
            [SetHyperparameter("count", -(2.0**40)), SetHyperparameter("count", math.pi)],
            "'count' is kept as int32, which can't hold",
        ),
    ],
)
async def test_a_value_that_the_state_cannot_hold_is_rejected(
    optimizer: Any, controls: Sequence[Control], why: str
) -> None:
    """Rather than an infinite learning rate, or half a step taken as none."""
    trainer = trainer_with(optimizer)
    before = trainer.state
    for outcome in await outcomes(trainer, *controls):
        assert isinstance(outcome, Rejected)
        assert outcome.why.startswith(why)
    jax.tree.map(np.testing.assert_array_equal, before.opt_state, trainer.state.opt_state)


async def test_whole_numbers_stay_whole() -> None:
    trainer = trainer_with(injected(whole)(count=np.array(3, np.int32)))
    await outcomes(trainer, SetHyperparameter("count", 5))
    count = trainer.state.opt_state.hyperparams["count"]
    assert (int(count), count.dtype) == (5, np.int32)


async def test_one_with_a_shape_is_set_in_all_its_places() -> None:
    def by_layer(rates: Any) -> optax.GradientTransformation:
        return optax.scale(rates[0])

    trainer = trainer_with(injected(by_layer)(rates=np.array([1.0, 2.0], np.float32)))
    await outcomes(trainer, SetHyperparameter("rates", 3.0))
    np.testing.assert_array_equal(trainer.state.opt_state.hyperparams["rates"], [3.0, 3.0])


async def test_what_is_set_is_what_the_next_step_uses() -> None:
    """Through a chain, over a real step: the update is that of the new rate."""
    optimizer = optax.chain(optax.identity(), injected(optax.sgd)(learning_rate=0.1))
    slow, fast = trainer_with(optimizer), trainer_with(optimizer)
    for trainer, rate in ((slow, 0.01), (fast, 0.02)):
        run = trainer.run(X, Y, batch_size=64, shuffle=False)
        run.post(SetLearningRate(rate))
        async with run:
            pass
    np.testing.assert_allclose(2 * slow.state.params["w"], fast.state.params["w"], rtol=1e-5)


LOW, FULL = np.zeros(8, jnp.bfloat16), np.zeros(8, np.float32)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # nothing of it is the loop's
@pytest.mark.parametrize("factory", [optax.adam, optax.sgd])
@pytest.mark.parametrize(
    "params",
    [{"w": LOW}, {"a": LOW, "w": FULL}, {"a": FULL, "w": LOW}],
    ids=["bfloat16", "first", "last"],
)
async def test_parameters_of_less_precision_are_trained_as_without_injection(
    params: dict[str, Any], factory: Any
) -> None:
    """Adam's 0.999 isn't rounded to 1, and moments keep their types; the rate can still be set."""
    problem = toy_problem(64, 8)
    x, y = problem.x, problem.y

    def apply(params: Any, x: Any) -> Any:
        return x @ sum(jax.tree.leaves(params))

    def trainer(*optimizer: Any) -> fitbus.Trainer:
        task = fitbus.Supervised(apply, lambda p, y: (p - y) ** 2, *optimizer)
        return fitbus.Trainer(task, params)

    plain, steered = trainer(factory(0.01)), trainer(factory, 0.01)
    one, two = [await t.fit(x, y, epochs=3) for t in (plain, steered)]
    np.testing.assert_allclose(two.history["loss"], one.history["loss"], rtol=1e-3)
    assert one.history["loss"][-1] < one.history["loss"][0]
    async with steered.run(x, y) as run:
        await run.send(SetLearningRate(1.001e-3))
    assert found(steered, "learning_rate") == [np.float32(1.001e-3)]
