"""What a client may start: named functions of the application, with checked parameters."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final, get_type_hints

import msgspec

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError
from fitbus.events import Event
from fitbus.process import ProcessRun
from fitbus.train import Training

__all__ = ["Factory"]


@final
@dataclasses.dataclass(frozen=True)
class Factory:
    """A function that makes a `Training`, and the parameters that clients may give it.

    Attributes:
        name: Under which clients know it.
        make: The function.
        parameters: Their type, made from its signature.
    """

    name: str
    make: Callable[..., Training]
    parameters: type[msgspec.Struct]

    @classmethod
    def of(cls, name: str, make: Callable[..., Training]) -> Factory:
        """Looks at a function's signature.

        Raises:
            InvalidArgumentError: A parameter has no annotation, or one that can't be checked.
        """
        if not callable(make):
            raise InvalidArgumentError(f"factories[{name!r}]", make, "give a function")
        hints = get_type_hints(make, include_extras=True)
        fields: list[Any] = []
        for parameter in inspect.signature(make).parameters.values():
            where = f"factories[{name!r}], parameter {parameter.name!r}"
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise InvalidArgumentError(where, str(parameter), "name each parameter")
            if parameter.kind is parameter.POSITIONAL_ONLY:
                raise InvalidArgumentError(where, str(parameter), "let it be given by name")
            if parameter.name not in hints:
                raise InvalidArgumentError(where, "no annotation", "give it one, such as `: int`")
            default = parameter.default
            entry = (parameter.name, hints[parameter.name])
            fields.append(entry if default is parameter.empty else (*entry, default))
        try:
            kind = msgspec.defstruct(name, fields, forbid_unknown_fields=True, kw_only=True)
            msgspec.json.schema(kind)
        except TypeError as error:
            raise InvalidArgumentError(
                f"factories[{name!r}]", make, f"its annotations can't be checked: {error}"
            ) from error
        return cls(name, make, kind)

    def checked(self, given: Any) -> dict[str, Any]:
        """The parameters that a client gave, checked; raises `msgspec.ValidationError`."""
        return msgspec.structs.asdict(msgspec.convert(given, self.parameters))

    def in_process(
        self, given: Mapping[str, Any], id: str, user_types: Sequence[type[Event | Control]]
    ) -> ProcessRun:
        """A run that makes one, and trains it, in a process of its own."""
        return ProcessRun(self.make, parameters=given, run_id=id, user_types=user_types)

    def __call__(self, given: Mapping[str, Any]) -> Training:
        """Makes one, in a worker thread."""
        made: object = self.make(**given)
        if not isinstance(made, Training):
            raise InvalidArgumentError(
                f"factories[{self.name!r}]", made, "let it return a fitbus.service.Training"
            )
        return made
