"""What the tests of training share: the trainer of each file, here or in a child process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fitbus

sys.path.append(str(Path(__file__).parents[2]))  # where a child finds its factory


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "anywhere: holds for a run in a child process as well")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Has tests that are marked so run once more, on a child process."""
    if metafunc.definition.get_closest_marker("anywhere") is not None:
        process = pytest.param("process", marks=pytest.mark.slow)
        metafunc.parametrize("where", ["thread", process], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A child process takes a second: one loop will do, and which it is makes no difference."""
    left = [item for item in items if _is_one_of_several(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def _is_one_of_several(item: pytest.Item) -> bool:
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    loop = params.get("anyio_backend", ("asyncio", {}))
    return params.get("where") == "process" and loop != ("asyncio", {})


class ElsewhereTrainer:
    """Makes the runs of the toy problem's trainer in child processes."""

    def __init__(self) -> None:
        self.bus = fitbus.Bus()
        self.state = SimpleNamespace(step=0)

    def run(self, x: Any, y: Any = None, **options: Any) -> fitbus.ProcessRun:
        own = {n: options.pop(n) for n in ("callbacks", "run_id", "grace_s") if n in options}
        data = {"x": x, "y": y, **options}
        return fitbus.ProcessRun(
            "tests.process._factories:toy", parameters=data, bus=self.bus, **own
        )

    async def fit(self, x: Any, y: Any = None, **options: Any) -> Any:
        async with self.run(x, y, **options) as run:
            return await run.wait()


@pytest.fixture
def where(request: pytest.FixtureRequest) -> str:
    """Where training goes on."""
    return getattr(request, "param", "thread")


@pytest.fixture
def trainer(request: pytest.FixtureRequest, where: str) -> Iterator[Any]:
    """The file's `SHARED`, one for all of its tests, so that its steps are compiled once.

    Or what stands for it, if training goes on in a child process.
    """
    shared: Any = request.module.SHARED if where == "thread" else ElsewhereTrainer()
    yield shared
    assert shared.bus.statistics().subscriptions == ()
