"""Shows a training loop of your own over the bus: published, watched and steered without `Trainer`.

A loop needs four things of its `Publisher`: `publish` tells, `barrier` tells and waits for the
handlers that training waits for, `boundary` is where controls come in and where training can be
held, and `close` ends the run. `train` takes the controls from `boundary` itself; `train_applying`
leaves that to the publisher.

    python -m fitbus.examples.loop_by_hand
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import jax
import jax.numpy as jnp
import numpy as np

import fitbus
from fitbus.errors import ControlRejectedError
from fitbus.events import EndReason

EPOCHS, BATCHES = 4, 8
GOOD = 1.0  # a loss at which it may stop
Array = np.ndarray[Any, Any]


def loss_of(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of a linear model."""
    return jnp.mean((x @ w - y) ** 2)


def update(w: jax.Array, learning_rate: float, x: jax.Array, y: jax.Array) -> Any:
    """One update. The learning rate is an argument, so that changing it compiles nothing."""
    loss, gradient = jax.value_and_grad(loss_of)(w, x, y)
    return w - learning_rate * gradient, loss


step: Callable[..., tuple[jax.Array, jax.Array]] = jax.jit(update)


def data() -> tuple[Array, Array, Array]:
    """Inputs of shape (batches, examples, features), targets, and the answer."""
    random = np.random.default_rng(0)
    x = random.normal(size=(BATCHES, 32, 4)).astype(np.float32)
    answer = np.array([1, -2, 3, -4], np.float32)
    return x, x @ answer, answer


def train(publisher: fitbus.Publisher) -> Array:
    """The plain form: the loop acts on each control by itself. Runs in a thread."""
    x, y, _ = data()
    w, learning_rate, stopping = jnp.zeros(4), 0.01, False
    logs: dict[str, float] = {}
    reason: EndReason = "failed"
    try:
        publisher.barrier(fitbus.TrainBegin(epochs=EPOCHS, steps_per_epoch=BATCHES))
        for epoch in range(EPOCHS):
            publisher.epoch = epoch  # stamped on what is published from here on
            publisher.barrier(fitbus.EpochBegin())
            losses: list[float] = []
            logs = {}
            for batch in range(BATCHES):
                anyio.from_thread.check_cancelled()  # cancelling the task ends the loop here
                for control in publisher.boundary():
                    # Asking for the next control acknowledges this one, unless it was rejected.
                    match control:
                        case fitbus.SetLearningRate(value):
                            learning_rate = value
                        case fitbus.StopTraining():
                            stopping = True
                        case _:
                            publisher.reject("send SetLearningRate or StopTraining")
                if stopping:
                    break
                w, loss = step(w, learning_rate, x[batch], y[batch])
                # Reading the value waits for the device: a loop of short steps reads it later.
                losses.append(float(loss))
                logs = {"loss": sum(losses) / len(losses)}
                publisher.step += 1
                publisher.publish(
                    fitbus.BatchEnd(batch=batch, logs=logs, batch_logs={"loss": losses[-1]})
                )
            publisher.barrier(fitbus.EpochEnd(logs=logs))
            if stopping:
                break
        reason = "stopped" if stopping else "completed"
    finally:
        publisher.publish(fitbus.TrainEnd(logs=logs, reason=reason))  # on every way out
        publisher.close()  # what is sent from now on is rejected: nobody waits for ever
    return np.asarray(w)


class Steering:
    """What controls change in `train_applying`."""

    def __init__(self) -> None:
        self.learning_rate = 0.01
        self.stopping = False

    def apply(self, control: fitbus.Control, source: str) -> object:
        """Called by the publisher, in the training thread; what it returns is the result."""
        match control:
            case fitbus.SetLearningRate(value):
                before, self.learning_rate = self.learning_rate, value
                return {"before": before}
            case fitbus.StopTraining(reason):
                self.stopping = True
                print(f"{source or 'somebody'} stops it: {reason}")
                return None
            case _:
                raise ControlRejectedError(control, "send SetLearningRate or StopTraining")


def train_applying(publisher: fitbus.Publisher, steering: Steering) -> Array:
    """The form with `apply=`: controls also act while the loop waits in `barrier`."""
    x, y, _ = data()
    w = jnp.zeros(4)
    with publisher:  # closes it: what is sent later is rejected, and nobody waits for ever
        for epoch in range(EPOCHS):
            publisher.epoch = epoch
            total = 0.0
            for batch in range(BATCHES):
                anyio.from_thread.check_cancelled()
                publisher.boundary()  # applies what has come; yields nothing
                if steering.stopping:
                    return np.asarray(w)
                w, loss = step(w, steering.learning_rate, x[batch], y[batch])
                total += float(loss)
                publisher.step += 1
            publisher.barrier(fitbus.EpochEnd(logs={"loss": total / BATCHES}))
    return np.asarray(w)


async def show_plain() -> Array:
    """Trains in a thread; one control is acknowledged, another one rejected."""
    async with fitbus.Bus() as bus:  # hosts the handlers
        bus.add(print_loss)
        publisher = bus.publisher()
        faster = publisher.post(fitbus.SetLearningRate(0.1), "show_plain")
        unknown = publisher.post(fitbus.Pause(), "show_plain")
        w: Array = await anyio.to_thread.run_sync(train, publisher)
        print(f"faster: {await faster}")
        try:
            await unknown
        except ControlRejectedError as error:
            print(f"unknown: {error}")
    return w


async def show_applying() -> Array:
    """Trains in a thread; a handler that training waits for sends a control, and sees it act."""
    async with fitbus.Bus() as bus:
        bus.add(print_loss)
        steering = Steering()
        publisher = bus.publisher(apply=steering.apply)

        @bus.on(fitbus.EpochEnd, name="hurry")
        async def hurry(event: fitbus.EpochEnd) -> fitbus.StopTraining | None:
            if event.epoch == 0:
                applied = await publisher.post(fitbus.SetLearningRate(0.1), "hurry")
                print(f"hurry: {applied}")
            # What a handler returns counts as sent by it.
            return fitbus.StopTraining("good enough") if event.logs["loss"] < GOOD else None

        w: Array = await anyio.to_thread.run_sync(train_applying, publisher, steering)
    return w


def print_loss(event: fitbus.EpochEnd) -> None:
    """A `def` handler: it runs in the training thread."""
    print(f"epoch {event.epoch}: loss {event.logs['loss']:.5f}")


async def show() -> None:
    """Runs both forms."""
    for form in (show_plain, show_applying):
        print(f"found {(await form()).round(2)}, the answer is {data()[2]}")


def main() -> None:
    """Runs it."""
    anyio.run(show)


if __name__ == "__main__":
    main()
