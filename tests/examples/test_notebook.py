"""The example notebook, and an interrupt, in a kernel as Jupyter starts one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

pytestmark = pytest.mark.slow

TIMEOUT_S = 60


class Done(NamedTuple):
    """What came of a cell, and the messages that it was the reason of, or that came meanwhile."""

    reply: dict[str, Any]
    messages: list[dict[str, Any]]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [m["content"] for m in self.messages if m["msg_type"] == kind]

    @property
    def printed(self) -> str:
        assert [s["name"] for s in self.of("stream") if s["name"] != "stdout"] == []
        return "".join(stream["text"] for stream in self.of("stream"))


class Kernel:
    """A kernel and its client."""

    def __init__(self, directory: Path) -> None:
        self.manager = KernelManager(
            kernel_name="python3", transport="ipc", ip=str(directory / "kernel")
        )
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=TIMEOUT_S)

    def run(self, code: str) -> Done:
        """Runs a cell to its end."""
        messages: list[dict[str, Any]] = []
        reply = self.client.execute_interactive(
            code, timeout=TIMEOUT_S, allow_stdin=False, output_hook=messages.append
        )
        return Done(reply["content"], messages)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.manager.context.destroy()


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    yield kernel
    kernel.close()


def cells() -> dict[str, Any]:
    """The cells of the example, by their ids."""
    text = (resources.files("fitbus.examples") / "notebook.ipynb").read_text(encoding="utf-8")
    return {cell["id"]: cell for cell in json.loads(text)["cells"]}


def forms(messages: list[dict[str, Any]], display_id: str) -> list[str]:
    """What an output showed, in order: once displayed, then renewed."""
    found = [
        (message["msg_type"], message["content"]["data"]["text/html"])
        for message in messages
        if message["content"].get("transient", {}).get("display_id") == display_id
    ]
    assert [kind for kind, _ in found] == [
        "display_data",
        *["update_display_data"] * (len(found) - 1),
    ]
    return [html for _, html in found]


def test_the_example_runs_from_top_to_bottom(kernel: Kernel) -> None:
    """One output for each run, in the cell that began it; the rest renews it, twice a second."""
    done = {
        id: kernel.run("".join(cell["source"]))
        for id, cell in cells().items()
        if cell["cell_type"] == "code"
    }
    assert {id for id, cell in done.items() if cell.reply["status"] != "ok"} == set()
    shown = {
        id: [d["transient"]["display_id"] for d in c.of("display_data")] for id, c in done.items()
    }
    (fit,), (background,) = shown.pop("fit"), shown.pop("runs")
    assert not any(shown.values())
    messages = [message for cell in done.values() for message in cell.messages]
    for display_id, end in ((fit, "completed"), (background, "stopped")):
        found = forms(messages, display_id)
        assert "pending" in found[0]
        assert f"&nbsp;{end}" in found[-1]
        assert "<svg" in found[-1]
        assert 2 <= len(found) < 20  # a fast run may be over before it is renewed
        assert max(map(len, found)) < 20_000
    assert "the learning rate is 0.001 from step" in done["control"].printed
    assert done["stop"].printed.startswith("stopped at step ")
    results = {
        id: [d["data"].get("text/html", "") for d in c.of("execute_result")]
        for id, c in done.items()
    }
    assert "<svg" in results["show-history"][0]
    assert "running, epoch" in results["show-run"][0]
    assert "ProgressBar" in results["stop"][0]


def test_the_example_is_stored_without_outputs() -> None:
    for cell in cells().values():
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)


def test_an_interrupt_ends_a_fit_as_cancelled_and_its_output_says_so(kernel: Kernel) -> None:
    """It is seen running while its cell is awaited; the trainer can be used in the next cell."""
    kernel.run(
        "import fitbus; from fitbus.testing import toy_problem; problem = toy_problem(64);"
        " trainer = fitbus.Trainer(problem.task, problem.params)"
    )
    cell = kernel.client.execute("await trainer.fit(problem.x, problem.y, epochs=10**9, verbose=1)")
    messages: list[dict[str, Any]] = []
    interrupted = False
    while not messages or messages[-1]["content"].get("execution_state") != "idle":
        message = kernel.client.get_iopub_msg(timeout=TIMEOUT_S)
        if message["parent_header"].get("msg_id") != cell:
            continue
        messages.append(message)
        if not interrupted and "steps/s" in message["content"].get("data", {}).get("text/html", ""):
            interrupted = True
            kernel.manager.interrupt_kernel()
    (display,) = [m for m in messages if m["msg_type"] == "display_data"]
    found = forms(messages, display["content"]["transient"]["display_id"])
    assert "&nbsp;cancelled, step" in found[-1]
    assert [m["content"]["ename"] for m in messages if m["msg_type"] == "error"]
    after = kernel.run(
        "step = trainer.state.step; history = await trainer.fit(problem.x, problem.y)\n"
        "print(step > 0, len(history.epoch))"
    )
    assert after.printed == "True 1\n"
