"""Text that a spreadsheet would take for a formula is text in every CSV file, and is what it was when it is
read again."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffadapt.core.errors import DataError
from diffadapt.core.spreadsheet import csv_bytes, plain, quoted, read_rows
from diffadapt.data.config import DataConfig
from diffadapt.data.export import write_tree
from diffadapt.data.image import encode_png
from diffadapt.data.scenes.classes import read_class_table
from diffadapt.data.scenes.table import ClassTable
from diffadapt.data.scenes.write import class_csv
from diffadapt.data.source import open_source
from diffadapt.prompts.sources.file import _parse

PACKAGE = Path(__file__).resolve().parents[2] / "platform" / "diffadapt"
EVIL = ("=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", "'=x", "=1", "--", "+a")
HARMLESS = ("a", "", "a=b", "'quoted'", "-0.5", "+1e-3", "-.5", "7", "ä")


@pytest.mark.parametrize("text", EVIL)
def test_formulas_become_text(text):
    assert quoted(text) == "'" + text and plain("'" + text) == text


@pytest.mark.parametrize("cell", [*HARMLESS, -0.5, -1, 0, None, True])
def test_numbers_and_harmless_text_stay(cell):
    assert quoted(cell) is cell


@given(st.text() | st.sampled_from(EVIL) | st.from_regex(r"'*[=+@\t-].*"))
@example("'-5")
@example("-5")
def test_every_text_comes_back(text):
    written = quoted(text)
    assert isinstance(written, str) and plain(written) == text
    assert not re.match(r"[=+@\t\r\n-]", written) or re.fullmatch(r"[+-]?[\d.]+([eE][+-]?\d+)?", written)
    (row,) = csv.reader(io.StringIO(csv_bytes([["a", text]]).decode(), newline=""))
    assert plain(row[1]) == text


def test_exported_labels_name_the_files_that_are_there(tmp_path):
    png = encode_png(np.zeros((4, 4, 3), np.uint8))
    names = ("=first", "-second")
    rows = [("=a.png", 0, png), ("-b.png", 1, png), ("'=c.png", 1, png)]
    write_tree(rows, str(tmp_path / "out"), "flat", class_names=names)
    text = (tmp_path / "out" / "labels.csv").read_text()
    assert "\n'=a.png,0,'=first\n" in text and "\n'-b.png,1,'-second\n" in text
    source = open_source(DataConfig(path=str(tmp_path / "out"), labels=str(tmp_path / "out" / "labels.csv")))
    assert {item.key: source.class_names[item.label] for item in source.items} == {
        key: names[label] for key, label, _ in rows
    }


def test_class_tables_and_prompts_are_read_again(tmp_path):
    table = ClassTable("own", ("=road", "sky"), ((1, 2, 3), (4, 5, 6)), (0, 1), (0, 1))
    (tmp_path / "classes.csv").write_bytes(class_csv(table))
    assert "0,'=road,1,2,3" in (tmp_path / "classes.csv").read_text()
    assert read_class_table(str(tmp_path / "classes.csv")).names == table.names
    text = csv_bytes([("category", "prompt", "source"), ("mug", "@a mug", "-x"), ("=pen", "a pen", "bank")])
    assert _parse("p.csv", text.decode())[1] == {"mug": ("@a mug",), "=pen": ("a pen",)}


WRITERS = (PACKAGE / "core" / "spreadsheet.py", PACKAGE / "audit" / "page.html.j2")
"""The page joins cells that core/spreadsheet has written."""


def test_no_other_code_writes_csv():
    found = [
        str(file.relative_to(PACKAGE))
        for file in sorted(PACKAGE.rglob("*"))
        if file.suffix in (".py", ".j2", ".js") and file not in WRITERS
        if re.search(
            r"csv\.(writer|DictWriter)|\.to_csv\(|write_csv\(|text/csv", file.read_text(encoding="utf-8")
        )
    ]
    assert not found, "core/spreadsheet.py writes it"


def test_no_other_code_reads_csv():
    found = [
        str(file.relative_to(PACKAGE))
        for file in sorted(PACKAGE.rglob("*.py"))
        if file not in WRITERS and re.search(r"csv\.(reader|DictReader)|read_csv\(", file.read_text())
    ]
    assert not found, "core/spreadsheet.py reads it"


ROWS = [["path", "class"], ["a, b.png", "x"], ["c.png", "y;z"]]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("code, separator", [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t")])
def test_files_as_spreadsheets_of_all_systems_save_them(end, code, separator):
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator=end).writerows(ROWS)
    assert read_rows(text.getvalue().encode(code), "It") == list(enumerate(ROWS, 1))


@pytest.mark.parametrize(
    "data, said",
    [
        (b"PK\x03\x04\xff", "It is no text in UTF-8 .byte 4."),
        (b"a\0b", "It is no text"),
        (b'a,"b\n' + b"x" * 140_000, "It cannot be read as CSV .field larger.*quotation mark"),
    ],
)
def test_what_is_no_table_is_one_sentence(data, said):
    with pytest.raises(DataError, match=said):
        read_rows(data, "It")


def test_label_files_class_tables_and_prompts_are_read_so(tmp_path):
    write_tree(
        [("a.png", 0, encode_png(np.zeros((4, 4, 3), np.uint8)))], str(tmp_path), "flat", class_names=("x",)
    )
    (tmp_path / "own.csv").write_bytes(b"path;class\ra.png;x\r")
    assert open_source(DataConfig(path=str(tmp_path), labels=str(tmp_path / "own.csv"))).class_names == ("x",)
    (tmp_path / "classes.csv").write_bytes(b"value;name;red;green;blue\r0;road;1;2;3\r1;sky;4;5;6\r")
    assert read_class_table(str(tmp_path / "classes.csv")).names == ("road", "sky")
    assert _parse("p.csv", "category;prompt\rmug;a mug\r")[1] == {"mug": ("a mug",)}
