"""Averages of the parameters: in place for tests and predictions, and never longer than said."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import fitbus
from fitbus import EpochEnd
from fitbus.callbacks import SwapEMAWeights
from fitbus.errors import InvalidArgumentError

from ._averaging import (
    AVERAGE,
    DECAY,
    PROBLEM,
    TRAINER,
    Averaged,
    Seen,
    X,
    Y,
    called,
    debiased,
    put,
    swap,
    w,
)

pytestmark = pytest.mark.anyio


async def test_the_averages_are_in_place_during_validation_only() -> None:
    """They are debiased as Optax does it; training goes on as if nothing had been."""
    seen = Seen()
    options: Any = {"batch_size": 8, "epochs": 2, "validation_data": (X, Y)}
    begin = TRAINER.state
    await TRAINER.fit(X, Y, **options)
    plain = TRAINER.state
    await put(TRAINER, begin).fit(X, Y, callbacks=[swap(), seen], **options)
    assert seen.what[1:] == [
        ("TestBegin", "average"),
        ("TestEnd", "own"),
        ("EpochEnd", "own"),
        ("EpochBegin", "own"),
        ("TestBegin", "average"),
        ("TestEnd", "own"),
        ("EpochEnd", "own"),
        ("TrainEnd", "own"),
    ]
    assert w(TRAINER.state) == w(plain)
    assert debiased(TRAINER.state) == debiased(plain)


async def test_evaluate_and_predict_use_them_and_the_parameters_are_back() -> None:
    await TRAINER.fit(X, Y, batch_size=8)
    state = TRAINER.state
    kept = state.extra["ema"]
    ema = jax.tree.map(lambda leaf: leaf / (1 - DECAY ** int(kept.count)), kept.ema)
    logs = await TRAINER.evaluate(X, Y, callbacks=[swap()])
    assert w(TRAINER.state) == w(state)
    seen = Seen()
    predicted = await TRAINER.predict(X, callbacks=[swap(), seen])
    assert seen.what == [("PredictBegin", "average"), ("PredictEnd", "own")]
    assert w(TRAINER.state) == w(state)
    assert not np.array_equal(predicted, await TRAINER.predict(X))
    put(TRAINER, dataclasses.replace(state, params=ema))
    assert logs == await TRAINER.evaluate(X, Y)
    np.testing.assert_array_equal(predicted, await TRAINER.predict(X))


async def test_swap_on_epoch_leaves_them_in_place_until_the_next_epoch_begins() -> None:
    """What comes after it at the end of an epoch sees them; after the last epoch they stay."""
    seen = Seen()
    await TRAINER.fit(X, Y, batch_size=8, epochs=2, callbacks=[swap(swap_on_epoch=True), seen])
    assert seen.what[1:] == [
        ("EpochEnd", "average"),
        ("EpochBegin", "own"),
        ("EpochEnd", "average"),
        ("TrainEnd", "average"),
    ]
    assert w(TRAINER.state) == debiased(TRAINER.state)


async def test_they_stay_where_training_was_stopped_after_an_epoch() -> None:
    def stop(event: EpochEnd) -> fitbus.StopTraining:
        return fitbus.StopTraining("enough")

    await TRAINER.fit(X, Y, batch_size=8, epochs=3, callbacks=[swap(swap_on_epoch=True), stop])
    assert w(TRAINER.state) == debiased(TRAINER.state)


async def test_averages_as_they_are_or_where_a_function_says() -> None:
    """Without Optax' state nothing is corrected."""
    state = fitbus.Trainer(PROBLEM.task, PROBLEM.answer).state
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    by_hand = await put(trainer, state).evaluate(X, Y)
    state = dataclasses.replace(trainer.state, extra={"ema": state.params}, params=PROBLEM.params)
    put(trainer, state)
    assert await trainer.evaluate(X, Y, callbacks=[SwapEMAWeights()]) == by_hand
    found = SwapEMAWeights(ema=lambda state: state.extra["ema"])
    assert await trainer.evaluate(X, Y, callbacks=[found]) == by_hand
    zeros = SwapEMAWeights(ema=lambda state: jax.tree.map(jnp.zeros_like, state.params))
    assert (await trainer.evaluate(X, Y, callbacks=[zeros]))["loss"] > by_hand["loss"]


async def test_before_the_first_step_an_average_is_the_parameters() -> None:
    """Where nothing was averaged yet, nothing is divided by zero."""
    trainer = fitbus.Trainer(Averaged(), PROBLEM.answer)
    logs = await trainer.evaluate(X, Y, callbacks=[swap()])
    assert logs == await trainer.evaluate(X, Y)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"keeps no averages.*state.extra\['ema'\]"),
        ({"ema": lambda state: None}, "SwapEMAWeights"),
        ({"ema": lambda state: state.params["w"]}, "those of the parameters"),
        ({"ema": lambda state: jax.tree.map(lambda p: p[None], state.params)}, "same shapes"),
        ({"ema": lambda state: AVERAGE.init(state.params)}, "give its decay"),
    ],
)
@pytest.mark.parametrize("call", ["fit", "evaluate", "predict"])
async def test_a_run_without_averages_is_refused_before_its_first_batch(
    given: Any, message: str, call: str
) -> None:
    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    with pytest.raises(InvalidArgumentError, match=message):
        await called(trainer, call, [SwapEMAWeights(**given)])
    assert int(trainer.state.step) == 0


async def test_averages_of_updates_in_a_chain_are_not_taken_for_those_of_parameters() -> None:
    task = fitbus.Supervised(
        PROBLEM.task.apply, PROBLEM.task.loss, optax.chain(optax.ema(0.9), optax.sgd(0.1))
    )
    trainer = fitbus.Trainer(task, PROBLEM.params)
    with pytest.raises(InvalidArgumentError, match="keeps no averages"):
        await trainer.fit(X, Y, callbacks=[swap()])


@pytest.mark.parametrize(
    ("given", "argument"),
    [
        ({"swap_on_epoch": 1}, "swap_on_epoch"),
        ({"ema": 0.9}, "ema"),
        ({"decay": 1}, "decay"),
        ({"decay": -0.1}, "decay"),
        ({"decay": "0.9"}, "decay"),
        ({"decay": True}, "decay"),
    ],
)
def test_an_argument_out_of_range_is_refused(given: Any, argument: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f"SwapEMAWeights.{argument}"):
        SwapEMAWeights(**given)
