"""Small programs to learn from, each to be read from top to bottom and run as a module.

- `demo`: all of it at once, on real handwritten digits (`python -m fitbus demo`).
- `keras_guide`: the callbacks of Keras' guide to writing your own.
- `keras_model`: a compiled Keras model and unmodified Keras callbacks under `await fit()`.
- `beside_other_work`: `await fit()` in an event loop that has other things to do.
- `notebook.ipynb`: runs watched and steered from the cells of a notebook, to be opened in Jupyter.
- `loop_by_hand`: a training loop of your own, watched and steered over the bus.
- `custom_event_and_control`: an event and a control of your own, on the bus and on the wire.
- `accumulated_gradients`: a task of your own, one optimizer update for several batches.
- `batch_statistics`: a task with running statistics and dropout.
- `service_fastapi`: a FastAPI service that trains on request, and answers others meanwhile.
- `service_starlette`: the same by Starlette, on trio.
- `two_optimizers`: a task with two optimizers, each steered by itself.

    python -m fitbus.examples.keras_guide
"""

from __future__ import annotations

__all__: list[str] = []
