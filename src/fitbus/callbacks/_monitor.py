"""Watching one value of the logs: what is better, and what can appear at all."""

from __future__ import annotations

import math
import re
from typing import Literal, final, get_args

from fitbus.errors import InvalidArgumentError, one_of

__all__ = ["Mode", "Monitor"]

Mode = Literal["auto", "min", "max"]

# Words of a metric's name that say that more is better, and words that say the contrary. Whole
# words: "accumulated_error", "layer2_mse" and "various" hold "acc", "r2" and "iou" too.
_MORE_IS_BETTER = frozenset(
    (
        "acc",
        "auc",
        "auroc",
        "auprc",
        "cosine",
        "f1",
        "f1score",
        "fbeta",
        "precision",
        "r2",
        "r2score",
        "recall",
        "topk",
    )
)
_LESS_IS_BETTER = frozenset(("loss", "error", "distance"))


@final
class Monitor:
    """Judges values of one name.

    Args:
        owner: The callback's name, for messages.
        name: The name in the logs.
        mode: `"min"`, `"max"` or `"auto"`.
        min_delta: An improvement is strictly more than this.
    """

    def __init__(self, owner: str, name: str, mode: Mode, min_delta: float) -> None:
        self._owner = owner
        if not isinstance(name, str) or not name:
            raise InvalidArgumentError(f"{owner}.monitor", name, "give a name in the logs")
        if mode not in get_args(Mode):
            raise InvalidArgumentError(f"{owner}.mode", mode, one_of(get_args(Mode)))
        if not isinstance(min_delta, int | float) or not math.isfinite(min_delta):
            raise InvalidArgumentError(f"{owner}.min_delta", min_delta, "give a finite number")
        self.name = name
        self.more_is_better = mode == "max" or (mode == "auto" and _more_is_better(name))
        self._min_delta = abs(min_delta)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best one, by more than `min_delta`. NaN never is."""
        if math.isnan(value):
            return False
        if best is None:
            return True
        if self.more_is_better:
            return value - self._min_delta > best
        return value + self._min_delta < best

    def check_names(self, names: frozenset[str]) -> None:
        """Refuses a name that logs will never have."""
        if self.name not in names:
            raise InvalidArgumentError(
                f"{self._owner}.monitor", self.name, f"the logs will have {sorted(names)}"
            )

    def check_baseline(self, value: object) -> None:
        """Refuses what nothing can be compared with."""
        if value is not None and (not isinstance(value, int | float) or math.isnan(value)):
            raise InvalidArgumentError(f"{self._owner}.baseline", value, "give a number, or None")

    def check_count(self, argument: str, value: object) -> None:
        """Refuses what is no whole number of at least 0."""
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise InvalidArgumentError(
                f"{self._owner}.{argument}", value, "give a whole number of at least 0"
            )


def _more_is_better(name: str) -> bool:
    """What a name says about its direction: in words, with or without a number behind them."""
    words = re.findall(r"[a-z0-9]+", name.lower().replace("top_k", "topk"))
    if not _LESS_IS_BETTER.isdisjoint(words):
        return False
    return any(
        word in _MORE_IS_BETTER
        or word.rstrip("0123456789") in _MORE_IS_BETTER
        or word.endswith(("accuracy", "iou"))
        for word in words
    )
