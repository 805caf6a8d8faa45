"""Calls of Keras' own within one that a callback is in."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["calls_under_way", "ignore_call"]

_CALLS = ("fit", "evaluate", "predict")
_ENDS = ("on_train_end", "on_test_end", "on_predict_end")


def calls_under_way() -> int:
    """How many calls of Keras' `fit`, `evaluate` and `predict` the current thread is in."""
    found, frame = 0, inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in _CALLS:
            found += str(frame.f_globals.get("__name__")).startswith("keras.src.")
        frame = frame.f_back
    return found


def ignore_call(callback: Any, depth: int) -> None:
    """Keeps a callback from the call that is about to begin, within one that it is in.

    Args:
        callback: The callback, in its `set_params`.
        depth: The calls that were under way when its own began.
    """
    inner = calls_under_way()
    names = [n for n in dir(type(callback)) if n.startswith("on_")]
    attributes = vars(callback)

    def ignored(name: str) -> Any:
        def called(*args: Any, **options: Any) -> None:
            now = calls_under_way()
            if now <= depth or (now == inner and name in _ENDS):
                for other in ("set_model", *names):
                    attributes.pop(other, None)
            if now <= depth:  # the other one has failed
                getattr(callback, name)(*args, **options)

        return called

    for name in ("set_model", *names):
        attributes[name] = ignored(name)
