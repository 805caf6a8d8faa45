"""Watching one value of the logs: what is better, and what can appear at all."""

from __future__ import annotations

import ctypes
import math
import re
from typing import Literal, final, get_args

from fitbus.errors import InvalidArgumentError, one_of

__all__ = ["Mode", "Monitor"]

Mode = Literal["auto", "min", "max"]

# Words of a metric's name that say that less is better, and words that say that more is. Whole
# words: "accumulated_error", "layer2_mse" and "various" hold "acc", "r2" and "iou" too.
_LESS_IS_BETTER = (
    "abs_rel bce bits_per_byte bits_per_character bits_per_dim bpb bpc bpd brier cer chamfer "
    "crossentropy cross_entropy deviance distance divergence ece error fid fnr fpr "
    "false_negative false_negatives false_positive false_positives hinge huber kld kl lpips "
    "logcosh log_cosh logloss loss mae mape misclassification mse msle nll nrmse perplexity "
    "poisson ppl regret rmse rmsle smape wer "
)
_MORE_IS_BETTER = (
    "acc accuracy ap auc auprc auroc bertscore bleu cider correlation dice f1 f1score f2 fbeta "
    "fscore hits iou io_u jaccard kappa mcc meteor mrr ndcg precision proximity psnr r2 "
    "r2score recall reward rouge sensitivity similarity specificity ssim success_rate tnr tpr "
    "topk top_k true_negative true_negatives true_positive true_positives "
)
_TURNED_ROUND = ("neg", "negative", "minus", "inverse")  # "neg_mean_squared_error"
_ENDS = {"accuracy": True, "iou": True, "precision": True, "loss": False, "crossentropy": False}


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
        self._more_is_better = mode == "max" if mode != "auto" else _more_is_better(name)
        self._min_delta = abs(min_delta)

    def improves(self, value: float, best: float | None) -> bool:
        """Whether a value is better than the best one, by more than `min_delta`. NaN never is.

        As in Keras they are compared as float32, in which metrics are computed: from 0.3 to 0.2 is
        exactly 0.1 then, and not more by a rounding.

        Raises:
            InvalidArgumentError: The mode is `"auto"`, and the name doesn't tell the direction.
        """
        more_is_better = self.check_direction()
        if math.isnan(value):
            return False
        if best is None:
            return True
        if more_is_better:
            return _single(value - self._min_delta) > _single(best)
        return _single(value + self._min_delta) < _single(best)

    def check_direction(self) -> bool:
        """Whether more is better; refuses a name from which that can't be told."""
        if self._more_is_better is None:
            raise InvalidArgumentError(
                f"{self._owner}.mode",
                "auto",
                f"the name {self.name!r} doesn't say whether less or more of it is better; give"
                " mode='min' or mode='max'",
            )
        return self._more_is_better

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


def _single(value: float) -> float:
    """The float32 next to a number; infinite beyond them."""
    return ctypes.c_float(value).value


def _more_is_better(name: str) -> bool | None:
    """What a name says about its direction; None if that is nothing, or two things at once."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    while len(words) > 1 and words[-1].isdigit():  # "auc_1": Keras numbers what has one name
        words.pop()
    if words and words[-1] in ("loss", "error") and words[0] not in _TURNED_ROUND:
        return False  # "accuracy_loss"
    text = f"_{'_'.join(words)}_".replace("_negative_log_likelihood_", "_nll_")
    said = {
        more
        for more, known in ((False, _LESS_IS_BETTER), (True, _MORE_IS_BETTER))
        for word in known.split()
        if re.search(rf"_{word}[0-9]*_", text)
    }
    said |= {more for word in words for end, more in _ENDS.items() if word.endswith(end)}
    if len(said) != 1 or any(f"_{word}_" in text for word in _TURNED_ROUND):
        return None
    return said.pop()
