"""What may come into an inbox, and what to say of the rest."""

from __future__ import annotations

from typing import Any

from fitbus.control import _messages
from fitbus.control._messages import Control, UnknownControl
from fitbus.errors import InvalidArgumentError

__all__ = ["checked_key"]


def checked_key(control: object, source: object) -> str | None:
    """What a control sets, once it and its source have proved fit to be sent.

    Raises:
        InvalidArgumentError: They aren't; the sender is told, and no run is disturbed.
    """
    if not isinstance(control, Control):
        raise InvalidArgumentError("control", control, _instead_of(control))
    if isinstance(control, UnknownControl):
        raise InvalidArgumentError("control", control, _no_control_is_called(control.tag))
    if not isinstance(source, str):
        raise InvalidArgumentError("source", source, "give a text: who sends the control")
    kind = type(control).__name__
    try:
        key: object = control.key
    except Exception as error:
        raise InvalidArgumentError(
            "control",
            control,
            f"{kind}.key must be a text or None; it raised {type(error).__name__}: {error}",
        ) from error
    if key is not None and not isinstance(key, str):
        raise InvalidArgumentError(f"{kind}.key", key, "it must be a text or None")
    return key


def _no_control_is_called(tag: str) -> str:
    """Says that no control has a tag, and which ones there are."""
    kinds = [getattr(_messages, name) for name in _messages.__all__]
    known = ", ".join(
        kind.__name__
        for kind in kinds
        if kind not in (Control, UnknownControl) and kind.crosses_processes
    )
    return (
        f"no control is called {tag!r}; known are {known}; one of your own has to be given to the"
        " Codec that decodes it: `Codec(YourControl)`"
    )


def _instead_of(value: object) -> str:
    """What to give instead of something that is no control."""
    if isinstance(value, type) and issubclass(value, Control):
        return f"give an instance: `{value.__name__}{_arguments(value)}`"
    # An UnknownEvent, which the codec makes of every tag that it doesn't know. Events are no
    # business of this package, so it is told by what it looks like.
    tag: Any = getattr(value, "tag", None)
    if isinstance(tag, str) and isinstance(getattr(value, "fields", None), dict):
        return _no_control_is_called(tag)
    return "give a Control, such as StopTraining() or SetLearningRate(1e-3)"


def _arguments(kind: type[Control]) -> str:
    return "()" if len(kind.__struct_fields__) == len(kind.__struct_defaults__) else "(...)"
