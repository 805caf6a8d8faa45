"""What a factory of trainings returns: a service's, or that of a child process."""

from __future__ import annotations

from typing import Any, final

from fitbus.errors import InvalidArgumentError
from fitbus.train._trainer import Trainer

__all__ = ["Training"]


@final
class Training:
    """What a factory returns: a trainer, and what its `fit` is given.

    Args:
        trainer: The trainer.
        x: As in `Trainer.fit`.
        y: As in `Trainer.fit`.
        options: As in `Trainer.fit`.
    """

    def __init__(self, trainer: Trainer, x: Any, y: Any = None, **options: Any) -> None:
        if not isinstance(trainer, Trainer):
            raise InvalidArgumentError("trainer", trainer, "give a fitbus.Trainer")
        self.trainer, self.x, self.y, self.options = trainer, x, y, options
