"""What every built-in callback's class must be: as Keras', documented, plain in what it keeps."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fitbus
from fitbus.callbacks import Callback
from fitbus.callbacks._hooks import HOOKS
from fitbus.events import BatchBegin, BatchEnd, Event

from ._every import DEAD, NAMES, PROBLEM, Place, X, Y, kind_of, made

# Event types that are subscribed to beside hooks, and why.
BESIDE: dict[str, set[type[Event]]] = {
    "JSONLogger": set(),  # its types are an argument: below
    "Journal": {Event},
    "LearningRateFinder": {BatchBegin, BatchEnd},  # each batch has a learning rate of its own
    "StopOnDivergence": {BatchEnd},  # concurrently
    "Throughput": {BatchEnd},  # concurrently, one in a while
}

# Where constructors aren't those of Keras, and why.
OTHER_THAN_KERAS = {
    ("LambdaCallback", "hooks"): "Keras calls them kwargs, takes any, and keeps what is no hook",
    ("ReduceLROnPlateau", "unknown"): "Keras calls them kwargs, and ignores them",
}


@pytest.fixture(scope="module")
def trainer() -> fitbus.Trainer:
    """Its steps are compiled once."""
    return fitbus.Trainer(PROBLEM.task, PROBLEM.params)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each built-in callback."""
    found: str = request.param
    return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Where to write; nobody is there to be sent to."""
    return Place(tmp_path, DEAD)


@pytest.fixture
def callback(name: str, place: Place) -> Callback:
    """One of each."""
    return made(name, place)


def test_only_overridden_hooks_are_subscribed(
    trainer: fitbus.Trainer, name: str, callback: Callback
) -> None:
    """Nothing else costs a wait; what is listened to beside the hooks is in the table above."""
    run = trainer.run(X, Y)
    callback.attach(run)
    hooks = {kind for kind, names in HOOKS.items() if any(map(callback._overridden, names))}
    found = {kind for subscription in run.bus.subscriptions for kind in subscription.kinds}
    for subscription in run.bus.subscriptions:
        subscription.cancel()
    expected = hooks | BESIDE.get(name, set())
    if name == "JSONLogger":
        expected = set(getattr(callback, "types"))  # noqa: B009  # of this one only
    assert found == expected


def plain(value: Any, where: str) -> Iterator[str]:
    """What in a value isn't plain."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                yield f"{where}: the key {key!r}"
            yield from plain(item, f"{where}[{key!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from plain(item, f"{where}[{index}]")
    elif type(value) not in (str, int, float, bool, type(None), np.ndarray):
        yield f"{where}: {type(value).__name__}"


def as_json(state: dict[str, Any]) -> str:
    """The state as a text, by which two can be compared."""
    return json.dumps(state, default=lambda array: [str(array.dtype), array.tolist()])


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
def test_what_it_remembers_is_plain_and_can_be_taken_back(
    trainer: fitbus.Trainer, name: str, callback: Callback, tmp_path: Path, trained: bool
) -> None:
    """Numbers, texts, lists, dicts and NumPy's arrays; another object then has the same state."""
    states = [callback.state_dict()]

    class Looks(Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            states.append(callback.state_dict())

    if trained:
        trainer.fit_sync(X, Y, batch_size=8, epochs=3, callbacks=[callback, Looks()])
        states.append(callback.state_dict())
        assert len(states) >= 4
    for number, state in enumerate(states):
        assert list(plain(state, name)) == []
        folder = tmp_path / str(number)
        folder.mkdir()
        fresh = made(name, Place(folder, DEAD))
        before = as_json(state)
        fresh.load_state_dict(state)
        assert as_json(fresh.state_dict()) == before


def parameters(kind: Any) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(kind).parameters)


def test_its_docstring_tells_of_every_argument(name: str) -> None:
    """In `Args`, in the order of the parameters; and there is no other."""
    kind = kind_of(name)
    text = inspect.cleandoc(kind.__doc__ or "")
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", text + "\n", re.MULTILINE)
    told = re.findall(r"^    (\w+): ", section[1], re.MULTILINE) if section else []
    assert told == list(parameters(kind))


def test_its_docstring_tells_of_keras(name: str) -> None:
    """Whether it has the semantics of Keras' callback of that name, or where it differs, and why.

    One of which Keras has none needn't.
    """
    import keras

    if hasattr(keras.callbacks, name):
        text = " ".join((kind_of(name).__doc__ or "").split())
        assert re.search(r"Differs from Keras|Keras' semantics", text)


def test_its_arguments_begin_with_those_of_keras(name: str) -> None:
    """In Keras' order, with Keras' defaults, so that a call by position means the same."""
    import keras

    if not hasattr(keras.callbacks, name):
        return
    theirs = list(parameters(getattr(keras.callbacks, name)).values())
    ours = list(parameters(kind_of(name)).values())
    used: set[tuple[str, str]] = set()
    for expected, found in zip(theirs, ours, strict=False):
        if expected.kind is inspect.Parameter.VAR_KEYWORD:
            used.add((name, found.name))
            assert found.kind is expected.kind
            assert (name, found.name) in OTHER_THAN_KERAS
            continue
        assert (found.name, found.kind) == (expected.name, expected.kind)
        assert (found.default, type(found.default)) == (expected.default, type(expected.default))
    assert used == {entry for entry in OTHER_THAN_KERAS if entry[0] == name}
    extras = ours[len(theirs) :]
    assert len(ours) >= len(theirs)
    assert {extra.kind for extra in extras} <= {inspect.Parameter.KEYWORD_ONLY}


def test_every_callback_of_keras_is_here() -> None:
    """But for its list of callbacks, which `callbacks=[...]` is."""
    import keras

    theirs = {name for name, kind in vars(keras.callbacks).items() if inspect.isclass(kind)}
    assert theirs - set(fitbus.callbacks.__all__) == {"CallbackList"}
