"""The dashboard in a browser: whoever looks finds things, sees them change, and needs neither a mouse nor eyes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = (Path(__file__).parent / "axe/axe.min.js").read_text(encoding="utf-8")
PATIENCE = 60_000  # milliseconds
PAGES = (
    "/", "/listeners", "/listeners/ship", "/events", "/events?topic=nothing", "/dead", "/calls", "/schedules",
    "/schedules/nightly", "/schemas", "/schemas/event/shop.order_placed", "/workers", "/operations", "/doctor",
    "/changes/retry?listener=ship", "/changes/replay?listener=ship", "/changes/reset?listener=ship",
)  # fmt: skip


@contextmanager
def opened(browser: Browser, site: Site, path: str = "/", **options: Any) -> Iterator[Page]:
    """A page of the dashboard in a window of its own; what the browser complains about fails the test."""
    complaints: list[str] = []
    # Without transitions: axe would measure a colour on its way to another one.
    context = browser.new_context(reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(site.address + path)
        yield page
    finally:
        context.close()
    assert complaints == []


def serious(page: Page, *, rules: str | None = None) -> list[str]:
    """What axe finds on a page that is serious or worse, by all of its rules or by one."""
    options = {"resultTypes": ["violations"], **({"runOnly": [rules]} if rules else {})}
    found = page.evaluate("(options) => axe.run(options)", options)
    return [
        f"{page.url} {one['id']}: {one['nodes'][0]['html']} {one['nodes'][0]['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_why_an_order_did_not_ship_is_found_in_three_clicks(browser: Browser, site: Site) -> None:
    with opened(browser, site) as page:
        page.get_by_role("link", name="Events", exact=True).click()
        page.get_by_label("Payload").fill("order_id = 7")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url("**where=*")  # a click does not wait for the page that it leads to, nor does a count
        assert page.locator("tbody tr").count() == 2
        page.get_by_role("link", name="bank.charged").click()
        attempts = page.get_by_role("region", name="Attempts")
        attempts.wait_for()
        page.wait_for_load_state()
        assert attempts.get_by_text("no carrier takes 9 pieces").count() == 3
        assert page.locator(".tree").get_by_text("ship: dead").is_visible()
        assert page.locator(".sequence").get_by_text("bank.charged \u2192 ship (3 attempts)").is_visible()


def every_page(page: Page, site: Site) -> Iterator[str]:
    """The path of each page, with an event, a call and an operation that are there."""
    yield from PAGES
    for path in ("/events?topic=bank.charged", "/calls", "/operations"):
        page.goto(f"{site.address}{path}")
        yield page.locator("tbody th a").first.get_attribute("href") or ""
        if path.startswith("/events"):
            yield f"{page.locator('tbody th a').first.get_attribute('href')}/again"


@pytest.mark.timeout(600)  # twenty pages, of each of which axe asks a browser thousands of questions
def test_no_page_has_a_serious_fault_of_access_or_is_wider_than_the_window(browser: Browser, site: Site) -> None:
    with opened(browser, site) as page:
        paths = list(every_page(page, site))
        page.add_init_script(AXE)
        found = []
        for path in paths:
            page.set_viewport_size({"width": 1400, "height": 900})
            page.emulate_media(color_scheme="light")
            answer = page.goto(f"{site.address}{path}")
            assert answer is not None, path
            assert answer.ok, path
            found += serious(page)
            # The same page in the dark and narrow: of what axe looks at, that changes the colours alone.
            page.set_viewport_size({"width": 400, "height": 900})
            page.emulate_media(color_scheme="dark")
            found += serious(page, rules="color-contrast")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{path} is wider than the window")
        assert found == []


def test_a_page_changes_while_it_is_looked_at_and_leaves_the_focus_where_it_was(browser: Browser, site: Site) -> None:
    with opened(browser, site, "/listeners") as page:
        page.locator("#stream[data-state=live]").wait_for()
        page.get_by_role("link", name="ship", exact=True).focus()
        site.execute(
            "INSERT INTO pgbus.dead_letters (listener_id, position, attempts, error, worker)"
            " SELECT id, 1, 1, 'ValueError: no', 'w' FROM pgbus.listeners WHERE listener_name = 'charge'"
        )
        page.get_by_role("link", name="1 dead letter of charge").wait_for()
        assert page.evaluate("document.activeElement.textContent") == "ship"


def test_a_page_in_the_background_is_not_read(browser: Browser, site: Site) -> None:
    feed = site.dashboard.state.desk.feed
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, value: %s}); %s"
    with opened(browser, site) as page:
        page.locator("#stream[data-state=live]").wait_for()
        page.evaluate(hide % ("true", "document.dispatchEvent(new Event('visibilitychange'))"))
        page.locator("#stream[data-state=waiting]").wait_for()
        while feed.is_watched:
            page.wait_for_timeout(50)
        page.evaluate(hide % ("false", "document.dispatchEvent(new Event('visibilitychange'))"))
        page.locator("#stream[data-state=live]").wait_for()


def test_instants_are_shown_in_the_viewers_zone_with_utc_at_hand(browser: Browser, site: Site) -> None:
    with opened(browser, site, "/events", timezone_id="Asia/Tokyo", locale="en-GB") as page:
        instant = page.locator("tbody time").first
        utc = instant.get_attribute("title") or ""
        hour = (int(utc[11:13]) + 9) % 24
        assert utc.endswith("Z")
        assert f"{hour:02}{utc[13:23]}" in (instant.text_content() or "")
        assert page.get_by_text("Asia/Tokyo").is_visible()


def test_the_keyboard_reaches_the_content_first_and_every_page(browser: Browser, site: Site) -> None:
    with opened(browser, site) as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").is_visible()
        page.keyboard.press("Enter")
        page.wait_for_url("**#content")
        page.get_by_role("link", name="Doctor", exact=True).first.focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Doctor").wait_for()
