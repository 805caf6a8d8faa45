"""`python -m fitbus serve`: the service alone, with factories of the user's own."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitbus._specs import MistakeError, named
from fitbus.errors import FitbusError

if TYPE_CHECKING:
    from starlette.applications import Starlette

__all__ = ["main"]

_MODULES = ("starlette", "uvicorn", "websockets", "prometheus_client")
_READ, _CONTROL = "FITBUS_READ_TOKEN", "FITBUS_CONTROL_TOKEN"
_CUT_S = 5  # after which uvicorn cuts what is open


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until it is told to end; returns the exit status."""
    options = _parser().parse_args(arguments)
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        _serve(options)
    except (MistakeError, FitbusError, OSError) as mistake:
        sys.stderr.write(f"python -m fitbus serve: {mistake}\n")
        return 2
    except KeyboardInterrupt:  # before it served
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _serve(options: argparse.Namespace) -> None:
    if missing := [name for name in _MODULES if importlib.util.find_spec(name) is None]:
        raise MistakeError(f'it needs {", ".join(missing)}: pip install "fitbus[service]"')
    hosts = _hosts(options)
    # Before uvicorn sets up its own: what the service logs is for who started it.
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for name in ("fitbus", "uvicorn"):
        logging.getLogger(name).setLevel(logging.INFO)
    from fitbus import service
    from fitbus.train import Runs

    factories = _factories(options.factories)
    token = options.control_token or secrets.token_urlsafe(24)
    app = service.app(
        Runs(grace_s=options.grace_s),
        factories,
        processes=options.processes,
        read_token=options.read_token,
        control_token=token,
        hosts=hosts,
        max_running=options.max_running,
    )
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    with socket.create_server((options.host, options.port), family=family) as listener:
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"http://{host}:{listener.getsockname()[1]}/"
        sys.stdout.write(f"serving {', '.join(sorted(factories))} at {url}\n")
        if options.control_token is None:
            sys.stdout.write(f"controls need this token, made for this start: {token}\n")
        sys.stdout.flush()
        _run(app, listener, options.forwarded_allow_ips)


def _run(app: Starlette, listener: socket.socket, proxies: str | None) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=_CUT_S,
        lifespan="on",
        # A client that says itself where it comes from is counted as nobody.
        proxy_headers=proxies is not None,
        forwarded_allow_ips=proxies,
    )
    server = uvicorn.Server(config)

    def end(_signal: int, _frame: object) -> None:
        server.should_exit = True

    # uvicorn minds them while it serves, and raises them again when it has ended in good order.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    server.run(sockets=[listener])
    if not server.started:
        raise MistakeError("it couldn't start; its log says why")


def _hosts(options: argparse.Namespace) -> list[str]:
    """The names under which it may be reached."""
    from fitbus.service import LOOPBACK

    names = [*LOOPBACK, *options.name]
    try:
        address = ipaddress.ip_address(options.host)
    except ValueError:
        address = None
    if options.host == "localhost" or (address is not None and address.is_loopback):
        return [*names, options.host]
    if options.read_token is None or options.control_token is None:
        raise MistakeError(
            f"--host {options.host} is reached by others: say who may read and who may steer by"
            f" {_READ} and {_CONTROL}, or by --read-token and --control-token"
        )
    if address is not None and address.is_unspecified and not options.name:
        raise MistakeError(
            f"--host {options.host} is all of this machine's addresses: say the names by which it"
            " is reached, such as --name runs.example.org"
        )
    return [*names, f"[{options.host}]" if ":" in options.host else options.host]


def _factories(spec: str) -> Mapping[str, Callable[..., Any]]:
    found = named(spec, "a factory")
    if isinstance(found, Mapping):
        entries: Mapping[Any, Any] = found
        if entries and all(isinstance(name, str) and callable(f) for name, f in entries.items()):
            return entries
    elif callable(found) and not isinstance(found, type):
        return {spec.rpartition(":")[2].rpartition(".")[2]: found}
    raise MistakeError(
        f"{spec!r} is {type(found).__name__}; name a function that returns a"
        " fitbus.service.Training, or a dict of names and such functions"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fitbus serve",
        description="Serves a page and an API by which runs are started, watched and steered.",
        epilog=f"Tokens are better kept out of command lines, which others on the machine can read:"
        f" {_READ} and {_CONTROL} in the environment say them, too.",
    )
    parser.add_argument(
        "factories",
        metavar="MODULE:NAME",
        help="a function that returns a fitbus.service.Training, or a dict of them by name; also"
        " path/to/file.py:NAME",
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="the port; 0: a free one (8000)")
    parser.add_argument(
        "--name", action="append", default=[], help="a name under which it is reached (repeatable)"
    )
    parser.add_argument(
        "--forwarded-allow-ips",
        metavar="IPS",
        help="addresses of proxies, by commas, whose X-Forwarded-For and X-Forwarded-Proto are"
        " believed; without it nobody's are",
    )
    parser.add_argument(
        "--max-running", type=int, default=1, metavar="N", help="how many run at once (1)"
    )
    parser.add_argument(
        "--processes", action="store_true", help="each run trains in a process of its own"
    )
    parser.add_argument(
        "--read-token", default=os.environ.get(_READ), metavar="T", help="needed to read"
    )
    parser.add_argument(
        "--control-token",
        default=os.environ.get(_CONTROL),
        metavar="T",
        help="needed to start and steer; without it one is made and printed",
    )
    parser.add_argument(
        "--grace-s",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds that runs get to stop at the end, before they are cancelled (10)",
    )
    return parser
