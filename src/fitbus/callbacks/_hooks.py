"""Which hook is called for which event, with what; and whether a method can be one."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Callable
from typing import Any

from fitbus.bus import Hook, is_coroutine_function
from fitbus.control import Control
from fitbus.errors import InvalidHandlerError
from fitbus.events import (
    BatchBegin,
    BatchEnd,
    EpochBegin,
    EpochEnd,
    Event,
    PredictBatchBegin,
    PredictBatchEnd,
    PredictBegin,
    PredictEnd,
    TestBatchBegin,
    TestBatchEnd,
    TestBegin,
    TestEnd,
    TrainBegin,
    TrainEnd,
    is_rare,
)

__all__ = ["HOOKS", "hook", "warn_of_misspelt"]

_logger = logging.getLogger("fitbus")

HOOKS: dict[type[Event], tuple[str, ...]] = {
    TrainBegin: ("on_train_begin",),
    TrainEnd: ("on_train_end",),
    EpochBegin: ("on_epoch_begin",),
    EpochEnd: ("on_epoch_end",),
    BatchBegin: ("on_train_batch_begin", "on_batch_begin"),
    BatchEnd: ("on_train_batch_end", "on_batch_end"),
    TestBegin: ("on_test_begin",),
    TestEnd: ("on_test_end",),
    TestBatchBegin: ("on_test_batch_begin",),
    TestBatchEnd: ("on_test_batch_end",),
    PredictBegin: ("on_predict_begin",),
    PredictEnd: ("on_predict_end",),
    PredictBatchBegin: ("on_predict_batch_begin",),
    PredictBatchEnd: ("on_predict_batch_end",),
}

_CLOSE = 0.85  # `on_epochend` is, `on_epoch_saved` isn't quite


def hook(kind: type[Event], function: Callable[..., Any], owner: str, name: str) -> Hook:
    """Calls a method with what Keras gives it: an index where there is one, and the logs.

    Args:
        kind: The type of event for which it is called.
        function: The method.
        owner: Whose it is, and
        name: what it is called, for messages.

    Raises:
        InvalidHandlerError: It can't be called with these.
    """
    is_async = is_coroutine_function(function)
    index = (
        "epoch"
        if kind in (EpochBegin, EpochEnd)
        else "batch"
        if "batch" in kind.__struct_fields__
        else None
    )
    _check_signature(function, owner, name, index)

    def called(event: Any, logs: dict[str, Any]) -> Any:
        if isinstance(event, PredictBatchEnd):
            logs.setdefault("outputs", event.outputs)
        return function(logs) if index is None else function(getattr(event, index), logs)

    def shared(event: Any, logs: dict[str, Any]) -> Any:
        return _meant(called(event, logs))

    async def alone(event: Any) -> Any:
        return _meant(await called(event, dict(getattr(event, "logs", ()))))

    return Hook(
        alone if is_async else shared,
        is_async=is_async,
        wait=not is_async or is_rare(kind),
        shares_logs=not is_async,
    )


def _meant(result: object) -> object:
    """What a hook returned, if there are controls in it: all else is ignored, as Keras does.

    What was surely meant to act (a class of controls, a control beside other things, a coroutine
    that nobody awaits) is left to be refused.
    """
    if result is None:
        return None
    for item in result if isinstance(result, list | tuple) else (result,):
        if isinstance(item, Control) or inspect.iscoroutine(item):
            return result
        if isinstance(item, type) and issubclass(item, Control):
            return result
    return None


def _check_signature(
    function: Callable[..., Any], owner: str, name: str, index: str | None
) -> None:
    bound = inspect.ismethod(function)
    given = [*(["self"] if bound else []), *([] if index is None else [index]), "logs"]
    found: object = function
    try:
        signature = inspect.signature(function.__func__ if inspect.ismethod(function) else function)
        found = str(signature)
        signature.bind(*given)
    except ValueError:  # written in C, without saying what it takes
        return
    except TypeError:
        asynchronous = "async " if is_coroutine_function(function) else ""
        raise InvalidHandlerError(
            f"{owner}.{name}",
            found,
            f"it must be `{asynchronous}def {name}({', '.join(given)}=None)`, or take as much",
        ) from None


def warn_of_misspelt(callback: object, is_free: Callable[[str], bool]) -> None:
    """Logs a warning of each method that looks like a hook, isn't one, and so is never called.

    Args:
        callback: The object.
        is_free: Whether the object has no hook of that name.
    """
    hooks = [name for names in HOOKS.values() for name in names]
    for name in sorted({*dir(type(callback)), *vars(callback)}):
        if not name.startswith("on_") or name in hooks:
            continue
        if isinstance(inspect.getattr_static(callback, name), property):
            continue  # not to be asked for by others
        likely = name.lower().replace("start", "begin")
        meant = difflib.get_close_matches(likely, hooks, 1, _CLOSE)
        if meant and callable(getattr(callback, name)) and is_free(meant[0]):
            _logger.warning(
                "%s.%s is no hook, and is never called; did you mean %s?",
                type(callback).__name__,
                name,
                meant[0],
            )
