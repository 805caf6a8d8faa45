"""The peers on PyTorch: a loop by hand, Ignite, and Lightning; eager, with the fused SGD."""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _peer import RATE, Array, Batches, Peer, Reader, finished, readers

Layers = list[tuple[Array, Array]]


def load(name: str, loop: str) -> tuple[str, Callable[[Layers, Array, Array], Peer]]:
    """What it is called, and what makes it; an ImportError if it isn't installed."""
    torch = importlib.import_module("torch")
    on = f"PyTorch {torch.__version__}"
    if name == "torch":
        return on, ByHand
    if name == "ignite":
        return f"Ignite {importlib.import_module('ignite').__version__} on {on}", Ignite
    lightning = importlib.import_module("lightning")
    warnings.simplefilter("ignore")  # advice: more workers, another logger
    for part in ("pytorch", "pytorch.utilities.rank_zero", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.ERROR)
    return f"Lightning {lightning.__version__} on {on}", Lightning


class Torch:
    """The network, its optimizer and its data: slices of one tensor, without a DataLoader."""

    def __init__(self, layers: Layers, x: Array, y: Array) -> None:
        self.torch: Any = importlib.import_module("torch")
        nn: Any = self.torch.nn
        parts: list[Any] = []
        for i, (w, b) in enumerate(layers):
            linear = nn.Linear(*w.shape)
            with self.torch.no_grad():
                linear.weight.copy_(self.torch.from_numpy(w.T.copy()))
                linear.bias.copy_(self.torch.from_numpy(b))
            parts += [nn.ReLU(), linear] if i else [linear]
        self.network = nn.Sequential(*parts)
        self.optimizer = self.torch.optim.SGD(self.network.parameters(), RATE, fused=True)
        self.loss = nn.CrossEntropyLoss()
        # Classes are int64 here: cross_entropy takes no int32.
        self.batches = Batches(self.torch.from_numpy(x), self.torch.from_numpy(y.astype(np.int64)))

    def parameters(self) -> list[Array]:
        """Weights are of (outputs, inputs)."""
        return [part.detach().numpy() for part in self.network.parameters()]


class ByHand(Torch):
    """What people write with PyTorch."""

    def epoch(self, callbacks: str) -> float:
        """Reads nothing back without callbacks; with them, reads each loss once for all."""
        all_readers = readers(callbacks, len(self.batches))
        network, loss_of, optimizer = self.network, self.loss, self.optimizer
        started = time.perf_counter()
        for x, y in self.batches:
            optimizer.zero_grad()
            loss = loss_of(network(x), y)
            loss.backward()
            optimizer.step()
            if all_readers:
                value = loss.item()
                for reader in all_readers:
                    reader.take(value)
        return finished(all_readers, time.perf_counter()) - started


class Ignite(Torch):
    """`create_supervised_trainer` as it comes: its output is the loss, a float."""

    def epoch(self, callbacks: str) -> float:
        """From `EPOCH_STARTED` to `EPOCH_COMPLETED`."""
        engines: Any = importlib.import_module("ignite.engine")
        events = engines.Events
        all_readers = readers(callbacks, len(self.batches))
        engine = engines.create_supervised_trainer(self.network, self.optimizer, self.loss)
        times: list[float] = []
        for event in (events.EPOCH_STARTED, events.EPOCH_COMPLETED):
            engine.add_event_handler(event, lambda engine: times.append(time.perf_counter()))

        def reading(reader: Reader) -> Callable[[Any], None]:
            return lambda engine: reader.take(engine.state.output)

        for reader in all_readers:
            engine.add_event_handler(events.ITERATION_COMPLETED, reading(reader))
        engine.run(self.batches, max_epochs=1)
        return finished(all_readers, times[1]) - times[0]


class Lightning(Torch):
    """`Trainer(barebones=True)`: its documented mode without all that may cost speed."""

    def __init__(self, layers: Layers, x: Array, y: Array) -> None:
        super().__init__(layers, x, y)
        self.lightning: Any = importlib.import_module("lightning")
        network, loss_of, optimizer = self.network, self.loss, self.optimizer
        module: Any = self.lightning.LightningModule
        callback: Any = self.lightning.Callback

        class Module(module):  # type: ignore[misc]  # of a module that may be missing
            def __init__(self) -> None:
                super().__init__()
                self.network = network
                self.started = self.ended = 0.0

            def on_train_epoch_start(self) -> None:
                self.started = time.perf_counter()

            def on_train_epoch_end(self) -> None:
                self.ended = time.perf_counter()

            def training_step(self, batch: Any, batch_idx: int) -> Any:
                x, y = batch
                return loss_of(self.network(x), y)

            def configure_optimizers(self) -> Any:
                return optimizer

        class Reads(callback):  # type: ignore[misc]  # likewise
            def __init__(self, reader: Reader) -> None:
                self.take = reader.take

            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, *_: Any
            ) -> None:
                self.take(outputs["loss"].item())

        self._module, self._reads = Module(), Reads

    def epoch(self, callbacks: str) -> float:
        """From the module's `on_train_epoch_start` to its `on_train_epoch_end`."""
        all_readers = readers(callbacks, len(self.batches))
        trainer = self.lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=1,
            barebones=True,
            callbacks=[self._reads(reader) for reader in all_readers],
        )
        trainer.fit(self._module, self.batches)
        return finished(all_readers, self._module.ended) - self._module.started
