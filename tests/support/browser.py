"""Chromium without a window, for pages that are looked at: what it prints, what it asks for, what axe finds in it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")
MISSING = [
    name
    for name, found in (
        ("a Chromium browser (Debian: chromium)", CHROMIUM),
        ("chromedriver (Debian: chromium-driver)", DRIVER),
        ("selenium (PyPI)", find_spec("selenium")),
    )
    if not found
]
"""What is not here of all that it takes to open a page."""


@contextmanager
def running() -> Iterator[Any]:
    """Give a driver, with its logs of the console and of requests."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(120)  # axe looks at every element, on a machine that may be busy
    try:
        yield driver
    finally:
        driver.quit()


def show(browser: Any, *, width: int, theme: str) -> None:
    """Give pages this width, and a reader who wants this theme and nothing that moves."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [
        {"name": "prefers-color-scheme", "value": theme},
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "screen", "features": features})


def forget_logs(browser: Any) -> None:
    """Empty the logs, so that they tell of the next page only."""
    for log in ("browser", "performance"):
        browser.get_log(log)


def printed(browser: Any) -> list[str]:
    """Return what the page wrote to the console since the logs were last read."""
    return [entry["message"] for entry in browser.get_log("browser")]


def asked_for(browser: Any) -> list[str]:
    """Return the requests that would leave this machine, since the logs were last read."""
    return [
        entry["message"]
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"] and '"url":"http' in entry["message"]
    ]


def serious_faults(browser: Any) -> list[tuple[str, str, list[str]]]:
    """Return what axe finds to be serious or critical in the page that is open; skips without axe."""
    axe = find_spec("axe_core_python")
    if axe is None or axe.origin is None:
        pytest.skip("accessibility is not checked: no axe-core-python (PyPI)")
    browser.execute_script((Path(axe.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = browser.execute_async_script("axe.run(document).then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 15
    return [
        (fault["id"], fault["impact"], [node["html"][:120] for node in fault["nodes"][:3]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]
