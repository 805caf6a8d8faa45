"""What callbacks add to a training step, measured."""

from __future__ import annotations

import inspect
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import jax
from anyio.lowlevel import current_token

from fitbus.errors import InvalidArgumentError
from fitbus.testing._overhead_results import Overhead, Spread, StepOverhead, SubscriberOverhead
from fitbus.testing._timed import TimedTraining, Times, calibrated

__all__ = ["measure_overhead"]

LEAST_STEPS = 4  # in an epoch
LISTENS = ("attach", "set_model", "__fitbus_handler__")  # a callback's, Keras', a handler's

Callbacks: TypeAlias = Iterable[Any] | Callable[..., Any]


async def measure_overhead(
    callbacks: Callbacks,
    *,
    step_s: float | Sequence[float] = (0.0001, 0.001, 0.01),
    pairs: int = 7,
    train_s: float = 0.25,
    epochs: int = 3,
    name: str | None = None,
) -> Overhead:
    """Measures what callbacks and handlers add to a training step, on this machine and loop.

    For each step time a real network is trained whose jitted step takes about that long here, with
    the callbacks and without, in turn, in this process; each figure is the median, with the
    quartiles, of what the pairs differ by. Fits have several epochs and are validated, so epoch and
    test hooks are called too, and their cost is told apart. With the defaults it takes about half a
    minute. The event loop should have nothing else to do meanwhile.

        async def report(event: fitbus.BatchEnd) -> None: ...

        print(await measure_overhead([report]))

    Args:
        callbacks: What `fit(callbacks=...)` takes: objects and handlers, which are used for one fit
            after another; or a function without arguments that returns them, called for each fit.
            An empty list measures the noise.
        step_s: Seconds that a step should take, one number or several. Where a step can't be as
            short as that, or as long, the nearest that can is measured, and said.
        pairs: How many pairs of fits to count; of fewer than seven the quartiles mean little.
        train_s: Seconds that a fit's steps take, about, without the callbacks. Longer fits have
            less noise. Where callbacks make it more than four times as long, fits get shorter.
        epochs: Epochs of each fit.
        name: What to call it in the results; by default the names of the subscribers.

    Returns:
        What was found, frozen.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range, or a callback is
            refused, as by `fit`.
        FitbusError: The callbacks stop training before its first step.
        Exception: What a callback raised, as itself.
    """
    wanted = _step_times(step_s)
    _whole("pairs", pairs)
    _positive("train_s", train_s)
    _whole("epochs", epochs)
    if name is not None and not isinstance(name, str):
        raise InvalidArgumentError("name", name, "give a text, or leave it out")
    make = _factory(callbacks)
    steps = [await _measured(make, seconds, pairs, train_s, epochs) for seconds in wanted]
    return Overhead(
        name=", ".join(entry.name for entry in steps[0].subscribers) if name is None else name,
        steps=tuple(steps),
        pairs=pairs,
        loop=type(current_token().native_token).__module__.partition(".")[0],
        device=jax.devices()[0].device_kind,
        versions=f"Python {platform.python_version()}, jax {jax.__version__}",
    )


async def _measured(
    make: Callable[[], Any], wanted_s: float, pairs: int, train_s: float, epochs: int
) -> StepOverhead:
    training, bare_s = await calibrated(wanted_s, epochs)
    most = max(LEAST_STEPS, round(train_s / bare_s / epochs))
    steps = await _steps_per_epoch(training, make, most, train_s, epochs)
    without: list[Times] = []
    having: list[Times] = []
    for number in range(pairs):
        # Each is first as often as second: what drifts hits both alike.
        for has in (False, True) if number % 2 == 0 else (True, False):
            (having if has else without).append(await training.fit(make() if has else [], steps))
    both = list(zip(having, without, strict=True))
    return StepOverhead(
        asked_s=wanted_s,
        step_s=statistics.median(times.step_s for times in without),
        added_s=Spread.of([a.step_s - b.step_s for a, b in both]),
        ratio=Spread.of([a.step_s / b.step_s for a, b in both]),
        epoch_s=Spread.of([a.epoch_s - b.epoch_s for a, b in both]),
        fit_s=Spread.of([a.fit_s - b.fit_s for a, b in both]),
        steps=sum(times.steps for times in having),
        subscribers=_summed(having),
    )


async def _steps_per_epoch(
    training: TimedTraining, make: Callable[[], Any], most: int, train_s: float, epochs: int
) -> int:
    """So many at most, but fewer for slow callbacks. Warms these up, too."""
    steps = LEAST_STEPS
    while True:  # short ones first: a callback may take a second a step
        found_s = (await training.fit(make(), steps)).step_s
        if steps == most or found_s * steps * epochs > train_s / 4:
            break
        steps = min(most, steps * 4)
    return max(LEAST_STEPS, min(most, int(4 * train_s / found_s / epochs)))


def _summed(fits: Sequence[Times]) -> tuple[SubscriberOverhead, ...]:
    """By name; of several with one name in one fit, the first, the second and so on."""
    sums: dict[tuple[str, int], list[float]] = {}
    for times in fits:
        seen: dict[str, int] = {}
        for entry in times.subscribers:
            seen[entry.name] = seen.get(entry.name, 0) + 1
            lost = entry.dropped + entry.undelivered
            values = (entry.delivered, lost, entry.seconds, entry.held_s)
            had = sums.setdefault((entry.name, seen[entry.name]), [0, 0, 0.0, 0.0])
            sums[entry.name, seen[entry.name]] = [a + b for a, b in zip(had, values, strict=True)]
    return tuple(
        SubscriberOverhead(name, int(delivered), int(dropped), seconds, held_s)
        for (name, _), (delivered, dropped, seconds, held_s) in sums.items()
    )


def _factory(callbacks: Any) -> Callable[[], Any]:
    """What gives the callbacks of one fit: a function without arguments is called for them."""
    if callbacks is None or isinstance(callbacks, type):
        raise InvalidArgumentError(
            "callbacks", callbacks, "give callbacks and handlers, or a function that returns them"
        )
    if callable(callbacks) and not any(hasattr(callbacks, mark) for mark in LISTENS):
        try:
            inspect.signature(callbacks).bind()
        except (TypeError, ValueError):
            pass  # it takes an event: a handler
        else:
            factory: Callable[[], Any] = callbacks
            return factory
    kept = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    return lambda: kept


def _step_times(step_s: Any) -> list[float]:
    wanted: list[Any] = list(step_s) if isinstance(step_s, Iterable) else [step_s]
    if not wanted:
        raise InvalidArgumentError("step_s", step_s, "give at least one number of seconds")
    for seconds in wanted:
        _positive("step_s", seconds)
    return [float(seconds) for seconds in wanted]


def _positive(argument: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise InvalidArgumentError(argument, value, "give seconds, a number above 0")


def _whole(argument: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidArgumentError(argument, value, "give a whole number of at least 1")
