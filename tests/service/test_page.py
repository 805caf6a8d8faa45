"""The page, in a real browser, on real runs and a real server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from fitbus.testing import Gate

from ._browser import BUILD, LIMIT_MS, browsing, opened, violations
from ._page_parts import CONTROL, GATES, READ, Wire, made, mounted, serving

pytestmark = pytest.mark.slow
expect.set_options(timeout=LIMIT_MS)
BROKEN = "Failed to load resource"  # what the browser says of an answer that isn't 200, or of none


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of a service in another application, whom everybody may read."""
    with serving(mounted(made(max_running=4))) as port:
        yield f"http://127.0.0.1:{port}/training"


def steering(url: str) -> httpx.Client:
    return httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {CONTROL}"}, timeout=30, trust_env=False
    )


def start(url: str, factory: str, **parameters: Any) -> str:
    with steering(url) as client:
        answer = client.post("/runs", json={"factory": factory, "parameters": parameters})
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["id"]
    return id


def stop(url: str, id: str) -> None:
    with steering(url) as client:
        client.post(f"/runs/{id}/controls", json={"type": "StopTraining"}).raise_for_status()


def sign_in(page: Page, token: str = CONTROL) -> None:
    page.get_by_label("Token").fill(token)
    page.keyboard.press("Enter")
    # Not the dialog: the next one, such as that of a new run, may be there at once.
    expect(page.get_by_label("Token")).to_be_hidden()


def open_gates() -> None:
    for gate in GATES.values():
        gate.open()
    GATES.clear()


def link(page: Page) -> Locator:
    return page.locator("#link")


def status(page: Page) -> Locator:
    return page.locator("#run .status")


def newest(page: Page) -> Locator:
    """What became of the control that was sent last."""
    return page.locator(".acks li").first


def epochs(page: Page) -> list[int]:
    """The epochs in the table, the newest first."""
    return [int(text) for text in page.locator("#epochs tbody th").all_inner_texts()]


def wait_for_epoch(page: Page, epoch: int) -> None:
    first = "Number(document.querySelector('#epochs tbody th')?.textContent ?? -1)"
    page.wait_for_function(f"epoch => {first} >= epoch", arg=epoch)


def test_a_run_is_started_watched_steered_and_stopped(browser: Browser, url: str) -> None:
    # The one error is of the refused control, whose remedy the page shows.
    with opened(browser, url, BROKEN) as page:
        page.get_by_role("button", name="Start a run").click()
        sign_in(page)
        page.get_by_label("Training").select_option("paced")
        page.get_by_label("epochs").fill("100000")
        page.get_by_role("button", name="Start", exact=True).click()
        expect(status(page)).to_have_text("running")
        expect(link(page)).to_have_text("live")

        loss = page.get_by_role("img", name=re.compile(r"^loss: batch"))
        wait_for_epoch(page, 1)
        points = int(loss.get_attribute("data-points") or 0)
        page.wait_for_function(
            "points => document.querySelector('[aria-label^=\"loss:\"]').dataset.points > points",
            arg=points,
        )

        page.get_by_role("textbox", name="Learning rate").fill("5e-2")
        page.get_by_role("button", name="Set").click()
        expect(newest(page)).to_have_text(re.compile(r"SetLearningRate 0\.05 applied at step \d"))
        expect(page.locator("dd").nth(3)).to_have_text("0.05")
        applied = page.locator("[data-type=ControlApplied]").first
        expect(applied).to_contain_text("SetLearningRate 0.05")
        said = re.search(r"step ([\d,]+)", newest(page).inner_text())
        assert said
        assert said[1] == applied.locator(".step").inner_text(), "the event has the same step"

        page.get_by_role("button", name="Evaluate").click()
        expect(newest(page)).to_contain_text("Evaluate applied at step")
        expect(newest(page)).to_contain_text("loss")
        page.get_by_role("button", name="Save").click()
        expect(newest(page)).to_contain_text("rejected: nobody keeps checkpoints")

        page.get_by_role("button", name="Pause").click()
        expect(status(page)).to_have_text("paused")
        expect(page.get_by_role("button", name="Pause")).to_be_disabled()
        page.get_by_role("button", name="Resume").click()
        expect(status(page)).to_have_text("running")

        costs = page.get_by_role("region", name="What subscribers cost")
        expect(costs.get_by_role("row").filter(has_text="pace")).to_contain_text("%")

        page.get_by_role("button", name="Stop…").click()
        page.get_by_role("button", name="Stop it").click()
        expect(status(page)).to_have_text("stopped")
        expect(link(page)).to_have_text("ended")
        expect(page.locator(".where")).to_contain_text("asked on the page")


def test_a_lost_connection_leaves_no_gap_and_no_double(browser: Browser) -> None:
    GATES.update({10: Gate(), 20: Gate()})
    with serving(made()) as port:
        wire = Wire(port)
        try:
            id = start(f"http://127.0.0.1:{port}", "gated", epochs=30)
            with opened(browser, f"http://127.0.0.1:{wire.port}#run={id}", BROKEN) as page:
                wait_for_epoch(page, 9)
                wire.cut()
                expect(link(page)).to_have_attribute("data-state", "lost")
                GATES[10].open()
                GATES[20].wait_arrived_sync()  # ten epochs went by, unseen
                assert epochs(page) == list(reversed(range(10)))
                wire.mend()
                wait_for_epoch(page, 19)
                expect(link(page)).to_have_text("live")
                GATES[20].open()
                expect(status(page)).to_have_text("completed")
                expect(link(page)).to_have_text("ended")
                assert epochs(page) == list(reversed(range(30)))
                rows = page.locator(".events [data-type=EpochEnd]").all()
                told = [int(row.get_attribute("data-seq") or -1) for row in rows]
                assert len(told) == len(set(told)) == 30
        finally:
            open_gates()
            wire.close()


def test_a_laptop_that_slept_goes_on_where_it_was(browser: Browser) -> None:
    """Though nobody told it that its connection is dead."""
    GATES.update({10: Gate(), 20: Gate()})
    with serving(made()) as port:
        wire = Wire(port)
        try:
            id = start(f"http://127.0.0.1:{port}", "gated", epochs=30)
            with opened(browser, f"http://127.0.0.1:{wire.port}#run={id}", BROKEN) as page:
                wait_for_epoch(page, 9)
                wire.deaden()
                GATES[10].open()
                GATES[20].wait_arrived_sync()
                assert epochs(page) == list(reversed(range(10)))
                page.clock.fast_forward("01:00:00")
                wait_for_epoch(page, 19)
                assert epochs(page) == list(reversed(range(20)))
        finally:
            open_gates()
            wire.close()


def test_a_service_that_was_restarted_is_found_again(browser: Browser) -> None:
    with contextlib.ExitStack() as stack:
        with serving(made()) as port:
            wire = Wire(port)
            stack.callback(wire.close)
            id = start(f"http://127.0.0.1:{port}", "paced", epochs=100_000)
            address = f"http://127.0.0.1:{wire.port}#run={id}"
            page = stack.enter_context(opened(browser, address, BROKEN))
            wait_for_epoch(page, 1)
            wire.cut()
        wire.target = stack.enter_context(serving(made()))
        wire.mend()
        expect(page.locator(".problem")).to_contain_text("it was restarted")
        assert epochs(page), "what it had is still there"
        start(f"http://127.0.0.1:{wire.target}", "paced", epochs=3)
        expect(page.locator("#runs [aria-current]")).to_have_count(0)
        page.get_by_role("link", name="paced").click()
        expect(status(page)).to_have_text("completed")
        expect(link(page)).to_have_text("ended")
        assert epochs(page) == [2, 1, 0]
        wire.cut()


def test_who_may_not_read_is_asked_for_the_token(browser: Browser) -> None:
    """And whose token only reads is asked for another one when they steer."""
    with serving(made(read_token=READ)) as port:
        url = f"http://127.0.0.1:{port}"
        id = start(url, "paced", epochs=100_000)
        with opened(browser, f"{url}#run={id}", BROKEN) as page:
            page.get_by_label("Token").fill("not the token")
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text("this isn't the token")
            sign_in(page, READ)
            expect(status(page)).to_have_text("running")
            page.get_by_role("button", name="Pause").click()
            sign_in(page)
            expect(newest(page)).to_contain_text("Pause applied at step")
            stop(url, id)


def test_what_a_run_says_is_text_and_never_markup(browser: Browser, url: str) -> None:
    mean = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    id = start(url, "paced", epochs=1, title=mean)
    with opened(browser, f"{url}/#run={id}") as page:
        expect(page.locator(".detail")).to_contain_text("<img src=x onerror=alert(1)>")
        expect(status(page)).to_have_text("completed")
        assert page.locator("img, #run script").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_without_seeing_or_pointing(browser: Browser, url: str, scheme: Any) -> None:
    """By axe-core and by keyboard, light and dark, wide and on a phone; pictures are kept."""
    id = start(url, "paced", epochs=100_000, pace_s=0.1)
    with opened(browser, f"{url}/", color_scheme=scheme) as page:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the run")).to_be_focused()
        page.locator(f"a[href='#run={id}']").focus()
        page.keyboard.press("Enter")
        wait_for_epoch(page, 4)
        page.get_by_role("button", name="Pause").focus()
        page.keyboard.press("Enter")
        sign_in(page)
        expect(status(page)).to_have_text("paused")
        page.get_by_role("button", name="Resume").focus()
        page.keyboard.press("Space")
        expect(status(page)).to_have_text("running")
        page.get_by_role("textbox", name="Learning rate").fill("0.02")
        page.keyboard.press("Enter")
        expect(newest(page)).to_contain_text("applied at step")
        page.get_by_label("Log scale").check()
        wait_for_epoch(page, 12)
        assert violations(page) == []
        page.screenshot(path=BUILD / f"{scheme}.png", full_page=True)
        page.get_by_role("button", name="Stop…").click()
        assert violations(page) == []
        page.keyboard.press("Escape")
        page.set_viewport_size({"width": 390, "height": 844})
        wait_for_epoch(page, 14)
        assert violations(page) == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, "nothing sticks out"
        page.screenshot(path=BUILD / f"{scheme}-phone.png", full_page=True)
        page.get_by_role("link", name="All runs").click()
        expect(page.get_by_role("heading", name="Runs", exact=True)).to_be_visible()
        page.get_by_role("button", name="Start a run").click()
        assert violations(page) == []
        page.screenshot(path=BUILD / f"{scheme}-start.png")
    stop(url, id)
