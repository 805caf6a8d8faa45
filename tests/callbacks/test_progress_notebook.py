"""The progress bar in a notebook: one output, renewed in place, whatever happens to the run."""

from __future__ import annotations

import io
import itertools
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import anyio
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import fitbus
from fitbus import BatchEnd, EpochEnd, StopTraining, TestBegin, TrainBegin
from fitbus._html import MOST_POINTS, curve, number, table
from fitbus.callbacks import Callback, ProgressBar
from fitbus.callbacks._progress_notebook import Line
from fitbus.testing import Gate, toy_problem

PROBLEM = toy_problem(256)
X, Y = PROBLEM.x, PROBLEM.y
TRAINER = fitbus.Trainer(PROBLEM.task, PROBLEM.params)
HOSTILE = """<script>alert(1)</script>"' onload=x &amp; <!--""" + 100 * "long "

asyncio_only = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Notebook:
    """Stands for a kernel's shell and what its notebook shows: each output, and its last form."""

    kernel = object()

    def __init__(self) -> None:
        self.display_pub = self
        self.outputs: dict[str, str] = {}
        self.forms: list[tuple[float, str]] = []  # all of them, with their times
        self.changed = threading.Condition()

    def publish(self, data: Any, metadata: Any = None, *, transient: Any, update: bool) -> None:
        """What `ipykernel` has under this name."""
        html, id = data["text/html"], transient["display_id"]
        with self.changed:
            assert update == (id in self.outputs), "what isn't shown can't be renewed"
            self.outputs[id] = html
            self.forms.append((time.monotonic(), html))
            self.changed.notify_all()

    def wait_for(self, count: int) -> None:
        """Waits, in a thread, until so many forms were shown."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.forms) >= count, 10)

    @property
    def last(self) -> str:
        """The output, if it is the only one."""
        (html,) = self.outputs.values()
        return html


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """The notebook that everything runs in."""
    shell = Notebook()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    yield shell
    assert not [t for t in threading.enumerate() if t.name == "fitbus progress bar"]


class Elements(HTMLParser):
    """Which elements and attributes there are; each element must be closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_data(self, data: str) -> None:
        self.text += data


def is_harmless(html: str) -> Elements:
    """Only what draws and says something, and is of a bounded size."""
    found = Elements(html)
    assert found.names <= {
        *("circle", "div", "g", "path", "polyline", "progress", "span", "strong", "svg"),
        *("table", "tbody", "td", "text", "th", "thead", "tr"),
    }
    assert not {name for name in found.attributes if name.startswith("on") or name == "href"}
    assert len(html) < 20_000
    return found


@pytest.mark.anyio
@pytest.mark.parametrize("verbose", [1, "auto"])
async def test_a_fit_has_one_output_that_stays(notebook: Notebook, verbose: Any) -> None:
    """Pending, where it was asked for; running; and how it ended, with a curve and a table."""
    run = TRAINER.run(X, Y, epochs=7, validation_split=0.25, verbose=verbose)
    assert is_harmless(notebook.last).text.split() == [run.id, "pending"]
    async with run:
        await run.wait()
    assert len(notebook.forms) == 3 or notebook.forms[-1][0] - notebook.forms[0][0] > 0.5
    found = is_harmless(notebook.last)
    assert f"{run.id} \xa0completed, step " in found.text
    assert {"svg", "polyline", "table"} <= found.names
    assert "epoch 7/7" in found.text
    assert "epoch 2/7" not in found.text  # the last five only
    history = await run.wait()
    assert f"val_loss {number(history.history['val_loss'][-1])}" in found.text


@pytest.mark.anyio
@asyncio_only
async def test_it_is_renewed_twice_a_second_however_fast_batches_come(notebook: Notebook) -> None:
    """With progress, time left, running means and the learning rate; of a bounded size."""
    steps = 0

    def stop(event: EpochEnd) -> StopTraining | None:
        nonlocal steps
        steps += 64
        return StopTraining("seen enough") if len(notebook.forms) > 2 and steps > 100 else None

    await TRAINER.fit(X, Y, batch_size=4, epochs=10**6, verbose=1, callbacks=[stop])
    times = [when for when, _ in notebook.forms[1:-1]]
    assert min(after - before for before, after in itertools.pairwise(times)) > 0.45
    assert steps > 100
    html = notebook.forms[2][1]
    found = is_harmless(html)
    assert "progress" in found.names
    for part in (" left", "/1000000", "/64 ", "loss ", "learning rate 0.1"):
        assert part in found.text
    assert " \xa0stopped (seen enough), step " in is_harmless(notebook.last).text
    assert "progress" not in is_harmless(notebook.last).names


class Boom(Exception):
    pass


async def fails() -> None:
    async def fail(event: BatchEnd) -> None:
        raise Boom

    with pytest.raises(Boom):
        await TRAINER.fit(X, Y, epochs=10**6, verbose=1, callbacks=[fail])


async def is_cancelled() -> None:
    async def cancel(event: BatchEnd) -> None:
        scope.cancel()

    with anyio.CancelScope() as scope:
        await TRAINER.fit(X, Y, epochs=10**6, verbose=1, callbacks=[cancel])
    assert scope.cancelled_caught


async def evaluates() -> None:
    await TRAINER.evaluate(X, Y, verbose=1)


async def predicts() -> None:
    await TRAINER.predict(X, verbose=1)


async def fails_in_an_evaluation() -> None:
    def fail(event: TestBegin) -> None:
        raise Boom

    with pytest.raises(Boom):
        await TRAINER.evaluate(X, Y, verbose=1, callbacks=[fail])


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ending", "status"),
    [
        (fails, "failed"),
        (is_cancelled, "cancelled"),
        (evaluates, "completed"),
        (predicts, "completed"),
        (fails_in_an_evaluation, "failed"),
    ],
)
async def test_the_output_says_in_the_end_what_became_of_a_run_that(
    notebook: Notebook, ending: Callable[[], Any], status: str
) -> None:
    await ending()
    found = is_harmless(notebook.last)
    assert found.text.split()[1].rstrip(",") == status
    assert ("svg" in found.names) <= ("fit" in found.text)  # one evaluation is no curve


@pytest.mark.anyio
async def test_a_notebook_that_fails_does_not_disturb_training(
    notebook: Notebook, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the socket is closed")

    notebook.publish = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING, "fitbus"):
        history = await TRAINER.fit(X, Y, epochs=3, verbose=1)
    assert len(history.epoch) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "progress can't be shown any more: OSError('the socket is closed')"
    ]


@pytest.mark.anyio
@asyncio_only
async def test_elsewhere_the_bar_is_as_it_was(
    notebook: Notebook, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a console, lines only, in a terminal's IPython; and nothing unless it is asked for."""
    await TRAINER.fit(X, Y)
    file = io.StringIO()
    await TRAINER.fit(X, Y, callbacks=[ProgressBar(console=Console(file=file, width=80))])
    assert file.getvalue().startswith("epoch 1/1")
    assert capsys.readouterr().out == ""
    await TRAINER.fit(X, Y, verbose=2)
    assert capsys.readouterr().out.startswith("epoch 1/1")
    notebook.kernel = None
    await TRAINER.fit(X, Y, verbose=1)
    assert capsys.readouterr().out.startswith("epoch 1/1")
    assert not notebook.outputs


def test_ipython_is_not_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    ProgressBar()
    assert "IPython" not in sys.modules


@pytest.mark.anyio
@asyncio_only
async def test_what_others_named_is_escaped_and_cut(notebook: Notebook) -> None:
    """Names of metrics, values, ids, reasons, subscribers."""

    class Add(Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            assert logs is not None
            logs["a " + HOSTILE] = HOSTILE
            logs["b " + HOSTILE] = math.nan

    task = fitbus.Supervised(
        apply=lambda params, inputs: inputs @ params["w"] + params["b"],
        loss=lambda predictions, targets: (predictions - targets) ** 2,
        optimizer=PROBLEM.task.optimizer,
        metrics={HOSTILE: lambda predictions, targets: jnp.abs(predictions - targets)},
    )
    trainer = fitbus.Trainer(task, PROBLEM.params)
    run = trainer.run(X, Y, epochs=3, verbose=1, callbacks=[Add()], run_id=HOSTILE)
    run.add(lambda event: StopTraining(HOSTILE), EpochEnd, name=HOSTILE)
    async with run:
        history = await run.wait()
    assert run.report is not None
    objects: list[Any] = [run, history, run.report]
    for html in [notebook.last, *(one._repr_html_() for one in objects)]:
        found = is_harmless(html)
        assert "<script>alert(1)</script>" in found.text
        assert HOSTILE not in found.text


@pytest.mark.anyio
async def test_a_run_shows_where_it_stands_in_every_state() -> None:
    """It waits for nothing: here the training thread stands, and is asked from it and the loop."""
    gate = Gate()

    def shown() -> str:
        return is_harmless(run._repr_html_()).text

    def hold(event: TrainBegin | EpochEnd) -> StopTraining | None:
        if isinstance(event, TrainBegin):
            assert "running, epoch 1 of 2, step " in shown()
        elif event.epoch == 1:
            gate.pass_sync()
            assert "running, epoch 2 of 2, step " in shown()
            return StopTraining("seen enough")
        return None

    run = TRAINER.run(X, Y, epochs=2, callbacks=[hold])
    assert shown().startswith(f"{run.id} \xa0pending, as of ")
    async with run:
        await gate.wait_arrived()
        assert "running, epoch 2 of 2, step " in shown()
        gate.open()
        history = await run.wait()
    assert "stopped (seen enough), step " in shown()
    assert f"loss {number(history.history['loss'][-1])}" in shown()
    assert "2 epochs" in is_harmless(history._repr_html_()).text
    assert is_harmless(fitbus.History()._repr_html_()).text == "History \xa00 epochs"


@pytest.mark.anyio
@asyncio_only
async def test_a_run_that_failed_shows_its_error() -> None:
    def fail(event: EpochEnd) -> None:
        raise Boom("no more")

    run = TRAINER.run(X, Y, callbacks=[fail])
    with pytest.raises(Boom):
        async with run:
            await run.wait()
    text = is_harmless(run._repr_html_()).text
    assert text.startswith(f"{run.id} \xa0failed, step ")
    assert "Boom: no more" in text


def test_a_history_of_gaps_texts_and_arrays_is_shown() -> None:
    """Validation of every other epoch is drawn where it was; what is no number isn't drawn."""
    history = fitbus.History()
    for epoch in range(6):
        logs: dict[str, Any] = {"loss": 6.0 - epoch, "note": "text", "array": jnp.zeros(3)}
        logs |= {"val_loss": 5.0 - epoch} if epoch % 2 else {}
        logs |= {"loss": jnp.zeros(3)} if epoch == 0 else {}
        history.record(epoch, logs)
    html = history._repr_html_()
    (loss, val_loss) = (part.split('"')[0] for part in html.split('points="')[1:])
    assert [place.split(",")[0] for place in loss.split()][::2] == [
        place.split(",")[0] for place in val_loss.split()
    ]
    assert is_harmless(html).text.count("no number") == 2


def test_a_line_is_thinned_evenly_and_keeps_its_last_point() -> None:
    line = Line()
    for x in range(100_000):
        line.add(x, -x)
        line.add(x, -x)  # seen twice
    points = line.points
    assert 100 <= len(points) <= MOST_POINTS
    assert points[-1] == (99_999, -99_999)
    gaps = {after[0] - before[0] for before, after in itertools.pairwise(points[:-1])}
    assert gaps == {512}


def test_a_line_forgets_what_a_restored_checkpoint_undid() -> None:
    line = Line()
    for x in (1, 2, 3, 4, 2):
        line.add(x, 10 * x)
    line.add(2, 20)  # seen twice
    assert line.points == [(1, 10), (2, 20)]


@pytest.mark.parametrize(
    ("values", "shape", "said"),
    [
        ([], None, ""),
        ([math.nan, math.inf], None, ""),
        ([3.0], "circle", "3.0000"),
        ([2.0, 2.0], "polyline", "2.0000"),
        ([1.0, math.nan, 3.0, math.nan], "polyline", "nan"),
        ([1000.0, 1.0], "polyline", "log scale"),
        ([1000.0, 0.0], "polyline", "0.0000"),
        ([-1e308, 1e308], "polyline", "1e+308"),
        ([5e-324, 1e308], "polyline", "1e+308"),
        (list(np.linspace(9, 1, 100_000)), "polyline", "1.0000"),
    ],
)
def test_a_curve_is_drawn_of_any_numbers(values: list[float], shape: str | None, said: str) -> None:
    """Within its frame; none without a number."""
    html = curve({"loss": list(enumerate(values))}, "step")
    if shape is None:
        assert html == ""
        return
    found = is_harmless(html)
    assert shape in found.names
    assert said in found.text
    assert "nan," not in html
    assert ",nan" not in html
    if shape == "polyline":
        places = html.split('points="')[1].split('"')[0].split()
        assert len(places) <= MOST_POINTS
        assert all(0 <= float(n) <= 600 for place in places for n in place.split(","))


def test_a_curve_tells_those_who_do_not_see_it() -> None:
    html = curve({"loss": [(1, 4.0), (9, 0.5)], "val_loss": [(9, 0.6)]}, "step")
    label = "Curve over steps 1 to 9: loss from 4.0000 to 0.5000, val_loss from 0.6000 to 0.6000"
    assert f'role="img" aria-label="{label}"' in html


def test_a_tables_first_cells_are_its_headers() -> None:
    assert is_harmless(table([["", "last"], ["loss", "1"]])).text == "lastloss1"
    assert table([["", "last"], ["loss", "1"]]).count("<th scope=") == 3
