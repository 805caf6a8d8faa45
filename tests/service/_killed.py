"""A service that is killed, and started again: `python _killed.py PORT FOLDER`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import uvicorn

import fitbus
from fitbus.callbacks import BackupAndRestore, Journal
from fitbus.testing import toy_problem

EPOCHS, PAUSED = 130, 120  # how many, and after which it pauses
TOKEN = "the-token-to-steer"  # noqa: S105


@fitbus.handler(fitbus.EpochEnd)
def pause(event: fitbus.EpochEnd) -> fitbus.Pause | None:
    """Waits for somebody to resume it."""
    return fitbus.Pause() if event.epoch == PAUSED else None


def main(port: int, folder: Path) -> None:
    """Serves one run, which goes on from its backup."""
    problem = toy_problem(256)
    trainer = fitbus.Trainer(problem.task, problem.params)
    runs = fitbus.Runs()

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncGenerator[None]:
        async with runs:
            runs.start(
                trainer,
                problem.x,
                problem.y,
                batch_size=64,
                epochs=EPOCHS,
                run_id="the-run",
                callbacks=[
                    pause,
                    BackupAndRestore(folder / "backup", delete_checkpoint=False),
                    Journal(folder / "journal", append=True),
                ],
            )
            yield

    app = fitbus.service.app(runs, control_token=TOKEN)
    app.router.lifespan_context = lifespan
    uvicorn.run(app, port=port, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
