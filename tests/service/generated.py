"""Sends generated requests to the service, and looks that nothing but what was answered changed.

    python -m tests.service.generated --requests 10000

They are made by schemathesis from the service's own description, valid and not, and by Hypothesis
from bytes: paths, headers and bodies that no client would send. Each is answered as described, by
a refusal with a message where it is one; runs are started, and controls act, exactly as often as
was answered; and nothing is left behind. It prints the answers by status.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import functools
import json
import sys
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, final
from urllib.parse import unquote_to_bytes, urlsplit

import anyio
import requests
import schemathesis
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode

import fitbus
from fitbus import service
from fitbus.service import Training

from ._server import CONTROL, PROBLEM, toy

__all__ = ["CHECKS", "Answer", "Site", "opened"]

LIMIT_S = 20
GOOD = b"Bearer " + CONTROL.encode()


ACTED: list[str] = []  # the sources of controls


def standing() -> Training:
    """One that counts the controls that act on it."""

    @fitbus.handler(fitbus.ControlApplied)
    def count(event: fitbus.ControlApplied) -> None:
        ACTED.append(event.source)

    trainer = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
    options: Any = {"batch_size": 64, "epochs": 100_000, "callbacks": [count]}
    return Training(trainer, PROBLEM.x, PROBLEM.y, **options)


class Answer(NamedTuple):
    """What the application sent."""

    status: int
    headers: dict[str, str]
    body: bytes


@final
class Site:
    """The service in an event loop of its own, with one run that stands, and one that has ended."""

    def __init__(self, portal: BlockingPortal) -> None:
        self.portal = portal
        self.app = service.app(
            fitbus.Runs(),
            {"toy": toy, "standing": standing},
            control_token=CONTROL,
            max_waiting=3,
            keep=10_000,
        )
        self.service = self.app.state.fitbus
        rights = self.service.rights
        for buckets in (rights._buckets, rights._sign_ins, rights._guesses):
            buckets._per_s = 1e9
        self.answers: collections.Counter[tuple[str, int]] = collections.Counter()
        self.standing = self.ended = ""
        self.applied = 0  # of the run that stands

    def ask(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> Answer:
        """Sends a request; what it raises in the application is raised here."""
        return self.portal.call(self._ask, method, path, query, headers, body)

    async def _ask(
        self,
        method: str,
        path: bytes,
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
    ) -> Answer:
        parts = [body[:7], body[7:]]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            await anyio.sleep_forever()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path.decode("utf-8", "replace"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        with anyio.fail_after(LIMIT_S):
            await self.app(scope, receive, send)
        start, *rest = sent
        found = {name.decode(): value.decode() for name, value in start["headers"]}
        return Answer(start["status"], found, b"".join(each["body"] for each in rest))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Sends what is right."""
        headers = [(b"host", b"localhost"), (b"authorization", GOOD)]
        headers.append((b"content-type", b"application/json"))
        answer = self.ask("POST", path.encode(), b"", headers, json.dumps(body).encode())
        assert answer.status < 300, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def prepare(self) -> None:
        """Has a run that has ended, and another that stands, whatever was sent before."""
        for launch in self.service.launches.values():
            if launch.run is None and launch.status == "queued":
                self.portal.call(launch.call_off)
        if not self.ended:
            self.ended = self.post("/runs", factory="toy")["id"]
            self._wait(self.ended)
        if not self.standing or self.service.launches[self.standing].status != "paused":
            if self.standing:
                self.portal.call(self._stop)
            self.standing = self.post("/runs", factory="standing")["id"]
            self.portal.call(self.service.launches[self.standing].began.wait)
            self.post(f"/runs/{self.standing}/controls", type="Pause")
            self.applied += 1

    async def _stop(self) -> None:
        """Ends the one that stands; as many controls acted on it as was answered."""
        run = self.service.launches[self.standing].run
        run.post(fitbus.StopTraining())
        await run.driver.life.until_over()
        acted = [source for source in ACTED if source.startswith("http ")]
        assert len(acted) == self.applied, "what acted isn't what was answered"
        ACTED.clear()
        self.applied = 0

    def _wait(self, id: str) -> None:
        async def over() -> None:
            launch = self.service.launches[id]
            await launch.began.wait()
            await launch.run.driver.life.until_over()

        self.portal.call(over)

    def known(self) -> int:
        """How many runs were asked for."""
        return len(self.service.launches._launches)


@contextlib.contextmanager
def opened() -> Generator[Site]:
    """One, after which no task is left."""
    with start_blocking_portal() as portal:
        site = Site(portal)
        before = portal.call(_tasks)
        with portal.wrap_async_context_manager(site.service.runs):
            site.prepare()
            yield site
            site.prepare()
            portal.call(site._stop)
        assert portal.call(_tasks) == before, "something is left"


async def _tasks() -> int:
    return len(asyncio.all_tasks())


def check(site: Site, what: str, answer: Answer) -> None:
    """It is as described, or a refusal with a message."""
    site.answers[what, answer.status] += 1
    assert answer.status < 500 or answer.status == 503, answer
    if answer.status >= 400:
        kind, found = answer.headers["content-type"], json.loads(answer.body)
        assert kind == "application/json", answer
        assert list(found) == ["error"], answer
        assert found["error"], answer
        assert len(found["error"]) < 1000, "what is refused isn't sent back whole"


def sent(
    site: Site,
    what: str,
    method: str,
    path: bytes,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
) -> Answer:
    """Sends it, with all that must hold afterwards."""
    site.prepare()
    before = site.known()
    controls = f"/runs/{site.standing}/controls".encode()
    answer = site.ask(method, path, query, headers, body)
    check(site, what, answer)
    started = method == "POST" and answer.status == 201
    assert site.known() == before + started, "a run came or went"
    if method == "POST" and path == controls:
        acted = answer
        if answer.status == 202:  # what came of it is asked for
            ticket = json.loads(answer.body)["ticket"].encode()
            good = [(b"host", b"localhost"), (b"authorization", GOOD)]
            acted = site.ask("GET", controls + b"/" + ticket, b"", good, b"")
            check(site, what, acted)
        site.applied += acted.status == 200
    return answer


def described(site: Site, count: int) -> None:
    """Requests from the description; half of them aren't valid."""
    headers = [(b"host", b"localhost"), (b"authorization", GOOD)]
    whole = json.loads(site.ask("GET", b"/openapi.json", b"", headers, b"").body)
    schema = schemathesis.openapi.from_dict(whole)
    every = [
        (path, method)
        for path, found in whole["paths"].items()
        for method in found
        if method != "parameters"
    ]
    for path, method in every:
        operation = schema[path][method.upper()]
        responses = set(whole["paths"][path][method]["responses"])
        # Any text is a valid path; what has nothing to vary is asked as it is.
        has_more = bool({"requestBody", "parameters"} & set(whole["paths"][path][method]))
        for mode in GenerationMode if has_more else [GenerationMode.POSITIVE]:
            made: Any = [operation.as_strategy(mode)]
            if "{id}" in path:
                id = site.standing if "controls" in path else site.ended
                made.append(operation.as_strategy(mode, path_parameters={"id": id}))
            one = functools.partial(_described, site, responses)
            _drive(one, count // _VARIED, case=st.one_of(made), allowed=st.booleans())


_VARIED = 10  # so many have something to vary


def _described(site: Site, responses: set[str], case: Any, allowed: bool) -> None:
    words = requests.Request(**_kept(case.as_transport_kwargs("http://localhost")))
    request = words.prepare()
    url = urlsplit(str(request.url))
    headers = [(b"host", b"localhost")]
    headers += [(_coded(n).lower(), _coded(v)) for n, v in request.headers.items()]
    if allowed:
        headers = [each for each in headers if each[0] != b"authorization"]
        headers.append((b"authorization", GOOD))
    body: Any = request.body or b""
    answer = sent(
        site,
        "described",
        str(request.method),
        unquote_to_bytes(url.path),
        url.query.encode(),
        headers,
        body.encode() if isinstance(body, str) else bytes(body),
    )
    assert str(answer.status) in responses, answer


def _kept(words: dict[str, Any]) -> dict[str, Any]:
    names = ("method", "url", "headers", "files", "data", "params", "auth", "cookies", "json")
    return {name: words[name] for name in names if name in words}


def _coded(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")


def _drive(test: Callable[..., None], count: int, **strategies: Any) -> None:
    options = settings(
        max_examples=max(1, count),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )

    def one(**found: Any) -> None:
        test(**found)

    seed(count)(options(given(**strategies)(one)))()


_NAMES = st.sampled_from([
    b"authorization", b"cookie", b"host", b"origin", b"content-type", b"content-length",
    b"last-event-id", b"if-none-match", b"sec-fetch-site", b"accept", b"transfer-encoding",
])  # fmt: skip
_VALUES = st.one_of(
    st.sampled_from([
        GOOD, GOOD[:-1], b"Bearer", b"bearer \xff", b"localhost", b"evil.example", b"", b":", b"[",
        b"application/json", b"APPLICATION/JSON; charset=x", b"text/plain", b"null", b"1e999",
        b"fitbus_token=" + CONTROL.encode(), b"fitbus_token=\xff", b"a:" + b"9" * 30, b"http://[",
        b"http://localhost", b"-1", b"9" * 5000,
    ]),
    st.binary(max_size=40),
)  # fmt: skip
_HEADERS = st.lists(st.tuples(_NAMES, _VALUES), max_size=6)
_NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 2**64, 1e308, 5e-324])
)
_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=20)),
    lambda each: st.one_of(
        st.lists(each, max_size=3), st.dictionaries(st.text(max_size=10), each, max_size=3)
    ),
    max_leaves=8,
)
_KNOWN = [
    "StopTraining", "StopEpoch", "SetLearningRate", "ScaleLearningRate", "SetHyperparameter",
    "Pause", "Evaluate", "SaveCheckpoint", "RestoreCheckpoint", "UpdateState", "EpochEnd", "Lagged",
    "UnknownControl", "Control", "Event", "os.system",
]  # fmt: skip
_CONTROLS = st.fixed_dictionaries(
    {"type": st.sampled_from(_KNOWN)},
    optional=dict.fromkeys(
        ("value", "factor", "name", "reason", "validate", "resumable", "tag", "which"), _JSON
    ),
)
_STARTS = st.fixed_dictionaries(
    {"factory": st.one_of(st.just("toy"), _JSON)},
    optional={
        "parameters": st.one_of(_JSON, st.dictionaries(st.sampled_from(["epochs", "x"]), _JSON)),
        "code": _JSON,
    },
)
_BODIES = st.one_of(
    st.binary(max_size=200),
    st.one_of(_JSON, _CONTROLS, _CONTROLS, _STARTS, st.fixed_dictionaries({"token": _JSON})).map(
        lambda found: json.dumps(found).encode("utf-8", "surrogatepass")
    ),
    st.sampled_from([
        b"[" * 60_000, b'{"a":' * 12_000, b'{"type":"Pause"' + b" " * 70_000 + b"}",
        b"\xef\xbb\xbf{}",
        b"9" * 60_000, b'{"token":"\\ud800"}', b'{"factory":"\\ud800"}', b'{"type":"\\udfff"}',
        b'{"type":"Pause","type":"StopTraining"}', b'{"type":"SetLearningRate","value":1e999}',
        b'{"type":"StopEpoch","reason":"\\u0000"}', b"\x00" * 100, b'"' + b"x" * 65_000 + b'"',
    ]),
)  # fmt: skip


def raw(site: Site, count: int) -> None:
    """Requests from bytes."""
    paths = st.one_of(
        st.sampled_from([
            b"/", b"/runs", b"/runs/", b"/runs/x", b"/metrics", b"/session", b"/page/../x",
            b"/page/%2e%2e/", b"/healthz", b"/openapi.json", b"//", b"", b"/runs/\xff",
            b"/page/\x00",
            b"/controls", b"/runs/standing/controls", b"/runs/ended/events", b"/runs/ended",
        ]),
        st.binary(max_size=30).map(lambda end: b"/runs/" + end),
    )  # fmt: skip
    queries = st.one_of(
        st.just(b""),
        st.binary(max_size=40),
        st.tuples(
            st.sampled_from([b"types=", b"every=", b"every_s=", b"last_event_id="]), _VALUES
        ).map(b"".join),
    )
    methods = st.sampled_from(
        ["GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "X"]
    )

    known = st.sampled_from([
        ("POST", b"/runs"), ("POST", b"/runs/standing/controls"), ("POST", b"/session"),
        ("POST", b"/runs/standing/controls"), ("GET", b"/runs/ended/events"),
        ("GET", b"/page/page.js"),
    ])  # fmt: skip

    def one(
        target: tuple[str, bytes],
        query: bytes,
        headers: list[tuple[bytes, bytes]],
        body: bytes,
        usual: bool,
        typed: bool,
    ) -> None:
        method, path = target
        path = path.replace(b"standing", site.standing.encode())
        path = path.replace(b"ended", site.ended.encode())
        if usual:
            headers = [(b"host", b"localhost"), (b"authorization", GOOD), *headers]
            headers[:0] = [(b"content-type", b"application/json")] if typed else []
        sent(site, "raw", method, path, query, headers, body)

    _drive(
        one,
        count,
        target=st.one_of(known, known, st.tuples(methods, paths)),
        query=queries,
        headers=_HEADERS,
        body=_BODIES,
        usual=st.sampled_from([True, True, True, False]),
        typed=st.sampled_from([True, True, True, False]),
    )


CHECKS = {"described": described, "raw": raw}


def main() -> int:
    """Runs it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.service.generated", description="Sends generated requests."
    )
    parser.add_argument("--requests", type=int, default=10_000, help="how many, in all (10,000)")
    options = parser.parse_args()
    with opened() as site:
        for name, run in CHECKS.items():
            run(site, options.requests // len(CHECKS))
            counts = {
                status: n for (what, status), n in sorted(site.answers.items()) if what == name
            }
            sys.stdout.write(f"{name}: {sum(counts.values()):,} requests, by status {counts}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
