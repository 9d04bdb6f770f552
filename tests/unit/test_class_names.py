"""Class names: reading a list, saying a name, binding folders to names."""

from __future__ import annotations

import unicodedata

import pytest

from diffadapt.core.errors import DataError
from diffadapt.data.class_names import match_names, normalise, read_class_names, spoken


def write(tmp_path, data):
    path = tmp_path / "classes.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def test_reads_what_editors_write(tmp_path):
    text = "\ufeff# office\r\nback_pack\r\n\r\n  desk lamp \r\nCafé\r\n猫\r\n".encode()
    assert read_class_names(write(tmp_path, text)) == ("back_pack", "desk lamp", "Café", "猫")


def test_names_are_composed_letters(tmp_path):
    assert read_class_names(write(tmp_path, unicodedata.normalize("NFD", "Café\nThé"))) == ("Café", "Thé")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("mug\n", "one class only"),
        ("mug\npen\nmug\n", "'mug' twice"),
        ("desk lamp\npen\nDesk_Lamp\n", "differ only in case"),
        ("t-shirt\npen\nT shirt\n", "differ only in case"),
        ("mug\n_-\n", "spaces, hyphens and underscores alone"),
        (b"\xff\xfe\x00m", "not UTF-8"),
        (b"mug\0pen\n", "is not text"),
    ],
)
def test_a_bad_list_is_told_in_one_sentence(tmp_path, data, said):
    with pytest.raises(DataError, match=said):
        read_class_names(write(tmp_path, data))


def test_a_missing_list(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_class_names(str(tmp_path / "none.txt"))


def test_spoken():
    assert [spoken(n) for n in ("back_pack", "Alarm_Clock", " a  b_", "t-shirt", "7", "grüner_Tee")] == [
        "back pack",
        "Alarm Clock",
        "a b",
        "t-shirt",
        "7",
        "grüner Tee",
    ]
    assert normalise("Ｂack-Pack_1") == "back pack 1"


def test_folders_are_bound_exactly_then_by_writing():
    listed = ("back_pack", "Desk Lamp", "Café", "mug", "MUG2")
    found = match_names(
        listed, ["mug", "desk_lamp", unicodedata.normalize("NFD", "Café"), "Back Pack"], "The folder"
    )
    assert found == {"mug": 3, "desk_lamp": 1, unicodedata.normalize("NFD", "Café"): 2, "Back Pack": 0}
    assert match_names(listed, ["backpack"], "x") == {"backpack": 0}


def test_squeezed_names_bind_only_when_unambiguous():
    with pytest.raises(DataError, match="ab"):
        match_names(("a b", "ab c", "abc"), ["a-bc"], "The folder")


def test_what_does_not_match_is_named():
    with pytest.raises(DataError, match="The folder has 'mugg', 'x'.*did you mean 'mug'"):
        match_names(("mug", "pen"), ["mugg", "x", "pen"], "The folder")
    with pytest.raises(DataError, match="both 'desk lamp' and 'desk_lamp'"):
        match_names(("desk_lamp", "pen"), ["desk lamp", "desk_lamp"], "The folder")
    assert match_names(("mug", "pen"), ["pen"], "The folder") == {"pen": 1}
    with pytest.raises(DataError, match="lacks 'mug'"):
        match_names(("mug", "pen"), ["pen"], "The folder", every=True)
