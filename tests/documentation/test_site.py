"""The site in a real browser: whole, quiet, offline, searchable, for screen readers too; every link leads somewhere."""

from __future__ import annotations

import html.parser
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import pytest

from tests.support.browser import MISSING, asked_for, forget_logs, printed, running, serious_faults, show

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    find_spec("material") is None, reason="the site is not built: no mkdocs-material (PyPI)"
)
needs_browser = pytest.mark.skipif(bool(MISSING), reason=f"the site is not opened: no {', no '.join(MISSING)}")
LOOKED_AT = ("smaller.html", "reference/commands.html", "when-a-file-is-wrong.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running() as driver:
        yield driver


class Links(html.parser.HTMLParser):
    """What a page links to, and the names of its places."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.targets += [value for key in ("href", "src") if (value := found.get(key))]
        self.names |= {value for key in ("id", "name") if (value := found.get(key))}


def test_every_link_within_the_site_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    assert len(pages) > 25
    lost = []
    for page, links in pages.items():
        for target in links.targets:
            path, anchor = urldefrag(target)
            if path.startswith(("http:", "https:", "data:", "mailto:")):
                continue
            meant = (page.parent / unquote(path)).resolve() if path else page
            there = pages.get(meant)
            if not meant.exists() or (anchor and there is not None and unquote(anchor) not in there.names):
                lost.append(f"{page.relative_to(site)}: {target}")
    assert lost == []


def test_no_markup_is_left_over(site: Path) -> None:
    """Tables and lists that the site's Markdown reads otherwise than GitHub's."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "<p>|" not in text, page
        assert "| ---" not in text, page


@needs_browser
@pytest.mark.parametrize("page", LOOKED_AT)
@pytest.mark.parametrize(("width", "theme"), [(390, "light"), (1280, "dark")])
def test_drawn_quietly_and_without_anything_from_elsewhere(
    browser: Any, site: Path, page: str, width: int, theme: str
) -> None:
    show(browser, width=width, theme=theme)
    browser.get((site / page).as_uri())
    browser.execute_script("localStorage.clear()")  # where the theme keeps the first choice
    forget_logs(browser)
    browser.get((site / page).as_uri())
    scheme = browser.find_element("tag name", "body").get_attribute("data-md-color-scheme")
    assert scheme == {"light": "default", "dark": "slate"}[theme]
    assert browser.find_elements("css selector", "article h1")
    assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0
    assert printed(browser) == []
    assert asked_for(browser) == []
    assert serious_faults(browser) == []


@needs_browser
def test_search_works_without_a_server(browser: Any, site: Path) -> None:
    import time

    show(browser, width=1280, theme="light")
    browser.get((site / "index.html").as_uri())
    field = browser.find_element("css selector", "input.md-search__input")
    browser.execute_script("arguments[0].focus()", field)
    browser.switch_to.active_element.send_keys("importance")
    deadline = time.monotonic() + 20
    while not (found := browser.find_elements("css selector", ".md-search-result__item")):
        assert time.monotonic() < deadline, "no result in 20 s"
        time.sleep(0.1)
    assert "importance" in found[0].get_attribute("textContent").lower()
