"""Data that can say where they are: of all the kinds that people write."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np

from fitbus.testing import toy_problem

PROBLEM = toy_problem(42, 3)  # the last batch is a short one
SIZE = 8
BATCHES = 6  # of a pass


class Counting:
    """Counts the batches that it makes, over all passes."""

    def __init__(self) -> None:
        self.made = 0

    def batch(self, rows: Any) -> Any:
        self.made += 1
        return PROBLEM.x[rows], PROBLEM.y[rows]

    def at(self, index: int) -> Any:
        return self.batch(slice(index * SIZE, (index + 1) * SIZE))


class Remaining(Counting):
    """Goes on where it is, and begins anew after its last batch."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        while self.position < BATCHES:
            self.position += 1
            yield self.at(self.position - 1)
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class Fresh(Counting):
    """Begins anew with each `iter()`, but for the one after a state was loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.position = 0
        self.first = 0

    def __iter__(self) -> Iterator[Any]:
        first, self.first = self.first, 0
        for index in range(first, BATCHES):
            self.position = index + 1
            yield self.at(index)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.first = state["position"]


class Shuffling(Counting):
    """Another order in each pass; its state is what a generator's is, and an array."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(11)
        self.order = np.zeros(0, np.int64)

    def __iter__(self) -> Iterator[Any]:
        if not len(self.order):
            self.order = self.rng.permutation(len(PROBLEM.x))
        while len(self.order):
            rows, self.order = self.order[:SIZE], self.order[SIZE:]
            yield self.batch(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self.rng.bit_generator.state, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.order = state["order"]


class Loader(Counting):
    """As torchdata's: its state is that of its iterator, and of how it shuffles."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self.iterator: LoaderIterator | None = None
        self.loaded: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        self.iterator = LoaderIterator(self)
        return self.iterator

    def state_dict(self) -> dict[str, Any]:
        if self.loaded is not None or self.iterator is None:
            return self.loaded or {"epoch": self.epoch, "done": 0, "finished": True}
        it = self.iterator
        return {"epoch": it.epoch, "done": it.done, "finished": it.finished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.loaded = state


class LoaderIterator(Iterator[Any]):
    def __init__(self, loader: Loader) -> None:
        loaded, loader.loaded = loader.loaded, None
        self.loader = loader
        self.done, self.finished = 0, False
        if loaded is not None:
            loader.epoch = loaded["epoch"]
            if not loaded["finished"]:
                loader.epoch -= 1
                self.done = loaded["done"]
        loader.epoch += 1
        self.epoch = loader.epoch
        self.order = np.random.default_rng(self.epoch).permutation(len(PROBLEM.x))

    def __next__(self) -> Any:
        if self.done == BATCHES:
            self.finished = True
            raise StopIteration
        self.done += 1
        return self.loader.batch(self.order[(self.done - 1) * SIZE : self.done * SIZE])


class Steps(Counting):
    """Its iterators, and not itself, can say where they are, as Grain's do."""

    def __iter__(self) -> StepsIterator:
        return StepsIterator(self)


class StepsIterator(Iterator[Any]):
    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.next_index = 0

    def __next__(self) -> Any:
        if self.next_index == BATCHES:
            raise StopIteration
        self.next_index += 1
        return self.steps.at(self.next_index - 1)

    def get_state(self) -> bytes:
        return str(self.next_index).encode()

    def set_state(self, state: bytes) -> None:
        self.next_index = int(state)


class Endless(Counting, Iterator[Any]):
    """An iterator that can be put back, and begins again by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.index = 0

    def __next__(self) -> Any:
        self.index += 1
        return self.at((self.index - 1) % BATCHES)

    def get_state(self) -> dict[str, int]:
        return {"index": self.index}

    def set_state(self, state: dict[str, int]) -> None:
        self.index = state["index"]


class Asynchronous(Counting, AsyncIterator[Any]):
    """The same for `async for`."""

    def __init__(self) -> None:
        super().__init__()
        self.index = 0

    async def __anext__(self) -> Any:
        self.index += 1
        return self.at((self.index - 1) % BATCHES)

    def state_dict(self) -> dict[str, int]:
        return {"index": self.index}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.index = state["index"]


class AsynchronousPasses(Remaining):
    """Passes for `async for`."""

    __iter__ = None  # type: ignore[assignment]  # only `async for`

    async def __aiter__(self) -> AsyncIterator[Any]:
        while self.position < BATCHES:
            self.position += 1
            yield self.at(self.position - 1)
        self.position = 0
