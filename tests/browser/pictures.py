"""Pictures of the dashboard for the README, of a shop that is open: docs/images/NAME-light.png and NAME-dark.png.

python -m tests.browser.pictures [DIRECTORY]

It needs playwright and a chromium, and takes about two minutes, so that the charts have something to show.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
SIZE = {"width": 1100, "height": 760}
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "docs/images", help="default: %(default)s")
    parser.add_argument("--after", type=float, default=100.0, help="seconds that the shop is open before")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    arguments.directory.mkdir(parents=True, exist_ok=True)
    with open_shop() as address, sync_playwright() as driver:
        time.sleep(arguments.after)
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in SCHEMES:
            take_pictures(browser, address, scheme, arguments.directory)
        browser.close()
    return 0


@contextlib.contextmanager
def open_shop() -> Iterator[str]:
    """Open the shop, and yield the address of its dashboard."""
    command = [sys.executable, "-m", "pgbus.cli", "demo", "--dashboard", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as shop:
        assert shop.stdout is not None
        try:
            found = re.search(r"http://\S+", shop.stdout.readline())
            assert found, "the dashboard has not said where it is"
            yield found[0]
        finally:
            shop.terminate()


def take_pictures(browser: Browser, address: str, scheme: Scheme, directory: Path) -> None:
    """Take a picture of the overview, and one of the journey of an order that was shipped."""
    context = browser.new_context(color_scheme=scheme, viewport=SIZE)  # type: ignore[arg-type] # a dictionary is one
    page = context.new_page()
    page.goto(address)
    root = page.url.rstrip("/")
    page.locator("#stream[data-state=live]").wait_for()
    page.screenshot(path=directory / f"dashboard-{scheme}.png")
    page.goto(f"{root}/events?topic=carrier.shipped")
    page.locator("tbody th a").last.click()
    page.locator(".tree a").first.click()
    page.locator("h1", has_text="shop.order_placed").wait_for()
    page.locator("#stream[data-state=live]").wait_for()
    page.screenshot(path=directory / f"journey-{scheme}.png", full_page=True)
    context.close()


if __name__ == "__main__":
    sys.exit(main())
