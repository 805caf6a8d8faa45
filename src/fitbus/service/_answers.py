"""What requests bring, and what they are answered with."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fitbus.service._rights import Refused

if TYPE_CHECKING:
    from fitbus.service._launches import Launch

__all__ = ["HANDLERS", "body_of", "shown"]

_BODY = 64 << 10


def shown(launch: Launch, *, whole: bool = False) -> dict[str, Any]:
    """A run as clients see it; with its counters, if `whole`."""
    run = launch.run
    found: dict[str, Any] = {
        "id": launch.id,
        "factory": launch.name,
        "status": launch.status,
        "created": launch.created,
        "parameters": json.loads(msgspec.json.encode(launch.parameters)),
    }
    if launch.error or (run is not None and run.block.life.error is not None):
        # What went wrong is in the service's log; clients get its kind, and no more.
        error = None if run is None else run.block.life.error
        found["error"] = launch.error if error is None else type(error).__name__
    if run is not None:
        counters = run.statistics()
        found |= {"step": counters.step, "seconds": counters.seconds, **_ends(run)}
        if whole:
            rates = {name: rate for name, rate in launch.rates.items() if math.isfinite(rate)}
            found |= vars(counters)
            del found["subscriptions"]
            found |= {"hyperparameters": rates, "hyperparameters_step": launch.rates_step}
            found |= {"seq": launch.seq, "start": launch.start, "went_on": launch.went_on}
            found["subscribers"] = [
                vars(each) | {"handler_share": each.handler_share, "held_share": each.held_share}
                for each in counters.subscriptions
            ]
    elif whole:
        found |= {"seq": -1, "start": launch.start, "went_on": None}
    return found


def _ends(run: Any) -> dict[str, Any]:
    params = run.params
    return {"epochs": params["epochs"], "steps_per_epoch": params["steps"]}


async def body_of(request: Request) -> dict[str, Any]:
    """A request's JSON object; raises `Refused`."""
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


HANDLERS: dict[Any, Any] = {Refused: _refused, HTTPException: _http_error, Exception: _failed}
