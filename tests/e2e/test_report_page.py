"""The page in a browser: what a person who clicks, types or holds a phone meets. Needs an installed Chromium."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sottovoce.reporting import page as report
from tests.ledger_records import write_all, write_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    run, ledger = write_run(folder / "dphubert-macs-25-s1"), write_all(folder / "ledger")
    other = write_run(folder / "runs" / "second")
    return {
        "run": report.report([run]),
        "compare": report.report([ledger], folder / "compare.html"),
        "both": report.report([run, other, ledger], folder / "both.html"),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Visit:
    """A page that is open, and what went wrong on it."""

    def __init__(self, browser: Any, file: Path, width: int = 1280, scheme: str = "light", at: str = "") -> None:
        self.complaints: list[str] = []
        self.file = file
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.set_default_timeout(120_000)  # a busy machine draws slowly
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self.asked)
        self.page.goto(file.as_uri() + at)

    def asked(self, request: Any) -> None:
        if not request.url.startswith((self.file.as_uri(), "data:", "blob:")):
            self.complaints.append(f"asked for {request.url}")

    def wait(self, condition: str) -> None:
        """Until it holds; not by wait_for_function, which the page's own policy forbids as soon as it has to ask twice."""
        for _ in range(400):
            if self.page.evaluate(condition):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {condition}")

    def tabs(self) -> list[str]:
        return [tab.get_attribute("aria-controls") for tab in self.page.query_selector_all("[role=tab]")]

    def shown(self) -> list[str]:
        """Panels that are seen."""
        return [panel.get_attribute("id") for panel in self.page.query_selector_all("[role=tabpanel]") if panel.is_visible()]


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("name", ["run", "compare", "both"])
def test_every_tab_draws_fits_and_asks_for_nothing(
    browser: Any, files: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    visit = Visit(browser, files[name], width, scheme)
    for tab in visit.tabs():
        visit.page.click(f"#tab-{tab}")
        assert visit.shown() == [tab]
        visit.page.evaluate("document.querySelectorAll('main details').forEach((each) => { each.open = true; })")
        visit.wait("[...document.querySelectorAll('.plot')].every((p) => !p.offsetParent || p.querySelector('svg'))")
        assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} is wider than the window"
        wide = visit.page.evaluate(
            "[...document.querySelectorAll('.plot svg')].filter((s) => s.getBoundingClientRect().right > innerWidth + 1).length"
        )
        assert wide == 0
    assert visit.complaints == []
    visit.page.close()


def test_tabs_by_keyboard(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    keyboard, tabs = visit.page.keyboard, visit.tabs()
    keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.className") == "skip"
    assert visit.page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0  # the skip link is seen
    keyboard.press("Tab")
    for key, expected in [
        ("ArrowRight", tabs[1]),
        ("ArrowLeft", tabs[0]),
        ("ArrowLeft", tabs[-1]),
        ("Home", tabs[0]),
        ("End", tabs[-1]),
    ]:
        keyboard.press(key)
        assert visit.shown() == [expected]
        assert visit.page.evaluate("document.activeElement.id") == f"tab-{expected}"
        assert visit.page.get_attribute(f"#tab-{expected}", "aria-selected") == "true"
        assert (
            visit.page.evaluate("document.querySelectorAll('[role=tab][tabindex=\"0\"], [role=tab]:not([tabindex])').length") == 1
        )
    outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    visit.page.close()


def test_an_address_opens_its_tab(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"], at="#/published")
    assert visit.shown() == ["published"]
    visit.page.close()


def column(visit: Visit, number: int) -> list[str]:
    script = "n => [...document.querySelectorAll('#compare table.board tbody')].map((b) => b.rows[0].cells[n].dataset.value)"
    found: list[str] = visit.page.evaluate(script, number)
    return found


def test_sorting_changes_the_order_and_says_so(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    headings = visit.page.query_selector_all("#compare table.board thead th")
    at = next(i for i, heading in enumerate(headings) if heading.get_attribute("data-task") == "ks-arabic")
    before = column(visit, at)
    assert {heading.get_attribute("aria-sort") for heading in headings} == {"none"}

    headings[at].query_selector("button").click()
    after = [float(value) for value in column(visit, at)]
    assert after == sorted(after, reverse=True) != before  # higher is better, so the best comes first
    assert headings[at].get_attribute("aria-sort") == "descending"

    headings[at].query_selector("button").focus()
    visit.page.keyboard.press("Enter")
    assert [float(value) for value in column(visit, at)] == sorted(after)
    assert headings[at].get_attribute("aria-sort") == "ascending"

    headings[0].query_selector("button").focus()
    visit.page.keyboard.press("Space")
    names = column(visit, 0)
    assert names == sorted(names)
    assert [heading.get_attribute("aria-sort") for heading in headings].count("none") == len(headings) - 1
    visit.page.close()


def test_what_is_missing_stays_last(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    headings = visit.page.query_selector_all("#compare table.board thead th")
    at = next(i for i, heading in enumerate(headings) if heading.get_attribute("data-task") == "asr-english")
    for _ in range(2):
        headings[at].query_selector("button").click()
        assert column(visit, at)[-1] == ""
    visit.page.close()


def test_scores_are_seen_on_a_phone_beside_names_that_stay(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"], width=390)
    box = "document.querySelector('#compare table.board tbody tr').cells[{}].getBoundingClientRect()"
    first_score = "[...document.querySelectorAll('#compare table.board thead th')].findIndex((th) => th.dataset.task)"
    at = visit.page.evaluate(first_score)
    assert visit.page.evaluate(box.format(at) + ".right") < 390
    assert visit.page.evaluate(box.format(at + 1) + ".width") > 0
    assert visit.page.is_visible("#compare .sideways")
    name = visit.page.evaluate(box.format(0) + ".left")
    visit.page.evaluate("document.querySelector('#compare table.board').parentElement.scrollLeft = 200")
    assert visit.page.evaluate(box.format(0) + ".left") == name
    assert visit.page.evaluate(box.format(at) + ".left") < name + 200
    visit.page.close()


def test_seeds_open_below_their_mean_and_move_with_it(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    more = visit.page.query_selector("button.more")
    members = "[...document.querySelectorAll('tr.member')].filter((row) => row.offsetParent).length"
    assert visit.page.evaluate(members) == 0
    more.click()
    assert more.get_attribute("aria-expanded") == "true"
    assert visit.page.evaluate(members) == 3
    visit.page.click("#compare table.board thead th:nth-child(3) button")
    assert visit.page.evaluate("document.querySelector('tr.member').parentNode.rows.length") == 4
    visit.page.close()


def test_the_pareto_plot_shows_what_is_chosen(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    title = "document.querySelector('[data-chart=pareto]').layout.{}.title.text"
    assert "Mean rank" in visit.page.evaluate(title.format("yaxis"))
    visit.page.select_option("#pareto-cost", "params")
    visit.page.select_option("#pareto-view", label="sid: accuracy")
    assert "Parameters" in visit.page.evaluate(title.format("xaxis"))
    assert "accuracy" in visit.page.evaluate(title.format("yaxis"))
    assert visit.complaints == []
    visit.page.close()


def test_pointing_at_a_model_names_it(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    point = visit.page.query_selector("[data-chart=pareto] .scatterlayer .points path").bounding_box()
    for step in (-3, 0):  # plotly looks when the mouse moves
        visit.page.mouse.move(point["x"] + point["width"] / 2 + step, point["y"] + point["height"] / 2)
        visit.page.wait_for_timeout(100)
    assert "523 MMAC/s" in visit.page.evaluate("document.querySelector('[data-chart=pareto] .hoverlayer').textContent").replace(
        "\u00a0", " "
    )
    visit.page.close()


def test_colours_follow_the_scheme(browser: Any, files: dict[str, Path]) -> None:
    visit = Visit(browser, files["compare"])
    colour = "document.querySelector('[data-chart=pareto]').layout.font.color"
    light = visit.page.evaluate(colour)
    visit.page.emulate_media(color_scheme="dark")
    visit.wait(f"{colour} !== '{light}'")
    assert re.fullmatch(r"#[0-9a-f]{6}", light)  # no name of a variable is left
    visit.page.close()


def test_markup_in_a_name_does_nothing(browser: Any, tmp_path: Path) -> None:
    import json

    from tests.ledger_records import evaluation

    evil = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">"
    for i in (0, 4, 5, 6):
        record = evaluation(model=i)
        record["model"] |= {"name": f"{evil}{i}", "fingerprint": f"{i}"}
        (tmp_path / f"{i}.json").write_text(json.dumps(record))
    visit = Visit(browser, report.report([tmp_path], tmp_path / "page.html"))
    for tab in visit.tabs():
        visit.page.click(f"#tab-{tab}")
    assert "compared" in visit.page.title()
    assert visit.page.evaluate("document.querySelectorAll('main img, main script').length") == 0
    assert visit.complaints == []
    visit.page.close()
