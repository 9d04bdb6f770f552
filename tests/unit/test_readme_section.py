"""The example of a report section, as it stands, in one file and with no other change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from reportkit import fake_run

from diffadapt.core.errors import RecipeError
from diffadapt.report import own
from diffadapt.report.html import render
from tests.unit.readmekit import blocks


@pytest.fixture()
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    place = tmp_path / "my_sections"
    place.mkdir()
    monkeypatch.setenv("DIFFADAPT_SECTIONS", str(place))
    monkeypatch.setattr(own, "__path__", list(own.__path__))
    before = set(sys.modules)  # the sections that ship stay: another test may hold their modules
    yield place
    for name in {n for n in sys.modules if n.startswith(f"{own.__name__}.")} - before:
        del sys.modules[name]


def test_the_example_is_a_section_of_every_report(tmp_path, folder):
    (folder / "carbon.py").write_text(blocks()["my_sections/carbon.py"])
    page = render(fake_run(tmp_path))
    assert "<section><h2>Carbon</h2><p><b>5.7 g</b> of CO2 in 83 s of work.</p></section>" in page
    assert page.index("What the rows show") < page.index("Carbon") < page.index("How it was made")
    without = render(fake_run(tmp_path / "other", execution={"runner": "local"}))
    assert "Carbon" not in without


def test_a_template_beside_the_file_and_plain_text(tmp_path, folder):
    head = "from diffadapt.report.sections import Section\nclass S(Section):\n    title = 'T'\n"
    (folder / "a.py").write_text(head + "    def data(self, page): return page.run.name + '<b>'\n")
    (folder / "a.html.j2").write_text("<i>{{ data }}</i>")
    (folder / "b.py").write_text(
        head + "    def data(self, page): return 1\n    def html(self, data): return '<b>'\n"
    )
    page = render(fake_run(tmp_path))
    assert "<i>quickstart-0123abcd&lt;b&gt;</i>" in page and "<h2>T</h2>&lt;b&gt;</section>" in page


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("x = 1 / 0", "cannot be imported .ZeroDivisionError"),
        ("x = 1", "exactly one class that extends Section"),
    ],
)
def test_a_file_that_is_no_section_is_named(tmp_path, folder, code, said):
    (folder / "wrong.py").write_text(code)
    with pytest.raises(RecipeError, match=f"wrong.py {said}|wrong.py must hold {said}"):
        render(fake_run(tmp_path))
