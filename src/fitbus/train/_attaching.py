"""What `callbacks=[...]` may hold, and how each finds its way into a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fitbus._lists import flattened
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event

if TYPE_CHECKING:
    from fitbus.train._run import Run

__all__ = ["attach", "attach_all"]


def attach(run: Run[Any], callback: Any) -> None:
    """Attaches a callback object or a handler.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if isinstance(callback, type) and issubclass(callback, Event):
        raise InvalidArgumentError(
            "callbacks", callback, "an event type doesn't listen; give a function that takes one"
        )
    if isinstance(callback, type):
        raise InvalidArgumentError(
            "callbacks", callback, f"give an instance: {callback.__name__}()"
        )
    if callable(attach_to := getattr(callback, "attach", None)):
        attach_to(run)
    elif callable(getattr(callback, "set_model", None)):
        import fitbus  # the front door knows who can deal with objects of Keras

        for part in _parts(callback):
            fitbus.keras.KerasCallback(part).attach(run)
    elif callable(callback):
        run.add(callback)
    else:
        raise InvalidArgumentError(
            "callbacks", callback, "give Callback objects, handlers, or lists of them"
        )


def attach_all(run: Run[Any], callbacks: Iterable[Any] | None, *, verbose: int = 0) -> None:
    """Attaches what `callbacks=[...]` holds, in order, and a progress bar last; or nothing.

    A progress bar only if `verbose` asks for one, and none is in the list already, as in Keras.
    """
    run.driver.verbose = verbose
    before = run.bus.subscriptions
    given = list(flattened(callbacks))
    try:
        for callback in given:
            attach(run, callback)
        if verbose and not any(_shows_progress(part) for one in given for part in _parts(one)):
            import fitbus  # the front door knows where the progress bar is

            attach(run, fitbus.callbacks.ProgressBar(live=verbose == 1))
    except BaseException:
        for subscription in run.bus.subscriptions:
            if subscription.run == run.id and subscription not in before:
                subscription.cancel()  # nobody will ever start the run
        raise


def _shows_progress(callback: Any) -> bool:
    """Whether it is a progress bar, fitbus' or Keras' own."""
    return type(callback).__name__ in ("ProgressBar", "ProgbarLogger")


def _parts(callback: Any) -> Iterator[Any]:
    """What is in a `keras.callbacks.CallbackList`, or else the object itself."""
    parts = getattr(callback, "callbacks", None)
    if isinstance(parts, list) and type(callback).__name__ == "CallbackList":
        yield from parts
    else:
        yield callback
