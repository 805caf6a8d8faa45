"""What a range test suggests, draws, remembers, and takes as arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from fitbus.callbacks import LearningRateFinder
from fitbus.errors import InvalidArgumentError


def found(losses: Sequence[float], mode: Any = "exponential") -> LearningRateFinder:
    """One that has found these losses, as its `state_dict` brings them back."""
    finder = LearningRateFinder(steps=len(losses), mode=mode)
    rates = [finder._rate(number) for number in range(len(losses))]
    state = {"learning_rates": rates, "losses": list(losses), "diverged": False, "mean": 0.0}
    finder.load_state_dict({**state, "state": []})
    return finder


def fall(place: float, steps: int = 40) -> list[float]:
    """Losses that fall most steeply somewhere."""
    return [float(1 / (1 + np.exp(number - place))) + 1 for number in range(steps)]


@pytest.mark.parametrize("mode", ["exponential", "linear"])
@pytest.mark.parametrize("place", [11, 20, 37])
def test_it_suggests_where_the_loss_falls_most_steeply(mode: Any, place: int) -> None:
    finder = found(fall(place), mode)
    assert finder.suggestion == finder.learning_rates[place]


def test_the_beginning_and_the_last_one_are_left_out() -> None:
    first = found([*range(20, 10, -1), *fall(10)])
    assert first.suggestion == first.learning_rates[20]
    last = found([*fall(20), 0.0])
    assert last.suggestion == last.learning_rates[20]


@pytest.mark.parametrize(
    "losses",
    [
        [1.0 + n / 100 for n in range(40)],
        [1.0] * 40,
        [1 - n * 1e-15 for n in range(40)],
        fall(5, 13),
    ],
)
def test_where_nothing_falls_or_too_little_was_tried_it_suggests_nothing(losses: Any) -> None:
    assert found(losses).suggestion is None
    assert LearningRateFinder().suggestion is None


def test_it_draws_the_losses_and_the_suggestion() -> None:
    """On axes that are given; by factors on a logarithmic scale."""
    finder = found(fall(20))
    ax = Figure().subplots()
    assert finder.plot(ax) is ax
    curve, point = ax.get_lines()
    assert np.array_equal(curve.get_xydata(), np.transpose([finder.learning_rates, finder.losses]))
    assert np.asarray(point.get_xdata()).tolist() == [finder.suggestion]
    assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "learning rate")
    legend = ax.get_legend()
    assert legend is not None
    (text,) = legend.get_texts()
    assert text.get_text() == f"suggestion: {finder.suggestion:.2e}"
    flat = found([1.0] * 20, "linear").plot(Figure().subplots())
    assert (len(flat.get_lines()), flat.get_xscale()) == (1, "linear")


def test_without_axes_it_draws_on_a_new_figure_of_pyplot() -> None:
    with mpl.rc_context({"backend": "agg"}):
        from matplotlib import pyplot as plt

        ax = found(fall(20)).plot()
        (number,) = plt.get_fignums()
        assert plt.figure(number) is ax.figure
        plt.close(number)


def test_state_dict_holds_what_it_found() -> None:
    finder, other = found(fall(20)), LearningRateFinder()
    state = finder.state_dict()
    assert (state["losses"], state["state"]) == (finder.losses, [])
    other.load_state_dict(state)
    assert other.state_dict() == state
    assert other.suggestion == finder.suggestion


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("min_lr", 0),
        ("min_lr", -1e-3),
        ("min_lr", math.nan),
        ("min_lr", "1e-7"),
        ("max_lr", 1e-7),
        ("max_lr", math.inf),
        ("max_lr", None),
        ("steps", 1),
        ("steps", 2.5),
        ("steps", True),
        ("mode", "cosine"),
        ("smoothing", 1.0),
        ("smoothing", -0.1),
        ("smoothing", math.nan),
        ("diverges_at", 1),
        ("diverges_at", math.inf),
        ("diverges_at", "4"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_name(argument: str, value: Any) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        LearningRateFinder(**{argument: value})
    assert str(raised.value).startswith(f"LearningRateFinder.{argument}: found {value!r}; ")
