"""The page of an audit in a real browser: keys, search, undo, reload, download. Skipped where no Chromium
is."""

from __future__ import annotations

import shutil
import time

import pytest

from diffadapt.audit.design import Chosen, Design
from diffadapt.audit.page import keys_of, page, picture
from diffadapt.audit.sheet import labels_of, read_sheet
from diffadapt.data.embedded import digits
from diffadapt.data.image import encode_png
from tests.auditkit import Browser

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
WORDS = ("apple", "back pack", "bike", "Ärmel", "desk", "=lamp", "mug", "pen", "phone", "ruler", "stapler")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not any(map(shutil.which, PROGRAMS)):
        pytest.skip("no Chromium is installed")
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


def written(folder, classes, count: int = 6, audit: str = "0a1b2c3d"):
    design = Design(audit, "adapt_anything-digits-12ab34cd", 0, (count,), tuple(
        Chosen(f"{audit}-{i:03d}", f"target/0/{i}.png", 0, 1.0) for i in range(1, count + 1)
    ))  # fmt: skip
    _, images, _ = digits("test")
    pictures = {c.name: picture(encode_png(images[i * 60]), c.key) for i, c in enumerate(design.chosen)}
    file = folder / "index.html"
    file.write_text(page(design, pictures, classes, "diffadapt audit --labels labels.csv"), encoding="utf-8")
    return design, file


def downloaded(folder) -> str:
    end = time.monotonic() + 20
    while not (files := [f for f in folder.iterdir() if f.name.startswith("labels") and f.suffix == ".csv"]):
        assert time.monotonic() < end, "nothing was downloaded"
        time.sleep(0.05)
    time.sleep(0.2)
    return str(files[0])


def state(browser) -> dict:
    return browser.run("JSON.parse(localStorage.getItem(place) || '{}')")


def test_digits_are_labelled_by_their_own_keys_and_kept_over_a_reload(browser, tmp_path):
    names = tuple("0123456789")
    design, file = written(tmp_path, names)
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.open(file.as_uri())
    assert browser.run("document.getElementById('image').naturalWidth") == 16
    browser.press("7", "0", "?", "3")
    assert (
        browser.run("document.getElementById('count').textContent")
        == "image 5 of 6, 4 done, 1 cannot be told"
    )
    browser.press("Backspace")  # the 3 was wrong
    assert state(browser)["now"] == 3 and len(state(browser)["labels"]) == 3
    browser.press("8")
    browser.open("about:blank?")
    browser.open(file.as_uri())  # as after a crash
    assert (
        browser.run("document.getElementById('count').textContent")
        == "image 5 of 6, 4 done, 1 cannot be told"
    )
    browser.press("ArrowLeft", "ArrowLeft")
    assert browser.run("document.querySelector('#unknown.chosen') !== null")
    browser.press("5", "1")  # over the one that could not be told, then on to the next without a label
    assert not browser.run("document.getElementById('end').hidden") or len(state(browser)["labels"]) == 5
    browser.press("2")
    assert not browser.run("document.getElementById('end').hidden")
    browser.press("s", control=True)
    where = downloaded(tmp_path)
    audit, found = read_sheet(where)
    assert audit == design.id and [found[c.name] for c in design.chosen] == ["7", "0", "5", "8", "1", "2"]
    assert labels_of(found, design, names, where) == {0: 7, 1: 0, 2: 5, 3: 8, 4: 1, 5: 2}


def test_more_classes_than_keys_are_found_by_name(browser, tmp_path):
    design, file = written(tmp_path, WORDS, audit="1111aaaa")
    browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.open(file.as_uri())
    browser.press("1")
    browser.press(*"stap", "Enter")
    browser.press(*"armel", "Enter")
    browser.press(*"xyz", "Enter")  # no class: nothing happens
    assert len(state(browser)["labels"]) == 3
    browser.press("Escape", "6")
    browser.run(
        "[...document.querySelectorAll('#classes button')].find(b => b.textContent.endsWith('ruler')).click()"
    )
    browser.run("document.getElementById('save').click()")
    where = downloaded(tmp_path)
    _, found = read_sheet(where)
    labels = labels_of(found, design, WORDS, where)
    assert [WORDS[labels[i]] for i in range(5)] == [
        "apple",
        "stapler",
        "Ärmel",
        "=lamp",
        "ruler",
    ] and 5 not in labels


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out_on_narrow_and_wide_screens(browser, tmp_path, width):
    _, file = written(tmp_path, WORDS, audit="2222bbbb")
    browser.size(width, 800)
    browser.open(file.as_uri())
    assert browser.run("document.documentElement.scrollWidth") <= width
    image = browser.run(
        "(r => [r.left, r.right, r.bottom])(document.getElementById('image').getBoundingClientRect())"
    )
    assert image[0] >= 0 and image[1] <= width and image[2] <= 800


def test_keys_of_classes():
    assert keys_of(tuple("0123456789")) == list("0123456789")
    assert keys_of(WORDS)[:9] == list("123456789") and keys_of(WORDS)[9:] == ["", ""]
    assert keys_of(("a", "A")) == ["1", "2"]  # one key cannot mean both
