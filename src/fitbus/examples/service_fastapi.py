"""Shows a FastAPI service that trains on request, and answers others meanwhile.

python -m fitbus.examples.service_fastapi 8000
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from fitbus import Runs, service
from fitbus.examples._digits import digits, digits_trainer

runs = Runs()


def train(epochs: int = 20, learning_rate: float = 1e-4) -> service.Training:
    """What clients may start, with these parameters."""
    (x, y), held_out, _ = digits()
    trainer = digits_trainer(learning_rate)
    return service.Training(trainer, x, y, epochs=epochs, validation_data=held_out)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Stops the runs when the service ends."""
    async with runs:
        yield


api = FastAPI(lifespan=lifespan)
api.mount("/training", service.app(runs, {"digits": train}))
api.get("/steps")(lambda: {id: run.statistics().step for id, run in runs.items()})

if __name__ == "__main__":
    uvicorn.run(api, port=int(sys.argv[1] if sys.argv[1:] else 8000))
