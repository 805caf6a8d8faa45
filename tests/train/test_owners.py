"""One owner for each hyperparameter: two, a schedule, or an optimizer without it are refused."""

from __future__ import annotations

from typing import Any, final

import optax
import pytest

import fitbus
from fitbus.callbacks import Callback
from fitbus.errors import InvalidArgumentError
from fitbus.testing import EventRecorder, toy_problem

pytestmark = pytest.mark.anyio

PROBLEM = toy_problem(16, 2)
X, Y = PROBLEM.x, PROBLEM.y


class Owner(Callback):
    """Sets a hyperparameter."""

    def __init__(self, hyperparameter: str = "learning_rate") -> None:
        self.hyperparameter = hyperparameter

    def attach(self, run: Any) -> None:
        super().attach(run)
        run.preparation.claim(self.hyperparameter, type(self).__name__)


@final
class Another(Owner):
    """Likewise."""


def trainer(optimizer: Any, rate: Any = None) -> fitbus.Trainer:
    task = fitbus.Supervised(PROBLEM.task.apply, PROBLEM.task.loss, optimizer, rate)
    return fitbus.Trainer(task, PROBLEM.params)


@pytest.mark.parametrize("order", [(Owner, Another), (Another, Owner), (Owner, Owner)])
def test_two_owners_are_refused_where_they_are_given_naming_both(order: Any) -> None:
    """Before anything starts; nothing stays subscribed."""
    first, second = order
    given = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    message = rf"{second.__name__}.*; {first.__name__} sets 'learning_rate' already.*leave one"
    with pytest.raises(InvalidArgumentError, match=message):
        given.run(X, Y, callbacks=[first(), [second()]])
    assert given.bus.statistics().subscriptions == ()


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [
        (optax.sgd, optax.exponential_decay(0.1, 3, 0.5)),
        (optax.inject_hyperparams(optax.sgd)(lambda step: 0.1), None),
        (
            optax.chain(
                optax.clip(1.0), optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(1, 0, 9))
            ),
            None,
        ),
    ],
    ids=["of Supervised", "injected", "in a chain"],
)
async def test_a_schedule_in_the_optimizer_is_another_owner(optimizer: Any, rate: Any) -> None:
    given = trainer(optimizer, rate)
    seen = EventRecorder()
    with pytest.raises(
        InvalidArgumentError, match=r"Owner.*own schedule sets 'learning_rate'.*leave Owner out"
    ):
        await given.fit(X, Y, callbacks=[Owner(), seen])
    assert seen.names == ["TrainEnd"]
    assert int(given.state.step) == 0


@pytest.mark.parametrize(
    ("optimizer", "rate", "hyperparameter", "known"),
    [
        (optax.sgd(0.1), None, "learning_rate", r"\[\]"),
        (optax.adam, 0.1, "momentum", r"'b1'.*'learning_rate'"),
    ],
)
async def test_an_optimizer_without_it_says_what_it_has_and_how_to_build_one(
    optimizer: Any, rate: Any, hyperparameter: str, known: str
) -> None:
    given = trainer(optimizer, rate)
    seen = EventRecorder()
    with pytest.raises(
        InvalidArgumentError,
        match=rf"Owner.*keeps no '{hyperparameter}'.*it has .*{known}.*inject_hyperparams",
    ):
        await given.fit(X, Y, callbacks=[Owner(hyperparameter), seen])
    assert seen.names == ["TrainEnd"]
    assert int(given.state.step) == 0


async def test_owners_of_different_hyperparameters_live_side_by_side() -> None:
    given = trainer(optax.adam, 0.1)
    callbacks = [Owner(), Another("b1")]
    await given.fit(X, Y, callbacks=callbacks)
    await given.fit(X, Y, callbacks=callbacks)  # each run has owners of its own
    assert int(given.state.step) == 2


async def test_an_evaluation_asks_for_no_hyperparameter() -> None:
    """A callback that sets one may be there: it doesn't, in a test."""
    given = trainer(optax.sgd(0.1))
    assert set(await given.evaluate(X, Y, callbacks=[Owner()])) == {"loss"}
