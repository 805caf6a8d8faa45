"""Callbacks, handlers and factories, named on a command line. Internal."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from fitbus.bus import Bus
from fitbus.errors import FitbusError, InvalidArgumentError
from fitbus.events import Event

__all__ = ["Maker", "MistakeError", "maker", "named"]

Maker: TypeAlias = Callable[[], Any]
LISTENS = ("attach", "set_model")  # a callback's, Keras'


class MistakeError(Exception):
    """The user's: says in a sentence what was found, and what to do."""


def maker(spec: str) -> Maker:
    """What gives the callbacks of one fit.

    Args:
        spec: `MODULE:NAME` or `path/to/file.py:NAME` of a `Callback` class, which is made without
            arguments for each fit; of a callback or a handler, or a list of them; or of a function
            without parameters that returns them, called for each fit.

    Raises:
        MistakeError: It names nothing of the kind. What it returns raises that too, for what a
            function gave.
        Exception: What the module raised while it was imported.
    """
    found = named(spec, "a callback or a handler")
    if isinstance(found, type):
        if issubclass(found, Event):
            raise MistakeError(f"{spec!r} is an event type; name a function that takes one")
        _check_constructed(spec, found)
    if isinstance(found, type) or _is_factory(found):
        return lambda: _checked(spec, found())
    _checked(spec, found)
    return lambda: found


def named(spec: str, kind: str) -> Any:
    """What `MODULE:NAME` or `path/to/file.py:NAME` names.

    Args:
        spec: That.
        kind: What it should be, for messages.

    Raises:
        MistakeError: It names nothing.
        Exception: What the module raised while it was imported.
    """
    where, _, name = spec.rpartition(":")
    is_file = where.endswith(".py")
    if not where or not name or (where.startswith(".") and not is_file):
        raise MistakeError(f"{spec!r} names no object; write MODULE:NAME, or path/to/file.py:NAME")
    module = _file(spec, where) if is_file else _module(spec, where)
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        public = ", ".join(n for n, v in vars(module).items() if _may_be_meant(n, v, module))
        hint = f"it has {public}" if public else f"nothing in it is {kind}"
        raise MistakeError(f"{spec!r}: {where} has no {name!r}; {hint}") from None


def _module(spec: str, where: str) -> Any:
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
            raise  # something that the module itself needs
        raise MistakeError(
            f"{spec!r}: there is no module {error.name!r} on the path or in {Path.cwd()}; run this"
            " where it lies, or write path/to/file.py:NAME"
        ) from None


def _file(spec: str, where: str) -> Any:
    path = Path(where).resolve()
    if not path.is_file():
        raise MistakeError(f"{spec!r}: there is no file {path}; check the path")
    # Its annotations are resolved by its name; one that another module has is left to that.
    name = path.stem if path.stem not in sys.modules else f"fitbus bench {path}"
    if name in sys.modules:
        return sys.modules[name]
    sys.path.insert(0, str(path.parent))  # as if it were run
    loading = importlib.util.spec_from_file_location(name, path)
    if loading is None or loading.loader is None:
        raise MistakeError(f"{spec!r}: {path} can't be imported; name a Python file")
    module = importlib.util.module_from_spec(loading)
    sys.modules[name] = module
    loading.loader.exec_module(module)
    return module


def _check_constructed(spec: str, found: type) -> None:
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise MistakeError(
            f"{spec!r}: {found.__name__} can't be made without arguments ({error}); name a function"
            f" that returns one, such as `def mine(): return {found.__name__}(...)`"
        ) from None
    if not any(hasattr(found, mark) for mark in LISTENS) and "__call__" not in dir(found):
        raise MistakeError(f"{spec!r} is a class of neither callbacks nor handlers")


def _is_factory(found: Any) -> bool:
    """Whether it is a function without parameters: one with an event is a handler."""
    return inspect.isroutine(found) and not inspect.signature(found).parameters


def _checked(spec: str, found: Any) -> Any:
    """The same, if `fit` would take it."""
    for item in found if isinstance(found, list | tuple) else [found]:
        if isinstance(item, list | tuple):
            _checked(spec, item)
        elif isinstance(item, type):
            raise MistakeError(f"{spec!r} gives the class {item.__name__}; give an object of it")
        elif not any(hasattr(item, mark) for mark in LISTENS):
            if not callable(item):
                raise MistakeError(
                    f"{spec!r} is {type(item).__name__} {item!r:.60}; name a callback, a handler,"
                    " or a function or list that gives them"
                )
            try:
                Bus().add(item)
            except FitbusError as error:
                raise MistakeError(f"{spec!r} can't be a handler: {_why(error)}") from None
    return found


def _why(error: FitbusError) -> str:
    return error.allowed if isinstance(error, InvalidArgumentError) else str(error)


def _may_be_meant(name: str, value: Any, module: Any) -> bool:
    own = getattr(value, "__module__", None) == module.__name__
    return own and callable(value) and not name.startswith("_")
