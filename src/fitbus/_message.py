"""What events and controls share: frozen structs with a tag that tells their type. Internal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from msgspec import StructMeta

from fitbus._checks import check_envelope
from fitbus._fields import with_checks

__all__ = ["KeywordMessageMeta", "MessageMeta", "tag_of"]

# Types of these packages are tagged by their bare name; a user's type by its module and qualified
# name, so that two types of one name stay two.
_OWN = ("fitbus.events.", "fitbus.control.")


class MessageMeta(StructMeta):
    """Makes every subclass a frozen struct with a tag of its own, without asking its author to.

    Fields of a user's type are checked by their annotations; fitbus' own types, of which some are
    made for every step, check theirs by hand.
    """

    check_base: ClassVar[Callable[[Any], object] | None] = None

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any
    ) -> Any:
        """Creates the class; `frozen`, `tag` and `tag_field` are set unless given."""
        module: str = namespace["__module__"]
        own = f"{module}.".startswith(_OWN)
        config.setdefault("tag", name if own else f"{module}.{namespace['__qualname__']}")
        config.setdefault("tag_field", "type")
        config.setdefault("frozen", True)
        made = None if own else with_checks(namespace, mcls.check_base)
        kind = super().__new__(mcls, name, bases, namespace, **config)
        if made is not None:
            made(kind)
        return kind


@dataclass_transform(frozen_default=True, kw_only_default=True)
class KeywordMessageMeta(MessageMeta):
    """The same for types whose fields are given by keyword only: events."""

    check_base: ClassVar[Callable[[Any], object] | None] = staticmethod(check_envelope)

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **config: Any
    ) -> Any:
        """Creates the class with keyword-only fields unless told otherwise."""
        config.setdefault("kw_only", True)
        return super().__new__(mcls, name, bases, namespace, **config)


def tag_of(kind: type) -> str:
    """The tag under which a type is encoded: `BatchEnd`, or `package.module.Own` for a user's."""
    tag = kind.__struct_config__.tag  # type: ignore[attr-defined]  # msgspec sets it on structs
    assert isinstance(tag, str)
    return tag
