"""Services in processes of their own, which are told to end as an operator tells them."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, final

import httpx

__all__ = ["Child", "child", "started", "until"]


@final
class Child:
    """One that serves.

    Attributes:
        url: Where, as it said itself.
        token: What controls need, as it said itself; empty if it didn't.
        first: What it printed until then.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path, mark: str) -> None:
        self.process, self._log, self.first, self.token = process, log, "", ""
        assert process.stdout is not None
        while not re.search(mark, self.first):
            line = process.stdout.readline()
            assert line, f"it ended: {self.first}{self.log}"
            self.first += line
        (self.url,) = re.findall(r"http://[\w.:]+", self.first)[:1]
        if found := re.search(r"token, made for this start: (\S+)", self.first):
            self.token = found[1]

    @property
    def log(self) -> str:
        """What it wrote to the standard error stream."""
        return self._log.read_text("utf-8")

    def client(self) -> httpx.Client:
        """One that may steer."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def end(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Tells it to end; the seconds that it took."""
        begun = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(60)
        return time.monotonic() - begun


@contextlib.contextmanager
def child(*words: str, mark: str, **options: Any) -> Generator[Child]:
    """Starts `python -m WORDS`, and waits until it has printed the mark, a regular expression."""
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            **options,
        )
        try:
            yield Child(process, Path(log.name), mark)
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
