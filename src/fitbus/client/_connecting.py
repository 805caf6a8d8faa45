"""How a client gets at a run."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Collection

import anyio

from fitbus._checks import check_timeout
from fitbus.client._line import Line
from fitbus.client._remote import RemoteRun
from fitbus.control import Control
from fitbus.errors import InvalidArgumentError, RunEndedError, ServiceError
from fitbus.events import Codec, Event

__all__ = ["connect"]

# What a client needs of each run, whatever else it asks for.
_NEEDED = ("TrainBegin", "TrainEnd", "ControlApplied", "ControlRejected", "RunPaused", "RunResumed")


@contextlib.asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    types: Collection[type[Event]] = (),
    every_s: float = 0.0,
    after: int | None = None,
    user_types: Collection[type[Event | Control]] = (),
    retain: int = 10_000,
    reconnect_s: float = 60.0,
) -> AsyncGenerator[RemoteRun]:
    """Watches and steers a run of a service, from another process or machine.

        async with fitbus.client.connect("http://127.0.0.1:8000/runs/ID", token=token) as run:
            async with run.subscribe(EpochEnd) as events:
                async for event in events: ...
            await run.send(SetLearningRate(1e-4))

    A connection that breaks is made again, and the events go on after the last one that came, also
    when the service was killed and started again, if its run goes on from a backup.

    Args:
        url: The address of a run, or of a service: then of its newest run.
        token: The service's token; to steer that for controls.
        types: Only these events, and those that extend them, are sent; empty for all. What tells
            of the run's state and of controls is always among them.
        every_s: At most one event of each type in so many seconds is sent; 0 for all. Ends of
            epochs, and what became of controls, always are.
        after: Events after this `seq` come; -1 for all that the service has. None: from now on.
        user_types: Types of your own, of events and of controls.
        retain: How many of the latest events are kept here, for `subscribe(after=...)`.
        reconnect_s: For how many seconds a connection that was lost is tried again.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind, or out of range.
        ServiceError: At the beginning: the service can't be reached, refuses, or doesn't have the
            run. Later, out of the block, whose body is cancelled: the same, for `reconnect_s`.
    """
    _check(token, types, every_s, after, reconnect_s)
    codec = Codec(*user_types)
    line = Line(url, token, reconnect_s)
    query: dict[str, str] = {}
    if types:
        query["types"] = ",".join(dict.fromkeys((*(t.__name__ for t in types), *_NEEDED)))
    if every_s:
        query["every_s"] = str(every_s)
    async with line.http:
        await line.find()
        found = await line.get(line.run)
        try:
            run = RemoteRun(line, codec, found["id"], retain)
            run.begin(found["seq"] if after is None else after)
            run.look(found)
        except (KeyError, TypeError) as error:
            raise ServiceError(f"{line.url} is no run of a fitbus service") from error
        raised: BaseException | None = None
        async with run.bus, anyio.create_task_group() as tasks:
            tasks.start_soon(run.follow, query, tasks.cancel_scope)
            tasks.start_soon(run.outbox.send_all, tasks)
            tasks.start_soon(run.refresh, tasks.cancel_scope)
            try:
                yield run
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  # leaves as itself, not in a group
                raised = error
            finally:
                run.end("the client has left")
                run.outbox.abandon()
                tasks.cancel_scope.cancel()
    if run.lost is not None and (raised is None or isinstance(raised, RunEndedError)):
        raise run.lost
    if raised is not None:
        raise raised


def _check(
    token: str | None,
    types: Collection[type[Event]],
    every_s: float,
    after: int | None,
    reconnect_s: float,
) -> None:
    check_timeout(reconnect_s)
    if after is not None and (isinstance(after, bool) or not isinstance(after, int) or after < -1):
        raise InvalidArgumentError("after", after, "give the `seq` of an event, or -1, or None")
    if isinstance(every_s, bool) or not isinstance(every_s, int | float) or not 0 <= every_s < 1e6:
        raise InvalidArgumentError("every_s", every_s, "give seconds, a number of at least 0")
    for kind in types:
        if not (isinstance(kind, type) and issubclass(kind, Event)):
            raise InvalidArgumentError("types", kind, "give event types, such as fitbus.EpochEnd")
    if token is not None and not (isinstance(token, str) and token.isascii() and token):
        raise InvalidArgumentError("token", "what was given", "give a text in ASCII, or None")
