"""Does memory stay flat over a million batches, with a subscriber that is stuck?

Each case runs in a process of its own: it trains, and looks at its resident memory (`VmRSS` of
/proc/self/status) after a tenth of the batches and after all of them. What it has grown by between
the two is the figure. *By hand* publishes from a loop over a `Publisher`; *fit* trains a model that
does next to nothing. The stuck subscriber never returns from its first event.

Scenario 35.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
from _harness import Row, check, parser, run_on, show

import fitbus
from fitbus import BatchEnd, Bus

POLICIES = ["no subscriber", "drop_oldest", "drop_newest", "latest"]
LOGS = {"accuracy": 0.5, "loss": 0.5}


def resident_mb() -> float:
    """The resident memory of this process, in megabytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this system doesn't tell what memory a process has: /proc/self/status")


def stuck(**options: Any) -> Any:
    """A subscriber that never returns from its first event."""

    @fitbus.handler(BatchEnd, on_error="log", **options)
    async def handle(event: BatchEnd) -> None:
        await anyio.sleep_forever()

    return handle


def callbacks(policy: str) -> list[Any]:
    """The stuck subscriber, if there is to be one."""
    return [] if policy == "no subscriber" else [stuck(overflow=policy)]


async def by_hand(policy: str, batches: int) -> float:
    """Grows by so many megabytes."""
    seen: list[float] = []
    async with Bus() as bus:
        for callback in callbacks(policy):
            bus.add(callback)
        publisher = bus.publisher()

        def train() -> None:
            for batch in range(batches):
                publisher.boundary()
                publisher.step += 1
                publisher.publish(BatchEnd(batch=batch, logs=LOGS, batch_logs=LOGS))
                if batch + 1 in (batches // 10, batches):
                    seen.append(resident_mb())
            publisher.close()

        await anyio.to_thread.run_sync(train)
        await bus.aclose(drain_s=0)
    return seen[1] - seen[0]


async def fitting(policy: str, batches: int) -> float:
    """The same by `fit`."""
    import numpy as np
    from scale import Tiny

    trainer = fitbus.Trainer(Tiny(), {"w": np.zeros(1, np.float32)})
    x = np.ones((1000, 1), np.float32)
    seen: list[float] = []

    def look(event: BatchEnd) -> bool:  # in the training thread
        if event.batch + 1 in (batches // 10, batches):
            seen.append(resident_mb())
        return False

    looking = stuck(where=look)
    await trainer.fit(
        x,
        batch_size=1,
        steps_per_epoch=batches,
        callbacks=[*callbacks(policy), looking],
        drain_s=0,
    )
    return seen[1] - seen[0]


def grown(way: str, policy: str, batches: int, loop: str) -> float:
    """What a process of its own has grown by."""
    ended = subprocess.run(  # noqa: S603  # this script
        [sys.executable, __file__, "--loop", loop, "--case", way, policy, str(batches)],
        check=True,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    return float(json.loads(ended.stdout))


def case(options: argparse.Namespace) -> None:
    """Runs one case, and prints what it has grown by."""
    import logging

    logging.getLogger("fitbus").setLevel(logging.CRITICAL)  # that it is stuck is no news
    way, policy, batches = options.case
    run = by_hand if way == "by hand" else fitting
    print(json.dumps(run_on(options.loop, lambda: run(policy, int(batches)))))


def main() -> None:
    """Measures all cases, one process after the other."""
    arguments = parser(__doc__)
    arguments.add_argument("--batches", type=int, default=1_000_000)
    arguments.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.case:
        case(options)
        return
    if options.smoke:
        options.batches = 20_000
    options.pairs = 1
    rows = [
        Row.of(
            f"{way}, {policy}, {options.batches} batches",
            [grown(way, policy, options.batches, options.loop)],
            "MB",
            None if options.smoke else 5.0,
        )
        for way in ("by hand", "fit")
        for policy in (POLICIES if not options.smoke else POLICIES[:2])
    ]
    show("growth of memory", rows, options)
    if options.smoke:
        check(rows, {"": (-200.0, 50.0)})


if __name__ == "__main__":
    main()
