"""Events and controls of users' own: valid from construction, by their annotations.

Scenario 40.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from fitbus import Bus, Codec, Control, Event, StopTraining
from fitbus.errors import InvalidArgumentError


class Mood(enum.Enum):
    GOOD = 1


@dataclasses.dataclass
class Point:
    x: float


class FinePoint(Point):
    pass


class Measured(Event):
    v: float


class Rated(Event):
    n: int = 0
    flag: bool = False
    name: str = ""
    values: list[float] = msgspec.field(default_factory=list)
    table: dict[str, float] = msgspec.field(default_factory=dict)
    nested: dict[str, list[int]] | None = None
    pair: tuple[float, int] = (0.0, 0)
    kind: Literal["a", "b"] = "a"
    share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    mood: Mood = Mood.GOOD
    point: Point | None = None
    points: list[Point] = msgspec.field(default_factory=list)
    array: np.ndarray[Any, Any] | None = None
    control: Control | None = None
    call: Callable[[int], int] | None = None
    names: Mapping[str, float] | None = None
    anything: Any = None
    odd: int | np.ndarray[Any, Any] | Point = 0  # msgspec can't tell these apart


class Freeze(Control):
    rate: float
    layers: tuple[int, ...] = ()


class Halves(Event):
    v: float
    half: float = 0.0

    def __post_init__(self) -> None:
        if self.v < 0:
            raise ValueError("below 0")
        msgspec.structs.force_setattr(self, "half", self.v / 2)


class Deeper(Halves):
    depth: int = 0


class Deepest(Deeper):
    def __post_init__(self) -> None:
        super().__post_init__()
        msgspec.structs.force_setattr(self, "depth", self.depth + 1)


@pytest.mark.parametrize(
    ("make", "field", "found", "allowed"),
    [
        (Measured, "v", "x", "expected `float`, got `str`"),
        (Measured, "v", True, "expected `float`, got `bool`"),
        (Measured, "v", None, "expected `float`, got `null`"),
        (Rated, "n", 1.5, "expected `int`, got `float`"),
        (Rated, "flag", 1, "expected `bool`, got `int`"),
        (Rated, "name", b"x", "expected `str`, got `bytes`"),
        (Rated, "values", [1.0, "x"], "expected `float`, got `str` - at `$[1]`"),
        (Rated, "table", {"a": None}, "expected `float`, got `null` - at `$[...]`"),
        (Rated, "nested", {"a": [0.5]}, "expected `int`, got `float` - at `$[...][0]`"),
        (Rated, "pair", (1.0,), "expected `array` of length 2, got 1"),
        (Rated, "kind", "c", "invalid enum value 'c'"),
        (Rated, "share", 2.0, "expected `float` <= 1.0"),
        (Rated, "mood", 1, "expected `Mood`, got `int`"),
        (Rated, "point", {"x": 1.0}, "expected `Point`, got `dict`"),
        (Rated, "points", [3], "expected `Point`, got `int` - at `$[0]`"),
        (Rated, "array", [1.0], "expected `ndarray`, got `list`"),
        (Rated, "control", 3, "expected `Control`, got `int`"),
        (Rated, "call", 3, "expected `Callable`, got `int`"),
        (Rated, "names", 3, "expected `Mapping`, got `int`"),
        (Freeze, "rate", "x", "expected `float`, got `str`"),
        (Freeze, "layers", 3, "expected `array`, got `int`"),
        (Halves, "v", "x", "expected `float`, got `str`"),
        (Deeper, "v", "x", "expected `float`, got `str`"),
        (Deepest, "depth", "x", "expected `int`, got `str`"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    make: Callable[..., Any], field: str, found: Any, allowed: str
) -> None:
    """Before a `__post_init__` of the type's own sees it."""
    needed = {Freeze: {"rate": 0.1}, Deepest: {"v": 1.0}}.get(make, {})  # type: ignore[call-overload]  # a table
    with pytest.raises(InvalidArgumentError) as raised:
        make(**{**needed, field: found})
    error = raised.value
    assert error.argument == f"{make.__name__}.{field}"
    assert error.found is found
    assert error.allowed == allowed


@pytest.mark.parametrize(
    "number", [np.float32(0.5), np.float64(0.5), np.array(0.5), jnp.float32(0.5)]
)
def test_scalars_of_other_libraries_become_plain_numbers(number: Any) -> None:
    """In lists and maps too."""
    given: dict[str, Any] = {
        "n": np.int64(3),
        "flag": np.bool_(True),
        "values": [number, 1, 2.0],
        "table": {"a": number},
        "nested": {"a": [np.int32(7)]},
        "pair": (number, np.int8(1)),
        "share": number,
    }
    rated = Rated(**given)
    plain = Rated(
        n=3, flag=True, values=[0.5, 1.0, 2.0], table={"a": 0.5}, nested={"a": [7]}, pair=(0.5, 1),
        share=0.5,
    )  # fmt: skip
    assert repr(rated) == repr(plain)
    assert type(Measured(v=number).v) is type(Freeze(number).rate) is float
    layers: Any = (np.int64(2), 3)
    assert repr(Freeze(1, layers)) == "Freeze(rate=1.0, layers=(2, 3))"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mood", Mood.GOOD),
        ("point", FinePoint(1.0)),
        ("array", np.zeros(2)),
        ("control", StopTraining()),
        ("call", abs),
        ("names", {"a": 1.0}),
        ("anything", np.float32(1)),
        ("odd", np.zeros(2)),
        ("odd", "let be"),
    ],
)
def test_an_instance_is_kept_as_it_is(field: str, value: Any) -> None:
    assert getattr(Rated(**{field: value}), field) is value


def test_an_array_becomes_a_list_where_the_type_says_so() -> None:
    array: Any = np.array([0.5, 1])
    assert repr(Rated(values=array).values) == "[0.5, 1.0]"


def test_instances_in_a_list_are_kept() -> None:
    points: list[Point] = [Point(1.0), FinePoint(2.0)]
    assert all(a is b for a, b in zip(Rated(points=points).points, points, strict=True))


def test_a_post_init_of_ones_own_is_called_once_with_plain_values() -> None:
    """Inherited, or calling its base class' own."""
    halves = Halves(v=np.float32(3))  # type: ignore[arg-type]  # on purpose
    assert (halves.half, type(halves.half)) == (1.5, float)
    assert Deeper(v=3).half == 1.5
    assert (Deepest(v=3).half, Deepest(v=3).depth) == (1.5, 1)
    for kind in (Halves, Deeper, Deepest):
        with pytest.raises(ValueError, match="below 0"):
            kind(v=-1.0)


def test_a_type_whose_annotations_cannot_be_resolved_is_let_be() -> None:
    class Local:
        """Only known here."""

    class Odd(Event):
        v: Local
        n: int = 0

    assert Odd(v=3, n="x").n == "x"  # type: ignore[arg-type, comparison-overlap]  # on purpose
    with pytest.raises(InvalidArgumentError, match=r"Odd\.seq: found -5"):
        Odd(v=Local(), seq=-5)


def test_a_copy_is_not_checked_again_and_a_replaced_value_is() -> None:
    event = Measured(v=1.0)
    msgspec.structs.force_setattr(event, "v", "x")
    assert msgspec.structs.asdict(copy.copy(event))["v"] == "x"
    with pytest.raises(InvalidArgumentError, match=r"Measured\.v: found 'x'"):
        msgspec.structs.replace(event, step=1)
    bus = Bus()
    publisher = bus.publisher()
    publisher.publish(event)
    publisher.publish(event)  # copied, for it has been published
    publisher.close()


@pytest.mark.parametrize("message", [Measured(v=2.0), Freeze(0.5, (1, 2))])
def test_they_come_back_from_the_codec(message: Event | Control) -> None:
    codec = Codec(Measured, Freeze)
    assert codec.from_json(codec.to_json(message)) == message
    assert codec.from_msgpack(codec.to_msgpack(message)) == message
