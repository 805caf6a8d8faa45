"""What RemoteMonitor posts to a real server, and what it does when that fails."""

from __future__ import annotations

import json
import logging
import math
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import jax.numpy as jnp
import numpy as np
import pytest

from fitbus.callbacks import Callback, Logs, RemoteMonitor
from fitbus.errors import InvalidArgumentError

from ._failing_server import Serve, counts, epochs, monitor, strict

if TYPE_CHECKING:
    from .conftest import Script

pytestmark = pytest.mark.anyio


class Only(Callback):
    """Replaces the logs of each epoch; to be put before the monitor."""

    def __init__(self, **logs: Any) -> None:
        self._logs = logs

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        assert logs is not None
        logs.clear()
        logs.update(self._logs)


async def test_it_posts_a_form_after_each_epoch_as_keras_does(script: Script, serve: Serve) -> None:
    server = serve()
    posts = RemoteMonitor(server.root, headers={"X-Who": "me"})
    await script.fit([0.0] * 2, Only(loss=0.5, a="text"), posts)
    first, second = server.requests
    assert first.path == second.path == "/publish/epoch/end/"
    assert first.headers["content-type"] == "application/x-www-form-urlencoded"
    assert first.headers["x-who"] == "me"
    found = [parse_qs(request.body, strict_parsing=True) for request in server.requests]
    assert [list(form) for form in found] == [["data"], ["data"]]
    assert [json.loads(form["data"][0]) for form in found] == [
        {"epoch": 0, "loss": 0.5, "a": "text"},
        {"epoch": 1, "loss": 0.5, "a": "text"},
    ]
    assert counts(posts) == {"sent": 2}


async def test_or_json_to_another_path_and_field(script: Script, serve: Serve) -> None:
    server = serve()
    as_json = RemoteMonitor(server.root, "/a?b=c", "unused", send_as_json=True)
    as_form = RemoteMonitor(server.root, "", "field", {"content-type": "text/plain"})
    await script.fit([0.0], Only(loss=0.5), as_json)
    await script.fit([0.0], Only(loss=0.5), as_form)
    first, second = server.requests
    assert (first.path, first.headers["content-type"]) == ("/a?b=c", "application/json")
    assert json.loads(first.body) == {"epoch": 0, "loss": 0.5}
    assert (second.path, second.headers["content-type"]) == ("/", "text/plain")
    assert list(parse_qs(second.body)) == ["field"]


async def test_what_json_cannot_say_is_spelled(script: Script, serve: Serve) -> None:
    """NaN as the codec does; NumPy's and JAX's values as numbers and lists."""
    server = serve()
    logs = {
        "nan": math.nan,
        "up": math.inf,
        "down": np.float32(-math.inf),
        "numpy": np.float32(0.5),
        "zero": np.array(2),
        "many": np.arange(3),
        "jax": jnp.ones(()),
        "list": [1, (2.5, None)],
        "map": {"a": True, 3: np.nan},
        "other": {1},
    }
    await script.fit([0.0], Only(**logs), monitor(server))
    (request,) = server.requests
    assert strict(request.body) == {
        "epoch": 0,
        "nan": "NaN",
        "up": "Infinity",
        "down": "-Infinity",
        "numpy": 0.5,
        "zero": 2,
        "many": [0, 1, 2],
        "jax": 1.0,
        "list": [1, [2.5, None]],
        "map": {"a": True, "3": "NaN"},
        "other": "{1}",
    }


@pytest.mark.parametrize("failure", [500, 503, 429, "close", "hang", "later"])
async def test_it_tries_again_and_keeps_the_order(
    script: Script, serve: Serve, failure: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(failure, failure)
    posts = monitor(server, timeout_s=0.1 if failure == "hang" else 5.0)
    await script.fit([0.0] * 3, posts)
    assert epochs(server) == [0, 0, 0, 1, 2]
    assert counts(posts) == {"sent": 3, "retried": 2}
    assert not caplog.records


async def test_after_the_last_retry_it_goes_on_and_warns_once(
    script: Script, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """And tries each message once, until one gets through."""
    server = serve(500, 500, 500, 500, 200, 500)
    posts = monitor(server, retries=2)
    await script.fit([0.0] * 4, posts)
    assert epochs(server) == [0, 0, 0, 1, 2, 3, 3]
    assert counts(posts) == {"sent": 2, "retried": 3, "failed": 2}
    first, last = (record.getMessage() for record in caplog.records)
    assert first == (
        f"RemoteMonitor couldn't deliver to {server.root}/publish/epoch/end/: it answered 500;"
        " training goes on, and it tries again with the next epoch"
    )
    assert last == "RemoteMonitor: 2 messages were delivered so far, 2 given up, 0 dropped"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("refusal", [400, 404, 422])
async def test_a_refusal_is_not_repeated(script: Script, serve: Serve, refusal: int) -> None:
    server = serve(refusal)
    posts = monitor(server)
    await script.fit([0.0] * 2, posts)
    assert epochs(server) == [0, 1]
    assert counts(posts) == {"sent": 1, "failed": 1}


async def test_a_server_that_is_not_there_changes_nothing_for_training(
    script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        root = f"http://user:secret@127.0.0.1:{free.getsockname()[1]}"
    posts = RemoteMonitor(root, retries=1, backoff_s=0.001)
    history = await script.fit([1.0, 2.0, 3.0], posts)
    assert history.history["loss"] == [1, 2, 3]
    assert counts(posts) == {"failed": 3, "retried": 1}
    assert "ConnectError" in caplog.messages[0]
    assert "secret" not in caplog.text


async def test_another_training_keeps_the_counters(script: Script, serve: Serve) -> None:
    server = serve()
    posts = monitor(server)
    await script.fit([0.0] * 2, posts)
    await script.fit([0.0], posts)
    assert epochs(server) == [0, 1, 0]
    assert counts(posts) == {"sent": 3}
    assert posts.state_dict() == {}
    posts.load_state_dict({})


BAD: dict[str, list[Any]] = {
    "root": [None, "", 3, "localhost:9000", "ftp://host", "http://", "http://host:port", "/path"],
    "path": [None, 3],
    "field": [None, "", 3],
    "headers": [3, "a: b", {"a": 1}, {1: "a"}],
    "send_as_json": [None, 1],
    "timeout_s": [0, -1, math.inf, math.nan, None, "1", True],
    "retries": [-1, 1.5, True, None],
    "backoff_s": [-1, math.inf, math.nan, None, True],
    "room": [0, -1, 1.5, True, None],
    "drain_s": [-1, math.inf, math.nan, None, True],
}


@pytest.mark.parametrize(("argument", "value"), [(k, v) for k, vs in BAD.items() for v in vs])
def test_it_refuses(argument: str, value: Any) -> None:
    given: dict[str, Any] = {argument: value}
    with pytest.raises(InvalidArgumentError, match=rf"^RemoteMonitor\.{argument}: found "):
        RemoteMonitor(**given)
