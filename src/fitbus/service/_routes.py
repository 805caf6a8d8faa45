"""What each route does."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, final
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fitbus.control import Applied, Control, Receipt, StopTraining, UnknownControl
from fitbus.errors import ControlRejectedError, FitbusError, InvalidArgumentError
from fitbus.events import Codec
from fitbus.service._answers import body_of, shown
from fitbus.service._audit import Audit
from fitbus.service._closing import Closing
from fitbus.service._factories import Factory
from fitbus.service._hub import Hub
from fitbus.service._launches import Launch, Launches
from fitbus.service._metrics import metrics_of
from fitbus.service._openapi import description
from fitbus.service._page import page_routes
from fitbus.service._rights import Access, Guarded, Refused, Rights
from fitbus.service._streams import EventStream, Wanted, number, to_websocket
from fitbus.train import Runs

__all__ = ["Service"]

_WAIT_S = 30.0
_NOBODY = Guarded("none", "", "")
_REFUSALS = (401, 403, 421, 429)  # attempts at what isn't allowed


@final
class Service:
    """Answers requests.

    Args:
        runs: Who owns the runs.
        factories: What clients may start, by name.
        rights: Who may do what.
        codec: Encodes events, and decodes controls.
        launches: The runs that are shown.
        max_streams: How many streams may be open.
        heartbeat_s: Seconds after which one that is silent gets a comment.
    """

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
        self.closing = Closing(runs)
        self.audit = Audit()
        self.routes = [
            Route("/runs", self._with("read", self.list_runs), methods=["GET"]),
            Route("/runs", self._with("control", self.start), methods=["POST"]),
            # An id may have slashes: servers hand out a path that is decoded.
            Route("/runs/{id:path}/events", self._with("read", self.events), methods=["GET"]),
            WebSocketRoute("/runs/{id:path}/events", self.socket),
            Route(
                "/runs/{id:path}/controls", self._with("control", self.control), methods=["POST"]
            ),
            Route("/runs/{id:path}/controls/{ticket}", self._with("control", self.outcome)),
            Route("/runs/{id:path}", self._with("read", self.one_run), methods=["GET"]),
            Route("/metrics", self._with("read", self.metrics), methods=["GET"]),
            Route("/healthz", self._with(None, self.health), methods=["GET"]),
            Route("/openapi.json", self._with("read", self.openapi), methods=["GET"]),
            *page_routes(rights, body_of, self.audit),
        ]
        rights.announce()

    def _with(
        self, needed: Access | None, answer: Callable[[Request, Guarded], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                by = _NOBODY if needed is None else await self.rights.check(request, needed)
                response = await answer(request, by)
            except Refused as refused:
                if needed == "control" or refused.status in _REFUSALS:
                    self.audit.refused(request, refused)
                raise
            response.headers["X-Content-Type-Options"] = "nosniff"
            return response

        return endpoint

    # Reading.

    async def list_runs(self, _request: Request, _by: Guarded) -> Response:
        """The runs, the newest first."""
        found = [shown(launch) for launch in self.launches.values()]
        return JSONResponse({"runs": found[::-1], "factories": sorted(self.factories)})

    async def one_run(self, request: Request, _by: Guarded) -> Response:
        """One run, with its counters."""
        launch = self._launch(request.path_params["id"])
        self.launches.read_rates(launch)
        return JSONResponse(shown(launch, whole=True))

    async def events(self, request: Request, _by: Guarded) -> Response:
        """A stream of its events."""
        launch = self._launch(request.path_params["id"])
        last = request.headers.get("last-event-id")
        if last is not None:  # sent as the stream told it, in UTF-8
            last = last.encode("latin-1").decode(errors="replace")
        wanted = Wanted.of(request.query_params, last, launch.id)
        if launch.began.is_set():
            await self._hub(launch)  # refuses what can't be streamed
        return EventStream(launch, self._hub, wanted, self.codec, self.heartbeat_s, self.closing)

    async def socket(self, socket: WebSocket) -> None:
        """The same over WebSocket."""
        try:
            await self.rights.check(socket, "read")
            launch = self._launch(socket.path_params["id"])
            wanted = Wanted.of(socket.query_params, None, launch.id)
            hub = await self._hub(launch)
        except Refused as refused:
            if refused.status in _REFUSALS:
                self.audit.refused(socket, refused)
            await socket.accept()
            await socket.close(1008, str(refused)[:120])
            return
        await socket.accept()
        with self.closing.ends(hub.close):
            await to_websocket(socket, launch, hub, wanted, self.codec, self.heartbeat_s)

    async def metrics(self, _request: Request, _by: Guarded) -> Response:
        """For Prometheus."""
        body, kind = metrics_of(self.launches)
        return Response(body, media_type=kind)

    async def health(self, _request: Request, _by: Guarded) -> Response:
        """Whether it works."""
        return JSONResponse({"status": "ok" if self.runs.is_open else "closed"})

    async def openapi(self, _request: Request, _by: Guarded) -> Response:
        """What it is, for tools."""
        return JSONResponse(description(self.factories, self.codec))

    # Steering.

    async def start(self, request: Request, by: Guarded) -> Response:
        """Starts a run of a factory."""
        body = await body_of(request)
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
        self.audit.done("start", by, run=launch.id, factory=factory.name)
        return JSONResponse(
            shown(launch),
            201,
            {"Location": f"{quote(request.scope['path'])}/{quote(launch.id, safe='')}"},
        )

    async def control(self, request: Request, by: Guarded) -> Response:
        """Sends a control, and answers when it acted."""
        launch = self._launch(request.path_params["id"])
        wait_s = number(request.query_params, "wait_s", 0.0, default=_WAIT_S, most=_WAIT_S)
        control = self._control(await body_of(request))
        told = {"run": launch.id, "control": type(control).__name__}
        if launch.run is None:
            if isinstance(control, StopTraining) and launch.status in ("queued", "starting"):
                launch.call_off()
                self.audit.done("control", by, **told, status="applied", step=0)
                return JSONResponse({"status": "applied", "step": 0, "epoch": 0, "result": None})
            raise Refused(409, f"the run is {launch.status}; nothing acts on it but a stop")
        try:
            receipt = launch.run.post(control, by.source)
        except InvalidArgumentError as error:
            raise Refused(422, str(error)) from error
        return await self._outcome(launch, receipt, wait_s, by)

    async def outcome(self, request: Request, by: Guarded) -> Response:
        """Answers when a control that was sent before acted."""
        launch = self._launch(request.path_params["id"])
        wait_s = number(request.query_params, "wait_s", 0.0, default=_WAIT_S, most=_WAIT_S)
        receipt = launch.tickets.get(request.path_params["ticket"])
        if receipt is None:
            raise Refused(404, "no control of this ticket is known; it may have acted all the same")
        return await self._outcome(launch, receipt, wait_s, by)

    async def _outcome(
        self, launch: Launch, receipt: Receipt, wait_s: float, by: Guarded
    ) -> Response:
        told = {"run": launch.id, "control": type(receipt.control).__name__}
        applied: Applied | None = None
        try:
            with self.closing.ends():
                applied = await receipt.wait(wait_s)
        except TimeoutError:
            pass
        except ControlRejectedError as error:
            raise Refused(409, error.why) from error
        if applied is None:
            ticket, is_new = launch.ticket_of(receipt)
            if is_new:
                self.audit.done("control", by, **told, status="waiting")
            found = {"status": "waiting", "id": receipt.id, "ticket": ticket}
            return JSONResponse(found, 202)
        self.audit.done("control", by, **told, status="applied", step=applied.step)
        acted = {"step": applied.step, "epoch": applied.epoch, "result": applied.result}
        body = msgspec.json.encode({"status": "applied", **acted})
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
        with self.closing.ends():
            await launch.began.wait()
        if self.closing.is_set:
            raise Refused(503, "the server ends; try again later", {"Retry-After": "10"})
        if launch.run is None:
            raise Refused(409, f"the run never began: {launch.error or 'it was called off'}")
        hub = self.launches.hub(launch)
        if self.launches.clients >= self.max_streams:
            raise Refused(503, f"{self.max_streams} streams are open", {"Retry-After": "10"})
        return hub
