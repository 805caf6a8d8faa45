"""What `help()` tells: each argument, and which methods aren't for everybody."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from fitbus import Run, Trainer


@pytest.mark.parametrize("method", [Trainer.fit, Trainer.evaluate, Trainer.predict])
def test_each_argument_is_told_where_it_is_taken(method: Any) -> None:
    """In full: not by the name of another method."""
    text = inspect.getdoc(method) or ""
    for name in inspect.signature(method).parameters:
        if name != "self":
            assert re.search(rf"^    {name}: (?!As in)\w", text, re.MULTILINE), name


@pytest.mark.parametrize(
    ("name", "users"),
    [
        ("attach_subscription", "callbacks"),
        ("carries", "the bus"),
        ("end_streams", "the trainer"),
        ("ended_id", "`wait_for`"),
        ("make_stream", "`subscribe`"),
    ],
)
def test_what_is_for_other_parts_says_so(name: str, users: str) -> None:
    assert (inspect.getdoc(getattr(Run, name)) or "").startswith(f"For {users}: ")


def test_so_do_the_attributes() -> None:
    text = inspect.getdoc(Run) or ""
    for name, users in (
        ("inbox", "for the trainer"),
        ("driver", "for the trainer"),
        ("open_logs", "set by callbacks"),
    ):
        assert re.search(rf"^    {name}: .*{users}", text, re.MULTILINE), name
