"""Requests that no client would send are refused with a message, and change nothing.

A thousand of them; `python -m tests.service.generated` sends ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from . import generated
from .generated import CHECKS, GOOD, Site


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with generated.opened() as site:
        yield site


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_generated_requests_are_answered_as_described_and_change_nothing_else(
    site: Site, name: str
) -> None:
    CHECKS[name](site, 500)
    statuses = {status for (what, status) in site.answers if what == name}
    # A control of raw bytes that is one, and can't act, is too rare for so few.
    rare = {409} if name == "described" else set[int]()
    assert {200, 400, 404, 422} | rare <= statuses, "too little was reached"


def test_a_query_that_is_no_text_is_no_mistake_of_the_service(site: Site) -> None:
    """Where a slash too much would be answered by another address, too."""
    headers = [(b"host", b"localhost"), (b"authorization", GOOD)]
    for path, status in ((b"/runs/", 404), (b"/runs", 200), (b"/session", 200)):
        assert site.ask("GET", path, b"\x80=\xff", headers, b"").status == status


def test_a_run_that_is_called_off_waits_no_longer(site: Site) -> None:
    """Whoever starts and stops all the time fills nothing up."""
    site.prepare()
    limiter = site.service.launches._limiter
    id = site.post("/runs", factory="toy")["id"]
    site.portal.call(anyio.wait_all_tasks_blocked)
    assert limiter.statistics().tasks_waiting == 1
    site.post(f"/runs/{id}/controls", type="StopTraining")
    site.portal.call(anyio.wait_all_tasks_blocked)
    assert limiter.statistics().tasks_waiting == 0
    assert site.service.launches[id].status == "stopped"
