"""Checks of the fields of messages that users define, by msgspec's own reading of their types."""

from __future__ import annotations

import functools
import operator
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import msgspec

from fitbus._checks import plain_number, set_field
from fitbus.errors import InvalidArgumentError

__all__ = ["with_checks"]

# What msgspec looks into. Of any other class an instance will do, and is kept as it is.
_LOOKED_INTO = frozenset(
    {Any, object, int, float, str, bool, type(None), list, dict, tuple, set, frozenset}
)
_EXACT = frozenset({int, float, str, bool})

_NOTHING = object()  # only where anything goes this does too: nothing is to be checked there

_Plan: TypeAlias = tuple[tuple[str, Any, Any], ...]


def with_checks(
    namespace: dict[str, Any], check_base: Callable[[Any], object] | None
) -> Callable[[type], None]:
    """Puts a `__post_init__` into the namespace of a class of messages that checks all fields.

    It calls the class' own one after that, or the inherited one. Called for what is constructed or
    decoded, not for copies.

    Args:
        namespace: The namespace of the class, before that exists.
        check_base: What else has to be checked, whatever the class does.

    Returns:
        What has to be called with the class.
    """
    own: Callable[[Any], object] | None = namespace.get("__post_init__")
    made: list[type] = []
    plans: list[_Plan] = []

    def __post_init__(self: Any) -> None:  # noqa: N807  # that is its name
        kind = made[0]
        if type(self) is kind:  # else a subclass has done it
            if not plans:  # now forward references can be resolved
                plans.append(_plan(kind))
            _check(self, plans[0])
            if check_base is not None:
                check_base(self)
        if own is not None:
            own(self)
        elif (inherited := getattr(super(kind, self), "__post_init__", None)) is not None:
            inherited()

    if own is not None:
        functools.update_wrapper(__post_init__, own)
    namespace["__post_init__"] = __post_init__
    return made.append


def _plan(kind: type) -> _Plan:
    """Names and types of the fields; none of types that can't be resolved, or checked."""
    try:
        fields = msgspec.structs.fields(kind)
    except Exception:  # noqa: BLE001  # annotations are evaluated, and may raise anything
        return ()
    plan: list[tuple[str, Any, Any]] = []
    for field in fields:
        checked: Any = None
        try:
            checked = _opaque(field.type)
            msgspec.convert(_NOTHING, checked)
        except msgspec.ValidationError:
            exact = isinstance(checked, type) and checked in _EXACT
            plan.append((field.name, checked, checked if exact else None))
        except Exception:  # noqa: BLE001, S112  # a type that msgspec can't check, nor decode
            continue
    return tuple(plan)


def _check(message: Any, plan: _Plan) -> None:
    for name, kind, exact in plan:
        found: Any = getattr(message, name)
        if type(found) is exact:
            continue
        try:
            value = msgspec.convert(found, kind)
        except msgspec.ValidationError:
            try:
                value = msgspec.convert(_plain(found), kind)
            except msgspec.ValidationError as error:
                why = str(error)
                raise InvalidArgumentError(
                    f"{type(message).__name__}.{name}", found, f"{why[0].lower()}{why[1:]}"
                ) from None
        set_field(message, name, value)


def _plain(value: Any) -> Any:
    """Scalars and arrays of other libraries as numbers and lists, in what msgspec looks into."""
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_plain(item) for item in value)
    if hasattr(value, "tolist") and getattr(value, "shape", ()) != ():
        return value.tolist()
    return plain_number(value)


def _opaque(kind: Any) -> Any:
    """A type in which classes that msgspec would take apart are ones that it asks for instances."""
    origin = typing.get_origin(kind)
    arguments = typing.get_args(kind)
    if origin is Annotated:
        return Annotated[_opaque(arguments[0]), *kind.__metadata__]
    if origin in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, map(_opaque, arguments))
    if origin in _LOOKED_INTO:
        return typing.cast("Any", origin)[tuple(a if a is ... else _opaque(a) for a in arguments)]
    known = origin or kind
    if not isinstance(known, type) or known in _LOOKED_INTO:
        return kind

    class Meta(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, known)

    return Meta(known.__name__, (), {})
