"""What `import fitbus` loads, costs, and makes reachable; each time in a fresh process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fitbus
from fitbus import control, events

SOURCE = Path(fitbus.__file__).parent.parent
MOST_SECONDS = 0.15

EVENTS = [
    name
    for name in events.__all__
    if isinstance(getattr(events, name), type) and issubclass(getattr(events, name), events.Event)
]
CONTROLS = [
    name
    for name in control.__all__
    if isinstance(getattr(control, name), type)
    and issubclass(getattr(control, name), control.Control)
]
SUBMODULES = [
    *("bus", "callbacks", "checkpoints", "control", "errors", "events", "keras", "testing"),
    "train",
]
NAMES = [
    *EVENTS,
    *CONTROLS,
    *SUBMODULES,
    *("Batch", "Bus", "Callback", "FitbusError", "History", "Publisher", "Run", "Runs"),
    *("Supervised", "TrainState", "Trainer", "handler"),
]


def fresh(code: str) -> Any:
    """Runs a program in a fresh interpreter, warnings as errors; what it prints is JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_loads_nothing_heavy() -> None:
    """Neither JAX nor NumPy nor Optax nor rich, nor an event loop, nor what is built on them."""
    loaded: list[str] = fresh("import fitbus, json, sys; print(json.dumps(list(sys.modules)))")
    heavy = {"asyncio", "jax", "jaxlib", "matplotlib", "numpy", "optax", "rich", "sklearn", "trio"}
    heavy |= {"httpx", "keras", "orbax", "safetensors", "tensorboard"}
    assert heavy & set(loaded) == set()
    lazy = {"checkpoints", "examples", "keras", "testing", "train"}
    assert {f"fitbus.{name}" for name in lazy} & set(loaded) == set()


def test_watching_loads_nothing_heavy_either() -> None:
    """A process that decodes events and subscribes to them needs no JAX."""
    code = """
import json, sys, fitbus
bus = fitbus.Bus()
bus.add(lambda event: None, fitbus.EpochEnd)
bus.subscribe(fitbus.BatchEnd)
codec = fitbus.Codec()
codec.from_json(codec.to_json(fitbus.EpochEnd(logs={"loss": 1.0})))
codec.from_msgpack(codec.to_msgpack(fitbus.SetLearningRate(0.1)))
print(json.dumps([name for name in ("jax", "numpy", "optax", "rich") if name in sys.modules]))
"""
    assert fresh(code) == []


def test_importing_costs_at_most_0_15_seconds() -> None:
    """Of processor time, the best of five: so another process beside this one doesn't count."""
    code = "import time; t = time.process_time(); import fitbus; print(time.process_time() - t)"
    assert min(fresh(code) for _ in range(5)) <= MOST_SECONDS


@pytest.mark.slow
def test_every_documented_name_is_reachable() -> None:
    """After `import fitbus` alone, submodules too; and `__all__` and `dir` say so."""
    code = f"""
import json, fitbus
print(json.dumps([name for name in {NAMES!r} if getattr(fitbus, name, None) is None]))
"""
    assert fresh(code) == []
    assert set(NAMES) <= set(fitbus.__all__)
    assert dir(fitbus) == sorted(fitbus.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["testing", "Trainer"])
def test_what_needs_jax_is_loaded_when_it_is_asked_for(name: str) -> None:
    code = f"import json, sys, fitbus; fitbus.{name}; print(json.dumps('jax' in sys.modules))"
    assert fresh(code) is True


def test_a_name_is_the_same_by_each_way() -> None:
    """The front door hands out the packages' own objects, each time."""
    assert fitbus.Trainer is fitbus.train.Trainer is fitbus.Trainer
    assert fitbus.EpochEnd is events.EpochEnd
    assert fitbus.StopTraining is control.StopTraining
    assert fitbus.Callback is fitbus.callbacks.Callback


@pytest.mark.parametrize("module", ["fitbus", "fitbus.callbacks"])
def test_an_unknown_name_is_an_attribute_error(module: str) -> None:
    """It says which name of which module; `hasattr` and `from ... import` go on working."""
    found = sys.modules[module]
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'Trainor'"):
        found.Trainor  # noqa: B018  # that is the test
    with pytest.raises(ImportError, match="Trainor"):
        exec(f"from {module} import Trainor")  # noqa: S102  # that is the test


@pytest.mark.slow
def test_it_works_without_the_extras() -> None:
    """Nothing optional is needed to import each public name, nor to train."""
    code = """
import sys
for name in ("rich", "sklearn", "matplotlib", "trio", "uvloop", "sniffio"):
    sys.modules[name] = None
import json, fitbus
from fitbus import *
from fitbus.callbacks import *
problem = fitbus.testing.toy_problem(64)
trainer = fitbus.Trainer(problem.task, problem.params)
history = trainer.fit_sync(problem.x, problem.y, callbacks=[EarlyStopping("loss")])
print(json.dumps(len(history.history["loss"])))
"""
    assert fresh(code) == 1


def test_the_package_carries_its_types_and_examples() -> None:
    assert (SOURCE / "fitbus" / "py.typed").is_file()
    assert (SOURCE / "fitbus" / "examples" / "demo.py").is_file()
