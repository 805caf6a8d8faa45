"""What can't be sent, or waited for, is refused to the sender, before anything is queued."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import anyio.to_thread
import msgspec
import numpy as np
import pytest

from fitbus import Bus, Control, Pause, SetLearningRate, StopTraining, UnknownControl
from fitbus.control import Applied, Inbox
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec

pytestmark = pytest.mark.anyio

KNOWN = (
    "known are Evaluate, Pause, RestoreCheckpoint, Resume, SaveCheckpoint, ScaleLearningRate,"
    " SetHyperparameter, SetLearningRate, StopEpoch, StopTraining;"
)


class Keyed(Control):
    """One whose author has its key wrong."""

    value: Any

    @property
    def key(self) -> str | None:
        """Whatever it was given, or an error."""
        if isinstance(self.value, Exception):
            raise self.value
        return self.value  # type: ignore[no-any-return]  # that is the test


def refusal(attempt: Callable[[], object]) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        attempt()
    return caught.value


def senders() -> list[tuple[Inbox, Callable[..., object]]]:
    """What controls are sent with, and where they wait."""
    inbox, publisher = Inbox(), Bus().publisher()
    return [(inbox, inbox.post), (publisher.inbox, publisher.post)]


@pytest.mark.parametrize("source", [None, 3, b"me", ["me"]])
def test_a_source_is_a_text(source: Any) -> None:
    for inbox, post in senders():
        error = refusal(lambda post=post: post(Pause(), source))  # type: ignore[misc]
        assert (error.argument, error.found) == ("source", source)
        assert error.allowed == "give a text: who sends the control"
        assert len(inbox) == 0


def test_a_key_that_raises_is_refused() -> None:
    """The sender learns what it raised; nobody else is disturbed."""
    for inbox, post in senders():
        error = refusal(lambda post=post: post(Keyed(KeyError("layer"))))  # type: ignore[misc]
        assert error.argument == "control"
        assert error.allowed == "Keyed.key must be a text or None; it raised KeyError: 'layer'"
        assert isinstance(error.__cause__, KeyError)
        assert len(inbox) == 0
        post(Keyed("layer"))
        assert len(inbox.take()) == 1


@pytest.mark.parametrize("key", [["layer"], {}, 3])
def test_a_key_that_is_no_text_is_refused(key: Any) -> None:
    """Such as one that can't be hashed."""
    for inbox, post in senders():
        error = refusal(lambda post=post: post(Keyed(key)))  # type: ignore[misc]
        assert (error.argument, error.found) == ("Keyed.key", key)
        assert error.allowed == "it must be a text or None"
        assert len(inbox) == 0


def test_what_the_codec_did_not_know_is_refused_with_what_there_is() -> None:
    """The tag decodes to an `UnknownEvent`: nothing says whether it was meant as a control."""
    decoded = Codec().from_json(b'{"type": "Bogus", "value": 1}')
    for unknown in (decoded, UnknownControl("Bogus", {"value": 1})):
        error = refusal(lambda unknown=unknown: Inbox().post(unknown))  # type: ignore[misc]
        assert error.argument == "control"
        assert error.allowed == (
            f"no control is called 'Bogus'; {KNOWN} one of your own has to be given to the Codec"
            " that decodes it: `Codec(YourControl)`"
        )


@pytest.mark.parametrize(
    ("kind", "call"), [(StopTraining, "StopTraining()"), (SetLearningRate, "SetLearningRate(...)")]
)
def test_a_class_is_refused_with_what_was_meant(kind: Any, call: str) -> None:
    assert refusal(lambda: Inbox().post(kind)).allowed == f"give an instance: `{call}`"


@pytest.mark.parametrize("form", ["json", "msgpack"])
def test_update_state_is_refused_by_the_codec_with_the_reason(form: str) -> None:
    """With a function or without: it isn't what is missing."""
    codec = Codec()
    for message in ({"type": "UpdateState"}, {"type": "UpdateState", "fn": "lambda s: s"}):
        data = msgspec.json.encode(message) if form == "json" else msgspec.msgpack.encode(message)
        with pytest.raises(msgspec.ValidationError) as caught:
            (codec.from_json if form == "json" else codec.from_msgpack)(data)
        assert str(caught.value) == (
            "UpdateState can't cross a wire: it works inside its process only"
        )


@pytest.mark.parametrize("timeout", ["a", -1, -0.5, math.nan, True, [1]])
async def test_a_timeout_that_makes_no_sense_is_refused(timeout: Any) -> None:
    """Also of a receipt that is settled, so that it doesn't depend on luck."""
    receipt = Inbox().post(Pause())
    pattern = rf"^timeout: found {re.escape(repr(timeout))}; give seconds, a number of at least 0"
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match=pattern):
            await receipt.wait(timeout)
        with pytest.raises(InvalidArgumentError, match=pattern):
            await anyio.to_thread.run_sync(receipt.result, timeout)
        receipt.settle(Applied(0, 0))


@pytest.mark.parametrize("timeout", [0, 0.0, np.float32(0), np.int64(0)])
async def test_a_timeout_of_no_time_is_one(timeout: Any) -> None:
    """A NumPy number is as good as one of Python's."""
    receipt = Inbox().post(Pause())
    with pytest.raises(TimeoutError):
        await receipt.wait(timeout)
    with pytest.raises(TimeoutError):
        await anyio.to_thread.run_sync(receipt.result, timeout)
    receipt.settle(Applied(0, 0))
    assert await receipt.wait(timeout) == receipt.result(timeout) == Applied(0, 0)


@pytest.mark.parametrize("timeout", [None, math.inf, 1e300])
async def test_a_timeout_beyond_all_bounds_is_none(timeout: float | None) -> None:
    receipt = Inbox().post(Pause())
    got: list[Applied] = []

    async def wait() -> None:
        got.append(await receipt.wait(timeout))

    async def ask() -> None:
        got.append(await anyio.to_thread.run_sync(receipt.result, timeout))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            receipt.settle(Applied(1, 0))
    assert got == [Applied(1, 0)] * 2
