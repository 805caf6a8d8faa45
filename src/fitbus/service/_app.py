"""The routes."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from typing import Any, final

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fitbus.control import Control, StopTraining, UnknownControl
from fitbus.errors import ControlRejectedError, FitbusError, InvalidArgumentError
from fitbus.events import Codec, Event
from fitbus.service._factories import Factory, Training
from fitbus.service._hub import Hub
from fitbus.service._launches import Launch, Launches
from fitbus.service._metrics import metrics_of
from fitbus.service._openapi import description
from fitbus.service._page import page_routes
from fitbus.service._rights import LOOPBACK, Access, Authorize, Refused, Rights
from fitbus.service._streams import EventStream, Wanted, to_websocket
from fitbus.train import Runs

__all__ = ["app"]

_BODY = 64 << 10
_WAIT_S = 30.0
_logger = logging.getLogger("fitbus")


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
            `"none"`, `"read"` or `"control"`; `def` or `async def`.
        hosts: The names under which it is reached; `"*"` for any.
        origins: Pages of other origins that may send requests which change something.
        max_running: How many of the runs that clients start run at once; the others queue.
        max_waiting: How many may queue.
        max_streams: How many event streams may be open.
        keep: How many runs that have ended are shown.
        retain: How many of a run's latest events are kept in memory for streams; what is older
            comes from the run's `Journal`, if it has one.
        heartbeat_s: Seconds after which a stream of which nothing came gets a comment.
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
    codec = Codec(*user_types)
    known = Runs(keep=keep) if runs is None else runs
    rights = Rights(
        read_token=read_token,
        control_token=control_token,
        authorize=authorize,
        hosts=hosts,
        origins=origins,
    )
    service = _Service(
        known,
        {name: Factory.of(name, make) for name, make in (factories or {}).items()},
        rights,
        codec,
        Launches(
            known, most=max_running, waiting=max_waiting, codec=codec, keep=keep, retain=retain
        ),
        max_streams,
        heartbeat_s,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if not known.is_open:
                await stack.enter_async_context(known)
            yield

    made = Starlette(
        routes=service.routes,
        lifespan=lifespan,
        exception_handlers={
            Refused: _refused,
            HTTPException: _http_error,
            Exception: _failed,
        },
    )
    made.state.fitbus = service
    return made


@final
class _Service:
    def __init__(
        self,
        runs: Runs,
        factories: Mapping[str, Factory],
        rights: Rights,
        codec: Codec,
        launches: Launches,
        max_streams: int,
        heartbeat_s: float,
    ) -> None:
        self.heartbeat_s = heartbeat_s
        self.runs = runs
        self.factories = factories
        self.rights = rights
        self.codec = codec
        self.launches = launches
        self.max_streams = max_streams
        self.routes = [
            Route("/runs", self._with("read", self.list_runs), methods=["GET"]),
            Route("/runs", self._with("control", self.start), methods=["POST"]),
            Route("/runs/{id}", self._with("read", self.one_run), methods=["GET"]),
            Route("/runs/{id}/events", self._with("read", self.events), methods=["GET"]),
            WebSocketRoute("/runs/{id}/events", self.socket),
            Route("/runs/{id}/controls", self._with("control", self.control), methods=["POST"]),
            Route("/metrics", self._with("read", self.metrics), methods=["GET"]),
            Route("/healthz", self._with(None, self.health), methods=["GET"]),
            Route("/openapi.json", self._with("read", self.openapi), methods=["GET"]),
            *page_routes(rights, _body),
        ]
        rights.announce()

    def _with(
        self, needed: Access | None, answer: Callable[[Request, str], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            who = "" if needed is None else (await self.rights.check(request, needed)).who
            response = await answer(request, who)
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return endpoint

    # Reading.

    async def list_runs(self, _request: Request, _who: str) -> Response:
        """The runs, the newest first."""
        shown = [_shown(launch) for launch in self.launches.values()]
        return JSONResponse({"runs": shown[::-1], "factories": sorted(self.factories)})

    async def one_run(self, request: Request, _who: str) -> Response:
        """One run, with its counters."""
        launch = self._launch(request.path_params["id"])
        self.launches.read_rates(launch)
        return JSONResponse(_shown(launch, whole=True))

    async def events(self, request: Request, _who: str) -> Response:
        """A stream of its events."""
        launch = self._launch(request.path_params["id"])
        last = request.headers.get("last-event-id")
        wanted = Wanted.of(request.query_params, last, launch.id)
        hub = await self._hub(launch)
        return EventStream(launch, hub, wanted, self.codec, self.heartbeat_s)

    async def socket(self, socket: WebSocket) -> None:
        """The same over WebSocket."""
        try:
            await self.rights.check(socket, "read")
            launch = self._launch(socket.path_params["id"])
            wanted = Wanted.of(socket.query_params, None, launch.id)
            hub = await self._hub(launch)
        except Refused as refused:
            await socket.accept()
            await socket.close(1008, str(refused)[:120])
            return
        await socket.accept()
        await to_websocket(socket, launch, hub, wanted, self.codec, self.heartbeat_s)

    async def metrics(self, _request: Request, _who: str) -> Response:
        """For Prometheus."""
        body, kind = metrics_of(self.launches)
        return Response(body, media_type=kind)

    async def health(self, _request: Request, _who: str) -> Response:
        """Whether it works."""
        return JSONResponse({"status": "ok" if self.runs.is_open else "closed"})

    async def openapi(self, _request: Request, _who: str) -> Response:
        """What it is, for tools."""
        return JSONResponse(description(self.factories, self.codec))

    # Steering.

    async def start(self, request: Request, who: str) -> Response:
        """Starts a run of a factory."""
        body = await _body(request)
        name = body.get("factory")
        factory = self.factories.get(name) if isinstance(name, str) else None
        if factory is None:
            known = ", ".join(sorted(self.factories)) or "none"
            raise Refused(404 if isinstance(name, str) else 400, f"factory: known are {known}")
        if unknown := sorted(body.keys() - {"factory", "parameters"}):
            raise Refused(400, f"{unknown[0][:80]!r}: allowed are 'factory' and 'parameters'")
        try:
            parameters = factory.checked(body.get("parameters", {}))
        except msgspec.ValidationError as error:
            raise Refused(422, f"parameters: {error}") from error
        try:
            launch = self.launches.start(factory, parameters)
        except FitbusError as error:
            raise Refused(503, str(error), {"Retry-After": "10"}) from error
        _logger.info("run %r of %r was started by %s", launch.id, factory.name, who)
        return JSONResponse(_shown(launch), 201, {"Location": f"{request.url.path}/{launch.id}"})

    async def control(self, request: Request, who: str) -> Response:
        """Sends a control, and answers when it acted."""
        launch = self._launch(request.path_params["id"])
        control = self._control(await _body(request))
        if launch.run is None:
            if isinstance(control, StopTraining) and launch.status in ("queued", "starting"):
                launch.is_off = True
                launch.began.set()
                return JSONResponse({"status": "applied", "step": 0, "epoch": 0, "result": None})
            raise Refused(409, f"the run is {launch.status}; nothing acts on it but a stop")
        try:
            receipt = launch.run.post(control, f"http {who}")
        except InvalidArgumentError as error:
            raise Refused(422, str(error)) from error
        try:
            applied = await receipt.wait(_WAIT_S)
        except TimeoutError:
            return JSONResponse({"status": "waiting", "id": receipt.id}, 202)
        except ControlRejectedError as error:
            raise Refused(409, error.why) from error
        body = msgspec.json.encode(
            {
                "status": "applied",
                "step": applied.step,
                "epoch": applied.epoch,
                "result": applied.result,
            }
        )
        return Response(body, media_type="application/json")

    def _control(self, body: Mapping[str, Any]) -> Control:
        try:
            found = self.codec.from_json(json.dumps(body))
        except (msgspec.DecodeError, FitbusError) as error:
            raise Refused(422, f"the control can't be read: {error}") from error
        if not isinstance(found, Control) or isinstance(found, UnknownControl):
            raise Refused(422, f"{str(body.get('type'))[:80]!r} is no control that is known here")
        return found

    def _launch(self, id: str) -> Launch:
        try:
            return self.launches[id]
        except KeyError:
            raise Refused(404, f"there is no run {id[:80]!r}") from None

    async def _hub(self, launch: Launch) -> Hub:
        await launch.began.wait()
        if launch.run is None:
            kind = launch.error.partition(":")[0]
            raise Refused(409, f"the run never began: {kind or 'it was called off'}")
        hub = self.launches.hub(launch)
        if hub.clients >= self.max_streams:
            raise Refused(503, f"{self.max_streams} streams are open", {"Retry-After": "10"})
        return hub


def _shown(launch: Launch, *, whole: bool = False) -> dict[str, Any]:
    run = launch.run
    shown: dict[str, Any] = {
        "id": launch.id,
        "factory": launch.name,
        "status": launch.status,
        "created": launch.created,
        "parameters": json.loads(msgspec.json.encode(launch.parameters)),
    }
    if launch.error or (run is not None and run.driver.life.error is not None):
        # What went wrong is in the service's log; clients get its kind, and no more.
        error = None if run is None else run.driver.life.error
        shown["error"] = launch.error.partition(":")[0] if error is None else type(error).__name__
    if run is not None:
        counters = run.statistics()
        shown |= {"step": counters.step, "seconds": counters.seconds, **_ends(run)}
        if whole:
            rates = {name: rate for name, rate in launch.rates.items() if math.isfinite(rate)}
            shown |= {"step_s": counters.step_s, "hyperparameters": rates}
            shown["hyperparameters_step"] = launch.rates_step
            shown["subscribers"] = [
                {
                    "name": each.name,
                    "delivered": each.delivered,
                    "dropped": each.dropped,
                    "queued": each.queued,
                    "errors": each.errors,
                    "seconds": each.seconds,
                    "handler_share": each.handler_share,
                    "held_s": each.held_s,
                    "held_share": each.held_share,
                }
                for each in counters.subscriptions
            ]
    return shown


def _ends(run: Any) -> dict[str, Any]:
    params = run.driver.params
    return {"epochs": params["epochs"], "steps_per_epoch": params["steps"]}


async def _body(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "send `Content-Type: application/json`")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > _BODY:
            raise Refused(413, f"the body may have {_BODY} bytes at most")
    try:
        found: Any = msgspec.json.decode(bytes(read))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Refused(400, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise Refused(400, "send a JSON object")
    return found


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": error.why}, error.status, error.headers)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "something went wrong in the service; its log says what"}, 500)
