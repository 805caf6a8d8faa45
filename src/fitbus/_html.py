"""What a notebook shows: words, tables and curves as HTML, without scripts or style sheets.

It is right in a light and in a dark theme, since text has the page's own color, and it goes on
saying what it says where a viewer leaves out pictures. What others named is escaped and cut.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = [
    "MOST_POINTS",
    "Points",
    "box",
    "curve",
    "escaped",
    "leading",
    "number",
    "ordered",
    "table",
]

Points: TypeAlias = Sequence[tuple[float, float]]

MOST_POINTS = 200  # of a line that is drawn

_MOST_TEXT = 60
_WIDTH, _HEIGHT = 600, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 590, 10, 145
_STEEP = 50  # from here on, the ratio of the greatest value to the least asks for a log scale
# Colors that stand out from white and from black; dashes tell the lines apart without them.
_STYLES = (("#3b82f6", ""), ("#e8710a", "6 3"))
_NOTHING: Mapping[str, Points] = {}
_FAINT = ("#888888", "2 3")


def escaped(text: object, most: int = _MOST_TEXT) -> str:
    """A text of any kind and length, to be set among HTML."""
    whole = str(text)
    return html.escape(whole if len(whole) <= most else f"{whole[: most - 1]}…")


def number(value: Any) -> str:
    """A value of logs in four digits; what is no number as it spells itself."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return str(value)
    return f"{found:.4f}" if found == 0 or 1e-3 <= abs(found) < 1e6 else f"{found:.4g}"


def leading(names: Iterable[str]) -> list[str]:
    """Which of these logs are drawn: the loss, or else the first of them; and its validation's."""
    found = list(names)
    first = "loss" if "loss" in found else next((n for n in found if n[:4] != "val_"), None)
    return [name for name in (first, f"val_{first}") if name in found]


def ordered(names: Iterable[str]) -> list[str]:
    """All of them: those that are drawn, then the others."""
    found = list(names)
    first = leading(found)
    return [*first, *(name for name in found if name not in first)]


def box(title: str, facts: str, *parts: str) -> str:
    """What belongs together: a title and facts, both plain text, above parts in HTML."""
    head = f"<div><strong>{escaped(title)}</strong> &nbsp;{escaped(facts, 300)}</div>"
    style = "max-width:640px;line-height:1.5;font-variant-numeric:tabular-nums"
    return f'<div style="{style}">{head}{"".join(parts)}</div>'


def table(rows: Sequence[Sequence[object]]) -> str:
    """A table whose first row and column say what the others are; its cells are plain text."""
    head, *others = [[escaped(cell) for cell in row] for row in rows]
    pad = "padding:1px 14px 1px 0;white-space:nowrap"
    first, other = f'style="{pad};text-align:left"', f'style="{pad};text-align:right"'
    columns = "".join(
        f'<th scope="col" {other if place else first}>{cell}</th>'
        for place, cell in enumerate(head)
    )
    body = "".join(
        f'<tr><th scope="row" {first}>{row[0]}</th>'
        + "".join(f"<td {other}>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in others
    )
    return (
        '<table style="border-collapse:collapse;margin:4px 0">'
        f"<thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table>"
    )


def curve(lines: Mapping[str, Points], axis: str, faint: Mapping[str, Points] = _NOTHING) -> str:
    """Draws lines over a common axis, with their last values below; nothing without a point.

    Of each, 200 points at most are drawn, and those that aren't finite are left out; so its size
    and cost are bounded. Where values differ by far, the scale is logarithmic.

    Args:
        lines: The points by the name of each line, in the order of the axis; two at most.
        axis: What the axis counts.
        faint: Another line, behind the others.
    """
    styled = [
        *zip(faint.items(), [_FAINT], strict=False),
        *zip(lines.items(), _STYLES, strict=False),
    ]
    drawn = [
        (name, found, style) for (name, points), style in styled if (found := _thinned(points))
    ]
    if not drawn:
        return ""
    xs = [x for _, points, _ in drawn for x, _ in points]
    ys = [y for _, points, _ in drawn for _, y in points]
    low, high = min(ys), max(ys)
    is_log = low > 0 and high / low >= _STEEP
    scaled = math.log10 if is_log else float
    x = _scale(min(xs), max(xs), _LEFT, _RIGHT)
    y = _scale(scaled(low), scaled(high), _BOTTOM, _TOP)
    shapes: list[str] = []
    legend: list[str] = []
    told: list[str] = []
    for name, points, (color, dashes) in drawn:
        places = [f"{x(at):.1f},{y(scaled(value)):.1f}" for at, value in points]
        shapes.append(_shape(places, color, dashes))
        last = "" if name in faint else number(lines[name][-1][1])  # also where it isn't finite
        sample = f'<span style="color:{color}" aria-hidden="true">{"╍" if dashes else "━"}</span>'
        legend.append(f'<span style="white-space:nowrap">{sample} {escaped(name)} {last}</span>')
        told.append(f"{name} from {number(points[0][1])} to {last or number(points[-1][1])}")
    label = escaped(f"Curve over {axis}s {min(xs):,.0f} to {max(xs):,.0f}: {', '.join(told)}", 200)
    texts = [
        (_LEFT - 6, _TOP + 8, "end", f"{high:.3g}" if high > low else ""),
        (_LEFT - 6, _BOTTOM, "end", f"{low:.3g}"),
        (_LEFT, _HEIGHT - 8, "start", f"{axis} {min(xs):,.0f}"),
        ((_LEFT + _RIGHT) // 2, _HEIGHT - 8, "middle", "log scale" if is_log else ""),
        (_RIGHT, _HEIGHT - 8, "end", f"{max(xs):,.0f}" if max(xs) > min(xs) else ""),
    ]
    words = "".join(
        f'<text x="{at}" y="{down}" text-anchor="{anchor}">{text}</text>'
        for at, down, anchor, text in texts
        if text
    )
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        ' style="display:block;width:100%;height:auto" fill="none">'
        f'<path d="M{_LEFT},{_TOP}V{_BOTTOM}H{_RIGHT}" stroke="currentColor" opacity="0.4"/>'
        f'<g fill="currentColor" font-size="11">{words}</g>{"".join(shapes)}</svg>'
        f"<div>{' &nbsp; '.join(legend)}</div>"
    )


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most so many that are finite, evenly chosen, the first and the last of them included."""
    most = min(len(points), MOST_POINTS)
    chosen = [points[place * (len(points) - 1) // max(1, most - 1)] for place in range(most)]
    return [(x, y) for x, y in chosen if math.isfinite(x) and math.isfinite(y)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """From values to places; a single value is put in the middle."""
    if not high - low > 0 or not math.isfinite(high - low):
        return lambda _: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _shape(places: Sequence[str], color: str, dashes: str) -> str:
    """A line, or a dot where there is a single place."""
    if len(places) == 1:
        across, _, down = places[0].partition(",")
        return f'<circle cx="{across}" cy="{down}" r="3" fill="{color}"/>'
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    line = f'points="{" ".join(places)}" stroke="{color}" stroke-width="1.8"'
    return f'<polyline {line} stroke-linejoin="round"{dashed}/>'
