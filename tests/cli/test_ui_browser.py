"""`ui` in a headless Chromium as somebody uses it: with mouse and keys, wide and narrow, light and dark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffadapt.core.runs import Root, Run
from diffadapt.report.html import write_report
from diffadapt.report.summary import summarise
from tests.cli.browser import Browser, chromium
from tests.uikit import OTHER, PICTURED, furnished, going_on, opened, pngs
from tests.unit.reportkit import fake_run

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="there is no Chromium: `apt-get install chromium` has these tests run"
)
A, B = PICTURED, OTHER


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_report(Run(furnished(folder), A))
    fake_run(folder, "<img src=x onerror=document.title='stolen'>-0123abcd")
    return folder


@pytest.fixture(scope="module")
def page(place):
    with opened(str(place)) as base:
        yield base


@pytest.fixture(scope="module")
def browser():
    with Browser() as found:
        yield found


@pytest.fixture(autouse=True)
def _quiet(browser):
    """Nothing is refused by the page's own policy, and no script fails."""
    browser.size(1280, 900)
    browser.dark(False)
    browser.said.clear()
    yield
    assert browser.said == []


def count(browser: Browser, selector: str) -> int:
    return browser.eval(f"document.querySelectorAll({json.dumps(selector)}).length")


def test_from_the_list_to_a_picture_by_keys(browser, page):
    browser.go(f"{page}/")
    browser.wait("document.querySelectorAll('table.rows tbody tr').length === 3")
    browser.press("/")
    browser.type("pict")
    browser.wait("document.querySelectorAll('table.rows tbody tr').length === 1")
    browser.press("Escape", "j", "Enter")
    browser.wait("document.querySelectorAll('.stage').length === 3")
    assert "6 / 6 shards" in browser.text("[data-stage=synth]") and "1 quarantined" in browser.text(
        "[data-stage=synth]"
    )
    browser.press("3")
    browser.wait("document.querySelectorAll('.pic').length === 30")
    browser.wait("[...document.querySelectorAll('.pic img')].slice(0, 8).every((i) => i.naturalWidth === 16)")
    assert "left out by filter: 4 blank, 3 CLIP does not see its class" in browser.text("#tab")
    browser.press("j", "j", "Enter")
    browser.wait("document.querySelector('#viewer').open")
    first = browser.text("#viewer dl")
    assert "a <i>drawing</i> of a" in first, "what a prompt holds is text"
    browser.press("ArrowRight")
    browser.wait(f"document.querySelector('#viewer dl').innerText !== {json.dumps(first)}")
    browser.press("Escape")
    assert not browser.eval("document.querySelector('#viewer').open")
    browser.press("u")
    browser.wait("location.hash === '#/runs'")


def test_only_what_was_left_out_is_shown_when_asked(browser, page):
    browser.go(f"{page}/#/run/{A}/pictures")
    browser.wait("document.querySelectorAll('.pic').length === 30")
    browser.choose("select[data-key=only]", "out")
    browser.wait(
        "document.querySelectorAll('.pic').length === 7 && document.querySelectorAll('.pic.out').length === 7"
    )
    browser.choose("select[data-key=class]", "3")
    browser.wait("[...document.querySelectorAll('.pic span')].filter((s) => s.innerText === '3').length > 0")
    browser.click("nav.tabs a", "Left out")
    browser.wait("document.querySelectorAll('.pic.out').length === 7")
    assert "its prompt was empty: <b>no</b>" in browser.text("#tab")
    browser.click("#tab a", "All of them")
    browser.wait("document.querySelectorAll('.pic.out').length === 7 && location.hash.includes('pictures')")


def test_scores_figures_and_the_report_in_its_frame(browser, page, place):
    browser.go(f"{page}/#/run/{A}/scores")
    browser.wait("document.querySelectorAll('table.score tbody tr').length > 10")
    lead = summarise(Run(Root(str(place)), A).scores()).lead
    assert f"{lead.mean:.1f}" in browser.text("table.score") and count(browser, ".bars svg") == 1
    browser.click("nav.tabs a", "Report")
    browser.wait("!!document.querySelector('iframe.report')")
    assert browser.eval("document.querySelector('iframe.report').getAttribute('sandbox')") == ""
    browser.go(f"{page}/report?run={A}")
    browser.wait("document.body && document.body.innerText.includes('diffadapt report')")
    assert browser.eval("document.scripts.length") == 0


def test_two_runs_are_taken_and_compared(browser, page):
    browser.go(f"{page}/#/runs")
    browser.wait("document.querySelectorAll('.pick input').length === 3")
    browser.click(f"input[aria-label='Compare {A}']")
    browser.eval(f"document.querySelector('a[data-run=\"{B}\"]').focus()")
    browser.press("x", "c")
    browser.wait("location.hash.startsWith('#/compare/')")
    browser.wait("document.querySelectorAll('.pair svg').length === 2")
    text = browser.text()
    assert A in text and B in text and "B - A" in text and "What was asked for differently" in text


def test_prompts_logs_settings_and_sweeps(browser, page):
    browser.go(f"{page}/#/run/{A}/prompts")
    browser.wait("document.querySelectorAll('#tab tbody tr').length === 30")
    browser.click("#tab input[type=search]")
    browser.type("of a 4")
    browser.wait("document.querySelectorAll('#tab tbody tr').length === 3")
    browser.go(f"{page}/#/run/{A}/settings")
    browser.wait("document.body.innerText.includes('diffadapt run quickstart')")
    browser.go(f"{page}/#/run/{A}/logs")
    browser.wait("document.body.innerText.includes('status.json')")
    browser.press("g", "s")
    browser.click("a", "toys-0a1b2c3d")
    browser.wait("document.body.innerText.includes('recommended: ')")
    assert count(browser, "tr.best") == 1
    browser.click("td a")
    browser.wait("location.hash.includes('toys-0a1b2c3d%3A') || location.hash.includes('toys-0a1b2c3d:')")


def test_names_are_text(browser, page):
    browser.go(f"{page}/#/runs")
    browser.wait("document.body.innerText.includes('onerror=document.title')")
    assert "stolen" not in browser.eval("document.title") and count(browser, "main img") == 0


def test_a_run_is_seen_to_go_on(browser, tmp_path):
    root, images = Root(str(tmp_path)), pngs()
    root.store.prepare()
    going_on(root, "live-0123abcd", 6, 1, images=images)
    with opened(str(tmp_path)) as base:
        browser.go(f"{base}/#/runs")
        browser.click("tr:has(.state.running) a")
        browser.wait("document.querySelector('[data-stage=synth] progress').value > 0.1")
        assert "1 min 5 s left" in browser.text("[data-stage=synth]")
        going_on(root, "live-0123abcd", 6, 3, images=images)
        browser.wait("document.querySelector('[data-stage=synth] progress').value === 0.5")
        browser.press("3")
        browser.wait("document.querySelectorAll('.pic').length === 15")
        going_on(root, "live-0123abcd", 6, 6, images=images)
        browser.wait("document.querySelectorAll('.pic').length === 30")
        assert count(browser, ".pic.new") == 15 and "6 of 6 shards" in browser.text("#tab")
        assert "live" in browser.text("#live")
    browser.wait("document.querySelector('#live').innerText.includes('does not answer')")
    browser.said.clear()  # the browser's own words for a server that is gone


@pytest.mark.parametrize(
    "tab", ["progress", "scores", "pictures", "apart", "prompts", "logs", "settings", "report"]
)
def test_nothing_is_wider_than_a_telephone(browser, page, tab):
    browser.size(390, 844)
    browser.go(f"{page}/#/run/{A}/{tab}")
    browser.wait("!!document.querySelector('#tab section, #tab iframe')")
    assert browser.eval("document.documentElement.scrollWidth") == 390


def test_lists_and_comparisons_on_a_telephone_and_in_the_dark(browser, page):
    browser.size(390, 844)
    browser.dark(True)
    for address, ready in (
        ("#/runs", "document.querySelectorAll('table.rows tbody tr').length"),
        ("#/sweeps", "document.querySelectorAll('table.rows tbody tr').length"),
        ("#/sweep/toys-0a1b2c3d", "document.body.innerText.includes('recommended')"),
        (f"#/compare/{A}/{B}", "document.querySelectorAll('.pair svg').length === 2"),
    ):
        browser.go(f"{page}/{address}")
        browser.wait(ready)
        assert browser.eval("document.documentElement.scrollWidth") == 390, address
    ink, paper = (
        browser.eval(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor")
    )
    light = [sum(map(int, c[4:-1].split(","))) for c in (ink, paper)]
    assert light[0] > 600 and light[1] < 120, (ink, paper)


def test_every_control_has_a_name_and_is_reached_by_tab(browser, page):
    for tab in ("pictures", "prompts", "logs"):
        browser.go(f"{page}/#/run/{A}/{tab}")
        browser.wait("!!document.querySelector('#tab section')")
        nameless = browser.eval(
            """[...document.querySelectorAll('button, select, input, a, img, progress, iframe')].filter((e) =>
                !e.closest('dialog') && e.getClientRects().length && e.getAttribute('alt') !== '' &&
                !(e.innerText || e.getAttribute('aria-label') || e.getAttribute('alt') || e.title ||
                  (e.labels && e.labels.length))).map((e) => e.outerHTML)"""
        )
        assert nameless == []
    browser.go(f"{page}/#/runs")
    browser.wait("document.querySelectorAll('table.rows a').length")
    for _ in range(20):
        browser.press("Tab")
        if browser.eval("document.activeElement.dataset.run || ''"):
            break
    assert browser.eval("document.activeElement.dataset.run")
