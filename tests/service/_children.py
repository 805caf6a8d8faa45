"""Services in processes of their own, which are told to end as an operator tells them."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from typing import IO, Any, final

import httpx

__all__ = ["Child", "child", "started", "until"]


@final
class Child:
    """One that serves.

    Attributes:
        url: Where, as it said itself.
        token: What controls need, as it said itself; empty if it didn't.
        said: What it printed and logged until then; all, when it has ended.
    """

    def __init__(self, process: subprocess.Popen[str], *marks: str) -> None:
        self.process, self.said = process, ""
        while not all(re.search(mark, self.said) for mark in marks):
            line = self._out.readline()
            assert line, f"it ended: {self.said}"
            self.said += line
        (self.url,) = re.findall(r"http://[\w.:]+", self.said)[:1]
        found = re.search(r"token, made for this start: (\S+)", self.said)
        self.token = found[1] if found else ""

    @property
    def _out(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def client(self) -> httpx.Client:
        """One that may steer."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def wait(self) -> None:
        """Waits until it has ended."""
        self.said += self._out.read()
        self.process.wait(60)

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Tells it to end; the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        self.wait()
        return time.monotonic() - begun


@contextlib.contextmanager
def child(*words: str, marks: Sequence[str], **options: Any) -> Generator[Child]:
    """Starts `python -m WORDS`, and waits until it has said the marks, regular expressions."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )
    try:
        yield Child(process, *marks)
    finally:
        process.kill()
        process.communicate()


def started(client: httpx.Client, factory: str, **parameters: Any) -> str:
    """The id of a run."""
    answer = client.post("runs", json={"factory": factory, "parameters": parameters})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def until(lines: Any, word: str) -> list[str]:
    """The lines of a stream until one has the word; all, if it is empty."""
    found: list[str] = []
    for line in lines:
        found.append(line)
        if word and word in line:
            break
    assert not word or word in found[-1], "the stream has ended"
    return found
