"""The processes of service.py: a service that trains, clients of its streams, and a prober.

Each is this file with its part's name; it takes JSON lines on its standard input, and answers so.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, Self

__all__ = ["Part"]

FRAMING = re.compile(rb"\r\n[0-9a-f]+\r\n")  # of a chunked answer, wherever it was cut
IDS = re.compile(rb"id: [^:\n]+:(\d+)\n")
PROBE_S = 0.01
# Where stuck clients connect. The system would take in megabytes for each, which is all of a run.
NARROW = 4096


class Part:
    """A process of the benchmark, as the one that leads it sees it.

    Args:
        name: Which part.
        arguments: What its `main` is given.
        core: The core that it is bound to; None for all.
    """

    def __init__(self, name: str, *arguments: Any, core: int | None = None) -> None:
        environment = dict(os.environ)
        if name == "service":  # one core computes; the event loop has the other one
            environment["NPROC"] = "1"  # how many threads XLA has for the CPU
        self._process = subprocess.Popen(  # noqa: S603  # this file
            [sys.executable, __file__, name, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self._process.pid, {core})

    def tell(self, **what: Any) -> None:
        """Sends a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def hear(self) -> Any:
        """The next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a part of the benchmark ended with status {self._process.wait()}")
        return json.loads(line)

    def ask(self, **what: Any) -> Any:
        """Sends a command, and waits for the answer."""
        self.tell(**what)
        return self.hear()

    def __enter__(self) -> Self:
        """Ends it when the block is left."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def answer(found: Any) -> None:
    """Writes an answer."""
    print(json.dumps(found), flush=True)


def commands(tell: Callable[[Any], object]) -> None:
    """Hands on the commands that come, in a thread of its own; None at their end."""

    def read() -> None:
        for line in sys.stdin:
            tell(json.loads(line))
        tell(None)

    threading.Thread(target=read, daemon=True).start()


def request(port: int, path: str) -> bytes:
    """A request for a path."""
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


# The service.


class Service:
    """Serves, and trains when told to."""

    def __init__(self, port: int, narrow: int, smoke: bool) -> None:
        import uvicorn

        import fitbus

        self._smoke = smoke
        self._runs = fitbus.Runs(keep=1)
        app = fitbus.service.app(self._runs, control_token="not used", max_streams=2000)  # noqa: S106
        self._sockets = [listening(port), listening(narrow, buffer=NARROW)]
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
        self._server = uvicorn.Server(config)
        self._trainers: dict[str, Any] = {}
        self._go = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def main(self) -> None:
        """Does what it is told."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        commands(lambda what: loop.call_soon_threadsafe(queue.put_nowait, what))
        serving = loop.create_task(self._server.serve(self._sockets))
        while not self._server.started:  # noqa: ASYNC110  # it has no event for that
            await asyncio.sleep(0.01)
        answer("up")
        while (what := await queue.get()) is not None:
            match what["do"]:
                case "train":
                    self._go = asyncio.Event()
                    task = loop.create_task(self._train(what, self._go))
                    self._tasks.add(task)
                    task.add_done_callback(self._ended)
                case "go":
                    self._go.set()
                case _:
                    answer(rss())
        self._server.should_exit = True
        await serving

    async def _train(self, what: dict[str, Any], go: asyncio.Event) -> None:
        """A run; it begins when it may, and its answer comes at its end."""
        import fitbus

        times: list[float] = []

        began = asyncio.Event()

        @fitbus.handler(fitbus.TrainBegin)
        async def hold(event: Any) -> None:
            began.set()  # a child process has JAX by now
            await go.wait()

        @fitbus.handler(fitbus.EpochBegin, fitbus.EpochEnd)
        def note(event: Any) -> None:
            times.append(time.perf_counter())

        run: Any
        if what["process"]:
            size, steps, id = what["size"], what["steps"], what["id"]
            arguments = ("_service_parts:training", size, steps, self._smoke)
            run = fitbus.ProcessRun(*arguments, callbacks=[hold, note], run_id=id)
            self._runs.own(run)
        else:
            trainer, data, batch = await self._trainer(what["size"])
            run = self._runs.start(
                trainer,
                *data,
                batch_size=batch,
                epochs=1,
                steps_per_epoch=what["steps"],
                callbacks=[hold, note],
                run_id=what["id"],
            )
        await began.wait()
        answer("there")
        await go.wait()  # what opening the streams takes isn't counted
        begun = time.thread_time()
        await run.wait()
        answer({"seconds": times[1] - times[0], "loop": time.thread_time() - begun})

    async def _trainer(self, size: str) -> Any:
        """A trainer, its data and its batch size; one whose step was compiled, unless `deep`."""
        import fitbus

        built, batch = sized(size, self._smoke)
        if size == "deep":
            return fitbus.Trainer(built.task, built.params), (built.x, built.y), batch
        if size not in self._trainers:
            trainer = fitbus.Trainer(built.task, built.params)
            await trainer.fit(built.x, built.y, batch_size=batch, epochs=1)
            self._trainers[size] = trainer, (built.x, built.y), batch
        return self._trainers[size]

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            traceback.print_exception(error)
            os._exit(1)  # whoever leads sees it, and doesn't wait for an answer


def sized(size: str, smoke: bool) -> tuple[Any, int]:
    """What is trained, and its batch size."""
    from _model import SIZES, build

    if size == "deep":
        return build(64, 32, 2, layers=2 if smoke else 24), 32
    width, batch, steps = SIZES[size]
    return build(width, batch, 20 if smoke else steps), batch


def training(size: str, steps: int | None, smoke: bool) -> Any:
    """The same in a child process."""
    import fitbus

    built, batch = sized(size, smoke)
    trainer = fitbus.Trainer(built.task, built.params)
    options: dict[str, Any] = {"batch_size": batch, "epochs": 1, "steps_per_epoch": steps}
    return fitbus.train.Training(trainer, built.x, built.y, **options)


def listening(port: int, buffer: int | None = None) -> socket.socket:
    """A socket that listens; its connections have a buffer of so many bytes for what is sent."""
    # Named as TCP, or asyncio leaves Nagle's algorithm on: 40 ms for an answer in two parts.
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    one.bind(("127.0.0.1", port))
    return one


def rss() -> int:
    """Bytes of memory that this process has."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The clients.


class Client:
    """A stream, and what came of it."""

    def __init__(self) -> None:
        self.events = self.gaps = 0
        self.ended = False
        self._next = 0
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Counts what came."""
        data = FRAMING.sub(b"", self._rest + data)
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._rest = data
            return
        self._rest = data[end:]
        seqs = [int(seq) for seq in IDS.findall(data, 0, end)]
        if seqs:
            in_order = seqs == list(range(self._next, self._next + len(seqs)))
            self.gaps += not in_order
            self._next = seqs[-1] + 1
            self.events += len(seqs)
        self.ended = self.ended or b'"TrainEnd"' in data


async def follow(port: int, run: str, client: Client, ready: asyncio.Semaphore) -> None:
    """Reads one stream to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    writer.write(request(port, f"/runs/{run}/events"))
    await reader.readuntil(b"\r\n\r\n")
    ready.release()
    while data := await reader.read(1 << 20):
        client.take(data)
        if b"event: end" in data[-64:]:
            break
    writer.close()


def clients(port: int, narrow: int) -> None:
    """Opens streams when told to, and tells what came of them."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()
        commands(lambda what: loop.call_soon_threadsafe(queue.put_nowait, what))
        stuck: list[socket.socket] = []
        while (what := await queue.get()) is not None:
            for _ in range(what["stuck"]):
                one = socket.socket()
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.connect(("127.0.0.1", narrow))
                one.sendall(request(narrow, f"/runs/{what['id']}/events"))
                stuck.append(one)
            found = [Client() for _ in range(what["count"])]
            ready = asyncio.Semaphore(0)
            async with asyncio.TaskGroup() as tasks:
                for client in found:
                    tasks.create_task(follow(port, what["id"], client, ready))
                for _ in found:
                    await ready.acquire()
                answer("ready")
            for one in stuck:
                one.close()
            stuck.clear()
            events = {client.events for client in found}
            whole = sum(client.ended and not client.gaps for client in found)
            answer({"whole": whole, "least": min(events), "most": max(events)})

    asyncio.run(main())


# The prober.


def probe(port: int) -> None:
    """Asks again and again for something plain, between `begin` and `end`."""
    going = threading.Event()
    took: list[float] = []
    done = threading.Event()

    def ask() -> None:
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain = request(port, "/healthz")
        while going.is_set():
            begun = time.perf_counter()
            one.sendall(plain)
            data = b""
            while b"}" not in data:
                data += one.recv(4096)
            took.append((time.perf_counter() - begun) * 1e3)
            time.sleep(PROBE_S)
        one.close()
        done.set()

    for line in sys.stdin:
        if json.loads(line)["do"] == "begin":
            took.clear()
            going.set()
            done.clear()
            threading.Thread(target=ask, daemon=True).start()
        else:
            going.clear()
            done.wait()
            answer(took)


if __name__ == "__main__":
    part, port = sys.argv[1], int(sys.argv[2])
    match part:
        case "service":
            asyncio.run(Service(port, int(sys.argv[3]), sys.argv[4] == "True").main())
        case "clients":
            clients(port, int(sys.argv[3]))
        case _:
            probe(port)
