"""The peers on JAX: a loop by hand, Flax and Keras."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _peer import BATCH, RATE, Array, Batches, Peer, Reader, finished, readers, the_loss

Layers = list[tuple[Array, Array]]


def load(name: str, loop: str) -> tuple[str, Callable[[Layers, Array, Array], Peer]]:
    """What it is called, and what makes it; an ImportError if it isn't installed."""
    if name == "bare":
        return f"JAX {jax.__version__} and Optax {optax.__version__}", Bare
    if name == "flax":
        flax = importlib.import_module("flax")
        return f"Flax {flax.__version__} on JAX {jax.__version__}", Flax
    if name == "keras":
        os.environ["KERAS_BACKEND"] = "jax"  # before anything imports keras
        keras = importlib.import_module("keras")
        return f"Keras {keras.__version__} on JAX {jax.__version__}", Keras
    raise ValueError(name)


def apply(params: Any, x: Any) -> Any:
    """The network: linear layers, with relu between them."""
    for i, (w, b) in enumerate(params):
        x = (jax.nn.relu(x) if i else x) @ w + b
    return x


def mean_loss(predictions: Any, y: Any) -> Any:
    """The mean cross entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(predictions, y).mean()


class Loop:
    """A plain `for` over a jitted, donating `step(state, x, y) -> (state, loss)`."""

    step: Callable[[Any, Any, Any], tuple[Any, Any]]
    state: Any

    def __init__(self, x: Array, y: Array) -> None:
        self.batches = Batches(x, y)

    def epoch(self, callbacks: str) -> float:
        """Reads nothing back without callbacks; with them, reads each loss once for all."""
        all_readers = readers(callbacks, len(self.batches))
        step, state = self.step, self.state
        started = time.perf_counter()
        for x, y in self.batches:
            state, loss = step(state, x, y)
            if all_readers:
                value = float(loss)
                for reader in all_readers:
                    reader.take(value)
        self.state = jax.block_until_ready(state)
        return finished(all_readers, time.perf_counter()) - started


class Bare(Loop):
    """What people write with JAX and Optax."""

    def __init__(self, layers: Layers, x: Array, y: Array) -> None:
        super().__init__(x, y)
        optimizer = optax.sgd(RATE)
        params = jax.tree.map(jnp.array, layers)
        self.state = params, optimizer.init(params)

        def step(state: Any, x: Any, y: Any) -> Any:
            params, opt_state = state
            loss, gradients = jax.value_and_grad(lambda p: mean_loss(apply(p, x), y))(params)
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), loss

        self.step = jax.jit(step, donate_argnums=0)

    def parameters(self) -> list[Array]:
        """Of both layers, in order."""
        return [np.asarray(part) for layer in self.state[0] for part in layer]


class Flax(Loop):
    """Flax NNX in the functional form that its guide to performance gives, its state donated."""

    def __init__(self, layers: Layers, x: Array, y: Array) -> None:
        super().__init__(x, y)
        nnx: Any = importlib.import_module("flax.nnx")
        rngs = nnx.Rngs(0)
        parts: list[Any] = []
        for i, (w, b) in enumerate(layers):
            linear = nnx.Linear(*w.shape, rngs=rngs)
            linear.kernel[...], linear.bias[...] = w, b
            parts += [nnx.relu, linear] if i else [linear]
        model = nnx.Sequential(*parts)
        optimizer = nnx.Optimizer(model, optax.sgd(RATE), wrt=nnx.Param)
        graph, self.state = nnx.split((model, optimizer))

        def step(state: Any, x: Any, y: Any) -> Any:
            model, optimizer = nnx.merge(graph, state)
            loss, gradients = nnx.value_and_grad(lambda m: mean_loss(m(x), y))(model)
            optimizer.update(model, gradients)
            return nnx.state((model, optimizer)), loss

        self.step = jax.jit(step, donate_argnums=0)

        def linear_layers() -> list[Any]:
            model, _ = nnx.merge(graph, self.state)
            return [part for part in model.layers if isinstance(part, nnx.Linear)]

        self.linear_layers: Callable[[], list[Any]] = linear_layers

    def parameters(self) -> list[Array]:
        """Of the linear layers among all."""
        return [
            np.asarray(part[...])
            for each in self.linear_layers()
            for part in (each.kernel, each.bias)
        ]


class Keras:
    """`model.fit` as it comes, compiled by XLA (Keras' default on JAX), silent, with its loss only.

    `10 callbacks` are subclasses of `keras.callbacks.Callback` with `on_train_batch_end`;
    `10 async_safe callbacks` say of themselves that Keras may call them from its thread pool.
    """

    def __init__(self, layers: Layers, x: Array, y: Array) -> None:
        keras: Any = importlib.import_module("keras")
        parts: list[Any] = [keras.Input((len(layers[0][0]),))]
        for i, (w, _) in enumerate(layers):
            parts += [keras.layers.ReLU()] if i else []
            parts.append(keras.layers.Dense(w.shape[1]))
        self.model = keras.Sequential(parts)
        self.model.set_weights([part for layer in layers for part in layer])
        self.model.compile(
            keras.optimizers.SGD(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        )
        self.x, self.y = x, y
        base: Any = keras.callbacks.Callback

        class Reads(base):  # type: ignore[misc]  # of a module that may be missing
            def __init__(self, reader: Reader, async_safe: bool) -> None:
                super().__init__()
                self.async_safe = async_safe
                self.take = reader.take

            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                self.take(the_loss(logs))

        class Times(base):  # type: ignore[misc]  # likewise
            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                self.started = time.perf_counter()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                self.ended = time.perf_counter()

        self._reads, self._times = Reads, Times

    def epoch(self, callbacks: str) -> float:
        """From `on_epoch_begin` to `on_epoch_end`."""
        all_readers = readers(callbacks, len(self.x) // BATCH)
        times = self._times()
        hooks = [self._reads(reader, "async_safe" in callbacks) for reader in all_readers]
        self.model.fit(
            self.x, self.y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[times, *hooks]
        )
        return finished(all_readers, times.ended) - float(times.started)

    def parameters(self) -> list[Array]:
        """As `set_weights` takes them."""
        return [np.asarray(part) for part in self.model.get_weights()]
