"""A headless Chromium that reaches nothing but this machine. Tests that ask for it are skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PHONE, DESK = (390, 844), (1200, 900)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A Selenium driver."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'proseco[dev]'")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("There is no chromium with its chromedriver on this machine: apt-get install chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"):
        options.add_argument(flag)
    # No name is looked up, so a page that asks another machine for something finds none.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = selenium.ChromeService(driver, env={**os.environ, "SE_OFFLINE": "true"})
    found = selenium.Chrome(options=options, service=service)
    found.set_page_load_timeout(60)
    yield found
    found.quit()


def look(driver: Any, address: str | Path, size: tuple[int, int]) -> Any:
    """Open a page or a file at a size in CSS pixels, as a telephone or a desk would show it."""
    width, height = size
    emulated = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", emulated)
    driver.get(address.absolute().as_uri() if isinstance(address, Path) else address)
    return driver


def overflowing(driver: Any) -> list[str]:
    """What is wider than the window, unless it scrolls in a box of its own; empty where the page fits."""
    return driver.execute_script(
        """
        const width = document.documentElement.clientWidth, found = [];
        if (document.documentElement.scrollWidth > width) found.push(`page ${document.documentElement.scrollWidth}`);
        const boxed = e => { for (let p = e.parentElement; p; p = p.parentElement)
            if (p !== document.body && getComputedStyle(p).overflowX !== 'visible') return true; return false; };
        for (const e of document.body.querySelectorAll('*'))
            if (e.getBoundingClientRect().right > width + 1 && !boxed(e)) found.push(e.tagName + '.' + e.className);
        return found;
        """
    )
