"""Shows an event and a control of one's own: published, returned, applied, and sent over a wire.

A handler that sees the loss halved says so in an event of its own. Another handler answers that
event with a control of its own, which the task knows how to apply. The codec carries both.

    python -m fitbus.examples.custom_event_and_control
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import anyio
import jax
import jax.numpy as jnp
import numpy as np
import optax

import fitbus
from fitbus.errors import InvalidArgumentError

ENOUGH = 0.5  # a loss below which nothing is forgotten any more


# An event is a fact: frozen, with the run's envelope (`run`, `seq`, `time`, `step`, `epoch`)
# stamped on it as it is published. `tag` is its name on a wire; left out, it is made of the names
# of module and class, and the module is `__main__` in a script.
class LossHalved(fitbus.Event, tag="example.LossHalved"):
    """The loss is at most half of what it was at the last such event, or in the first epoch.

    Attributes:
        loss: What it is now.
    """

    loss: float


# A control is an imperative: frozen too, and valid from construction, so that a wrong value meets
# who made it instead of training.
class ShrinkWeights(fitbus.Control, tag="example.ShrinkWeights"):
    """Multiplies all parameters, a mild way to forget.

    Args:
        factor: Above 0, at most 1.
    """

    factor: float

    def __post_init__(self) -> None:
        """Refuses what makes no sense."""
        if not 0 < self.factor <= 1:
            raise InvalidArgumentError(
                "ShrinkWeights.factor", self.factor, "give a number above 0, at most 1"
            )


def shrink(state: fitbus.TrainState, control: ShrinkWeights) -> fitbus.TrainState:
    """How the task applies the control: a pure function, called between two steps."""

    def smaller(leaf: jax.Array) -> jax.Array:
        return leaf * control.factor

    return dataclasses.replace(state, params=jax.tree.map(smaller, state.params))


class WatchLoss:
    """A handler that publishes.

    Args:
        bus: Where the run's events go.
    """

    def __init__(self, bus: fitbus.Bus) -> None:
        self._bus = bus
        self._mark: float | None = None

    def __call__(self, event: fitbus.EpochEnd) -> None:
        """Publishes into the run that the event came from."""
        loss = event.logs["loss"]
        if self._mark is None:
            self._mark = loss
        elif loss <= self._mark / 2:
            self._mark = loss
            publisher = self._bus.publisher_of(event)
            if publisher is not None:  # the run hasn't ended meanwhile
                publisher.publish(LossHalved(loss=loss))


# A `def` handler of what another handler published is called at the next step boundary, in the
# training thread: the control acts at the same step in every run of the program.
def forget(event: LossHalved) -> ShrinkWeights | None:
    """Answers the event with a control, early on; what a handler returns is sent."""
    return ShrinkWeights(0.9) if event.loss > ENOUGH else None


class Shown(NamedTuple):
    """What `show` saw.

    Attributes:
        events: The run's own events and acknowledgements, in order.
        lines: The same as JSON.
        decoded: And back again.
    """

    events: Sequence[LossHalved | fitbus.ControlApplied]
    lines: list[bytes]
    decoded: list[fitbus.Event | fitbus.Control]


def build() -> fitbus.Trainer:
    """A linear regression whose task knows the control."""
    task = fitbus.Supervised(
        apply=lambda params, x: x @ params["w"],
        loss=lambda predictions, y: (predictions - y) ** 2,
        optimizer=optax.sgd,
        learning_rate=0.02,
        controls={ShrinkWeights: shrink},
    )
    return fitbus.Trainer(task, {"w": jnp.ones(4)})


async def show() -> Shown:
    """Trains, and follows both messages from the outside."""
    x = np.random.default_rng(0).normal(size=(256, 4)).astype(np.float32)
    trainer = build()
    callbacks: list[Any] = [WatchLoss(trainer.bus), forget]
    run = trainer.run(x, -x.sum(1), epochs=6, callbacks=callbacks)
    # The stream is opened before the run starts, so it misses nothing; it ends with the run.
    async with run.subscribe(LossHalved, fitbus.ControlApplied) as stream, run:
        events = [event async for event in stream]
    codec = fitbus.Codec(LossHalved, ShrinkWeights)  # it decodes the types that it was told
    lines = [codec.to_json(event) for event in events]
    return Shown(events, lines, [codec.from_json(line) for line in lines])


def main() -> None:
    """Runs it, and prints the messages as they would be sent."""
    shown = anyio.run(show)
    for line in shown.lines:
        print(line.decode())
    print(f"decoded: {shown.decoded == shown.events}")
    print(f"without being told the types: {fitbus.Codec().from_json(shown.lines[0])}")


if __name__ == "__main__":
    main()
