"""The report in a real browser: drawn, quiet, offline, usable by keyboard and screen reader."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import MISSING, asked_for, forget_logs, printed, running, serious_faults, show
from whisq.evaluation.results import Evaluation
from whisq.report.page import write_report
from whisq.search import Mix

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"the report is not opened: no {', no '.join(MISSING)}")

WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def report(made: Evaluation, curve: tuple[Mix, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(made, path, curve)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with running() as driver:
        yield driver


def opened(browser: Any, report: Path, *, width: int = 1280, theme: str = "light") -> Any:
    show(browser, width=width, theme=theme)
    browser.get(report.as_uri())
    until(browser, "return document.documentElement.dataset.ready === 'true'")
    return browser


def until(browser: Any, script: str, *arguments: object) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := browser.execute_script(script, *arguments):
            return found
        time.sleep(0.05)
    raise AssertionError(f"never true: {script}")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_drawn_without_errors_requests_or_sideways_scrolling(
    browser: Any, report: Path, width: int, theme: str
) -> None:
    forget_logs(browser)
    opened(browser, report, width=width, theme=theme)
    assert browser.execute_script("return document.documentElement.dataset.theme") == theme
    for chart in ("ladder", "size", "difference", "inside", "curve", "speed"):
        marks = browser.execute_script("return document.querySelectorAll(`#${arguments[0]}-chart .mark`).length", chart)
        assert marks > 1, chart
    assert browser.execute_script("return document.querySelectorAll('#map-table td').length") == 6 * 10
    overflow = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert overflow <= 0
    assert printed(browser) == []
    assert asked_for(browser) == []


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_text_of_a_chart_is_cut_off(browser: Any, report: Path, width: int) -> None:
    opened(browser, report, width=width)
    cut = browser.execute_script(
        """return [...document.querySelectorAll('.chart')].flatMap(chart => {
            const frame = chart.getBoundingClientRect();
            return [...chart.querySelectorAll('text')].filter(text => {
                const box = text.getBoundingClientRect();
                return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
                    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
            }).map(text => `${chart.id}: ${text.textContent}`);
        })"""
    )
    assert cut == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_text_of_a_chart_stands_on_another_or_on_a_mark(browser: Any, report: Path, width: int, theme: str) -> None:
    opened(browser, report, width=width, theme=theme)
    over = browser.execute_script(
        """return [...document.querySelectorAll('.chart')].flatMap(chart => {
            const box = one => one.getBoundingClientRect(), all = kind => [...chart.querySelectorAll(kind)];
            const boxes = all('text').map(text => [text.textContent, box(text)]);
            const over = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                && a.top < b.bottom - 3 && b.top < a.bottom - 3;
            const texts = boxes.flatMap(([one, a], place) => boxes.slice(place + 1)
                .filter(([, b]) => over(a, b)).map(([other]) => `${chart.id}: ${one} / ${other}`));
            const names = all('.name').filter(name => all('.mark').some(mark => over(box(name), box(mark))));
            return [...texts, ...names.map(name => `${chart.id}: ${name.textContent}`)];
        })"""
    )
    assert over == []


def test_no_column_of_a_table_is_cut_off_on_a_phone(browser: Any, report: Path) -> None:
    opened(browser, report, width=390)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    cut = browser.execute_script(
        """return [...document.querySelectorAll('th, td')].filter(cell => {
            const box = cell.getBoundingClientRect();
            return box.width && (box.right > innerWidth + 1 || cell.scrollWidth > cell.clientWidth + 2)
                && getComputedStyle(cell).display !== 'inline';
        }).map(cell => cell.textContent)"""
    )
    assert cut == []


def test_hover_tells_the_numbers_of_a_file(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains

    opened(browser, report)
    mark = browser.find_element("css selector", "#ladder-chart .point .mark")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    told = until(browser, "return !document.getElementById('tip').hidden && document.getElementById('tip').textContent")
    assert "nats per token" in told
    assert "MB" in told


def test_hover_tells_the_numbers_of_a_tensor(browser: Any, report: Path) -> None:
    from selenium.webdriver import ActionChains

    opened(browser, report)
    cell = browser.find_element("css selector", "#map-table td")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", cell)
    ActionChains(browser).move_to_element(cell).perform()
    told = until(browser, "return !document.getElementById('tip').hidden && document.getElementById('tip').textContent")
    assert "encoder.blocks.0.attn.query.weight" in told
    assert "q4_0" in told
    assert "dB signal to noise" in told


def test_the_map_can_be_coloured_by_error(browser: Any, report: Path) -> None:
    opened(browser, report)
    texts = "return document.getElementById('map-table').textContent"
    assert "q4_0" in browser.execute_script(texts)
    choice = browser.find_element("css selector", "input[value='error']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", choice)
    choice.click()
    assert "q4_0" not in browser.execute_script(texts)
    colours = "return new Set([...document.querySelectorAll('#map-table td')].map(c => c.style.background)).size"
    assert browser.execute_script(colours) > 5


def column(browser: Any, number: int) -> list[str]:
    cells = (
        "return [...document.querySelectorAll(`#tensor-table tbody tr`)].map(r => r.children[arguments[0]].textContent)"
    )
    found: list[str] = browser.execute_script(cells, number)
    return found


def test_tensors_stand_worst_first_and_sort_by_keyboard(browser: Any, report: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    opened(browser, report)
    values = [float(text) for text in column(browser, 5) if text != "no difference"]
    assert len(values) > 40
    assert values == sorted(values)
    heads = "#tensor-table thead button"
    sorted_by = (
        "return [...document.querySelectorAll('#tensor-table th[aria-sort]')].map(h => h.getAttribute('aria-sort'))"
    )
    browser.find_elements("css selector", heads)[0].send_keys(Keys.ENTER)
    assert browser.execute_script(sorted_by)[0] == "ascending"
    names = column(browser, 0)
    assert names[0] == "decoder.blocks.0.attn.key.weight"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.execute_script(sorted_by)[0] == "descending"
    assert column(browser, 0) == names[::-1]


def test_choosing_another_candidate_changes_map_tensors_and_transcripts(browser: Any, report: Path) -> None:
    from selenium.webdriver.support.ui import Select

    opened(browser, report)
    assert browser.find_element("css selector", "[data-candidate]").text == "harmed"
    Select(browser.find_element("id", "candidate")).select_by_visible_text("same")
    assert {*column(browser, 1)} == {"q8_0", "f16"}
    heads = [head.text for head in browser.find_elements("css selector", "article:first-child h4")]
    assert heads[0] == "Said"
    assert heads[2].startswith("same: ")


def test_transcripts_mark_differences_and_show_more(browser: Any, report: Path) -> None:
    opened(browser, report)
    first = browser.find_element("css selector", "#transcript-list article")
    assert first.find_element("tag name", "h3").text == "clip-3"
    assert len(first.find_elements("tag name", "del")) > 0
    assert "thank you thank you" in first.find_elements("tag name", "ins")[-1].text
    assert "of them repetition" in first.text
    count = "return document.querySelectorAll('#transcript-list article').length"
    assert browser.execute_script(count) == 10
    more = browser.find_element("id", "more")
    browser.execute_script("arguments[0].click()", more)
    assert browser.execute_script(count) == 30
    # Words of a transcript are words: markup in them is not made into elements.
    assert not browser.find_elements("css selector", "#transcript-list b")


def test_theme_button_turns_everything_dark(browser: Any, report: Path) -> None:
    opened(browser, report)
    ink = "return getComputedStyle(document.querySelector('#size-chart .tick')).fill"
    light = browser.execute_script(ink)
    browser.find_element("id", "theme").click()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    until(browser, f"return ({ink.removeprefix('return ')}) !== arguments[0]", light)


def test_print_is_light_and_shows_the_tables(browser: Any, report: Path) -> None:
    opened(browser, report, theme="dark")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script("return document.documentElement.dataset.theme") == "light"
    assert browser.execute_script("return [...document.querySelectorAll('details')].every(d => d.open)")
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    paper = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(paper["data"]) > 50_000


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_serious_accessibility_fault(browser: Any, report: Path, width: int, theme: str) -> None:
    opened(browser, report, width=width, theme=theme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert serious_faults(browser) == []
