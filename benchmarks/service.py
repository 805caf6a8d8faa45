"""A service that trains: what its event streams cost, and how fast it answers meanwhile.

*Streams*: a run trains while so many clients follow every event of it, each over a connection of
its own; the same run without them is what it is compared with, in turn. A prober asks every 10 ms
for `/healthz`. Some of the clients may be stuck: they open a stream, and never read, over
connections whose buffers hold little. The clients and the prober are processes of their own, bound
to one core; the service has all cores, and XLA one thread to compute with, so that on a machine of
two cores the event loop shares one with its clients, and what they take isn't taken for its own. (A
training that keeps all cores busy loses to the event loop and to such clients whatever they take.)
What the event loop's thread takes of a core is printed beside.

*A plain request* is the same `/healthz`, without any stream: while nothing goes on, while a run
trains in a thread of the service, or in a child process, and while one is traced and compiled
there. A child has imported JAX by then.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

from _harness import Row, check, parser, quantile, show
from _service_parts import Part

SIZE = "5 ms"
STEPS = 1000
IDLE_S = 3.0


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Bench:
    """The three processes, and what is done with them."""

    def __init__(self, service: Part, clients: Part, probe: Part) -> None:
        self.service, self.clients, self.probe = service, clients, probe

    def train(
        self,
        size: str,
        steps: int | None,
        count: int = 0,
        stuck: int = 0,
        *,
        process: bool = False,
    ) -> dict[str, Any]:
        """A run, with so many clients; what was measured."""
        id = uuid.uuid4().hex[:12]
        self.service.ask(do="train", id=id, size=size, steps=steps, process=process)
        found: dict[str, Any] = {"before": self.service.ask(do="rss")}
        if count:
            self.clients.ask(id=id, count=count, stuck=stuck)  # until they are there
        found["opened"] = self.service.ask(do="rss")
        self.probe.tell(do="begin")
        self.service.tell(do="go")
        found |= self.service.hear()
        found["took"] = self.probe.ask(do="end")
        found["after"] = self.service.ask(do="rss")
        if count:
            found |= self.clients.hear()
        return found

    def idle(self, seconds: float) -> list[float]:
        """Plain requests while nothing goes on."""
        self.probe.tell(do="begin")
        time.sleep(seconds)
        took: list[float] = self.probe.ask(do="end")
        return took


def streams(bench: Bench, given: Any) -> list[Row]:
    """Training with clients and without, in turn."""
    cases = {"none": (0, 0), "all": (given.streams, 0), "stuck": (given.streams, given.stuck)}
    bench.train(SIZE, given.steps, given.streams)  # compiles, and has all loaded
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
    for counted in range(given.pairs):
        names = list(cases)
        for name in names if counted % 2 else reversed(names):
            found[name].append(bench.train(SIZE, given.steps, *cases[name]))
    none = found["none"]
    rows = [
        Row.of("no stream, a step", [f["seconds"] * 1e3 / given.steps for f in none], "ms"),
        Row.of("no stream, the event loop's part of a core", loop_share(none), "%"),
        Row.of("no stream, the request: 99 %", [quantile(f["took"], 0.99) for f in none], "ms"),
    ]
    for name, words in (("all", ""), ("stuck", f", {given.stuck} more stuck")):
        each, what = found[name], f"{given.streams} streams{words}"
        took = [f["took"] for f in each]
        held = [a["seconds"] / b["seconds"] for a, b in zip(each, none, strict=True)]
        memory = [(f["after"] - f["before"]) / 1024 / given.streams for f in each]
        rows += [
            Row.of(f"{what} / none", held, "x", 1.05),
            Row.of(f"{what}, the event loop's part of a core", loop_share(each), "%"),
            Row.of(f"{what}, the request: 99 %", [quantile(t, 0.99) for t in took], "ms", 50.0),
            Row.of(f"{what}, the request: worst", [max(t) for t in took], "ms"),
            Row.of(f"{what}, not whole", [given.streams - f["whole"] for f in each], "", 0),
            Row.of(f"{what}, memory a client", memory, "KiB"),
        ]
    return rows


def loop_share(found: list[dict[str, Any]]) -> list[float]:
    """Per cent of a core that the service's event loop takes while it trains."""
    return [f["loop"] / f["seconds"] * 100 for f in found]


def requests(bench: Bench, given: Any) -> list[Row]:
    """Plain requests while something goes on, and while nothing does, in turn."""
    cases: dict[str, Callable[[], list[float]]] = {
        "training in a thread": lambda: bench.train("1 ms", given.steps * 3)["took"],
        "compiling in a thread": lambda: bench.train("deep", None)["took"],
        "training in a process": lambda: bench.train("1 ms", given.steps * 3, process=True)["took"],
        "compiling in a process": lambda: bench.train("deep", None, process=True)["took"],
    }
    idle: list[float] = []
    found: dict[str, list[list[float]]] = {name: [] for name in cases}
    for _ in range(given.pairs):
        idle.append(quantile(bench.idle(0.3 if given.smoke else IDLE_S), 0.99))
        for name, case in cases.items():
            found[name].append(case())
    rows = [Row.of("idle: 99 %", idle, "ms")]
    for name, each in found.items():
        over = [quantile(took, 0.99) - base for took, base in zip(each, idle, strict=True)]
        budget = 1.0 if name.endswith("process") else 5.0
        rows.append(Row.of(f"{name}: 99 %, over idle", over, "ms", budget))
        rows.append(Row.of(f"{name}: worst", [max(took) for took in each], "ms"))
    return rows


def main() -> None:
    """Measures."""
    options = parser(__doc__)
    options.add_argument("--streams", type=int, default=500)
    options.add_argument("--stuck", type=int, default=50)
    options.add_argument("--steps", type=int, default=STEPS)
    given = options.parse_args()
    if given.smoke:
        given.pairs, given.streams, given.stuck, given.steps = 1, 20, 3, 60
    port, narrow, last = free_port(), free_port(), (os.cpu_count() or 1) - 1
    with (
        Part("service", port, narrow, given.smoke) as service,
        Part("clients", port, narrow, core=last) as clients,
        Part("probe", port, core=last) as probe,
    ):
        service.hear()
        bench = Bench(service, clients, probe)
        for title, rows in (
            ("event streams of a run", streams(bench, given)),
            ("a plain request", requests(bench, given)),
        ):
            show(title, rows, given)
            if given.smoke:
                check(rows)


if __name__ == "__main__":
    main()
