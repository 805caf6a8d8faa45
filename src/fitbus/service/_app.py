"""The application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping

from starlette.applications import Starlette

from fitbus.control import Control
from fitbus.errors import InvalidArgumentError
from fitbus.events import Codec, Event
from fitbus.process import name_of_factory
from fitbus.service._answers import HANDLERS
from fitbus.service._factories import Factory
from fitbus.service._launches import Launches
from fitbus.service._rights import LOOPBACK, Authorize, Rights
from fitbus.service._routes import Service
from fitbus.train import Runs, Training

__all__ = ["app", "close_streams"]


def app(
    runs: Runs | None = None,
    factories: Mapping[str, Callable[..., Training]] | None = None,
    *,
    read_token: str | None = None,
    control_token: str | None = None,
    authorize: Authorize | None = None,
    hosts: Collection[str] = LOOPBACK,
    origins: Collection[str] = (),
    max_running: int = 1,
    max_waiting: int = 100,
    max_streams: int = 1000,
    keep: int = 100,
    retain: int = 10_000,
    heartbeat_s: float = 15.0,
    processes: bool = False,
    user_types: Collection[type[Event | Control]] = (),
) -> Starlette:
    """An ASGI application by which runs are started, watched and steered over HTTP.

    Mount it in an application of your own, whose lifespan opens `runs`; or serve it alone: then it
    opens `runs` itself.

        runs = fitbus.Runs()

        @contextlib.asynccontextmanager
        async def lifespan(app):
            async with runs:
                yield

        api = FastAPI(lifespan=lifespan)
        api.mount("/training", fitbus.service.app(runs, {"digits": digits}))

    When the server ends, event streams are let go first, and then the runs are stopped, so that
    they can go on from their backups (`fitbus.Runs`). uvicorn says that it ends where it minds the
    signals itself, as `uvicorn module:app` does; for other servers call `close_streams`, or give
    them a time after which they cut what is open (`timeout_graceful_shutdown` of uvicorn,
    `graceful_timeout` of Hypercorn and Anycorn).

    The logger `fitbus.audit` tells who started, steered and signed in, and who was refused: a JSON
    object a line, with `event`, `address` and `who`; never a token. The same name is the `source`
    of what they sent, in events and the journal.

    Without configuration it answers only where it is called by a loopback name, everybody there may
    read, and controls need a token that is made, and logged, at the start. Behind other names say
    `hosts`, and give a `read_token`.

    Args:
        runs: Who owns the runs; those that the application starts itself are shown, too.
        factories: What clients may start, by name: functions with annotated parameters that return
            a `Training`, called in a worker thread.
        read_token: Needed to read; None: everybody who reaches it may.
        control_token: Needed to start, stop and steer; it may read, too. None: one is made.
        authorize: Decides instead of the tokens: gets the connection (Starlette's), returns
            `"none"`, `"read"` or `"control"`, or a pair of that and the user's name, which is
            recorded with what they send; `def` or `async def`.
        hosts: The names under which it is reached; `"*"` for any.
        origins: Pages of other origins that may send requests which change something.
        max_running: How many of the runs that clients start run at once; the others queue.
        max_waiting: How many may queue.
        max_streams: How many event streams may be open.
        keep: How many runs that have ended are shown.
        retain: How many of a run's latest events are kept in memory for streams; what is older
            comes from the run's `Journal`, if it has one.
        heartbeat_s: Seconds after which a stream of which nothing came gets a comment.
        processes: Whether each run that clients start trains in a process of its own, which keeps
            the interpreter's lock, compilation and a crash away from this one; see `ProcessRun`.
            Its factory has to be at the top of a module; a `Journal` among its callbacks is the
            child's, so that streams begin with what is in memory here.
        user_types: Types of your own, of events and of controls that clients may send.

    Raises:
        InvalidArgumentError: An argument is of the wrong kind or out of range.
    """
    for name, value in (
        ("max_running", max_running),
        ("max_waiting", max_waiting),
        ("max_streams", max_streams),
        ("keep", keep),
        ("retain", retain),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidArgumentError(name, value, "give a whole number of at least 1")
    if (
        isinstance(heartbeat_s, bool)
        or not isinstance(heartbeat_s, int | float)
        or (not 0 < heartbeat_s < 1e6)
    ):
        raise InvalidArgumentError("heartbeat_s", heartbeat_s, "give seconds, a number above 0")
    if runs is not None and not isinstance(runs, Runs):
        raise InvalidArgumentError("runs", runs, "give a fitbus.Runs")
    for make in (factories or {}).values() if processes else ():
        name_of_factory(make)
    codec = Codec(*user_types)
    known = Runs(keep=keep) if runs is None else runs
    rights = Rights(
        read_token=read_token,
        control_token=control_token,
        authorize=authorize,
        hosts=hosts,
        origins=origins,
    )
    service = Service(
        known,
        {name: Factory.of(name, make) for name, make in (factories or {}).items()},
        rights,
        codec,
        Launches(
            known,
            most=max_running,
            waiting=max_waiting,
            codec=codec,
            keep=keep,
            retain=retain,
            processes=tuple(user_types) if processes else None,
        ),
        max_streams,
        heartbeat_s,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if not known.is_open:
                await stack.enter_async_context(known)
            yield

    made = Starlette(
        routes=service.routes,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
    )
    made.router.redirect_slashes = False  # it fails at a query that isn't UTF-8
    made.state.fitbus = service
    return made


def close_streams(app: Starlette) -> None:
    """Lets go of all who stream, or wait for an answer; later ones are refused.

    To be called in the event loop when the server begins to end, before it waits for its open
    connections. A client of a run that goes on comes again, and goes on after the last event that
    it had.

    Args:
        app: What `app` returned.
    """
    service = getattr(app.state, "fitbus", None)
    if not isinstance(service, Service):
        raise InvalidArgumentError("app", app, "give what fitbus.service.app returned")
    service.closing.set()
