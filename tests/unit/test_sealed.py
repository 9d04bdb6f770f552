"""Nothing damaged is served: shards, folders of fits, runs; folders of before get their checksums."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pytest

from diffadapt.core import checked
from diffadapt.core.artifact import Failure, Rows, from_parquet, read_header, to_parquet
from diffadapt.core.errors import StoreError
from diffadapt.core.runs import SUMS, Root, Run
from diffadapt.core.sealed import SUCCESS, Sealed, damaged, read_family
from diffadapt.core.store import Store

DIGEST = "0123456789ab" + "f" * 52
PATH = f"classifier/toy-{DIGEST[:12]}"


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path) -> Store:
    store = Store(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}")
    store.prepare()
    return store


def fit(store: Store, tmp_path) -> Sealed:
    folder = tmp_path / "output"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 20)
    (folder / "metrics.json").write_text(json.dumps({"loss": 0.25}))
    (folder / "sub" / "note.txt").write_text("a note")
    sealed = Sealed(store, PATH)
    sealed.commit(DIGEST, str(folder))
    return sealed


def flip(store: Store, name: str, at: int = -3) -> None:
    data = bytearray(store.read_bytes(name))
    data[at] ^= 4
    store.write_bytes(name, bytes(data))


def test_every_flipped_bit_of_a_shard_is_seen():
    table = pa.table({"key": ["a", "0" * 64], "x": [1, 2]})
    data = to_parquet(Rows(table, [Failure("k", "0" * 64)], ["said"]), {"digest": "abc"})
    assert from_parquet(data).table.equals(table)
    header = read_header(io.BytesIO(data))
    assert header == (2, [Failure("k", "0" * 64)], ["said"])
    for at in range(len(data)):
        torn = bytearray(data)
        torn[at] ^= 1 << at % 8
        with pytest.raises(Exception):  # noqa: B017 - pyarrow's errors are of many kinds
            from_parquet(bytes(torn))
        try:
            assert read_header(io.BytesIO(bytes(torn))) == header
        except Exception as error:
            assert not isinstance(error, AssertionError), at


def test_a_shard_of_before_is_read():
    """The metadata of earlier versions hold no digest."""
    data = io.BytesIO()
    about = json.dumps({"digest": "d", "failures": [["k", "why"]]}).encode()
    table = pa.table({"x": [1]}).replace_schema_metadata({b"diffadapt": about})
    import pyarrow.parquet as pq

    pq.write_table(table, data, write_page_checksum=True)
    assert from_parquet(data.getvalue()).failures == [Failure("k", "why")]


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.json", "sub/note.txt", SUCCESS])
@pytest.mark.parametrize("how", ["flip", "cut", "zero", "absent"])
def test_a_damaged_fit_is_named_and_never_read(store, tmp_path, name, how):
    sealed = fit(store, tmp_path)
    sealed.demand()
    assert sealed.names() == ["metrics.json", "model.safetensors", "sub/note.txt"]
    data = store.read_bytes(f"{PATH}/{name}")
    if how == "absent":
        store.remove(f"{PATH}/{name}")
    elif how == "flip":
        flip(store, f"{PATH}/{name}")
    else:
        store.write_bytes(f"{PATH}/{name}", data[:-1] if how == "cut" else bytes(len(data)))
    with pytest.raises(StoreError, match=f"{name}" if how != "absent" or name != SUCCESS else "has no"):
        sealed.demand() if name != SUCCESS or how != "absent" else sealed.checksums()
    with pytest.raises(StoreError):
        sealed.read(name if name != SUCCESS else "metrics.json")
    assert list(sealed.damage(thorough=True)) == [name]


def test_a_fit_of_before_is_taken_and_gets_its_checksums(store, tmp_path):
    sealed = fit(store, tmp_path)
    store.write_bytes(f"{PATH}/{SUCCESS}", json.dumps({"digest": DIGEST}).encode())
    store.write_bytes(f"{PATH}/family.json", b"{}")
    assert sealed.read_json("metrics.json") == {"loss": 0.25}
    assert "files" not in json.loads(store.read_bytes(f"{PATH}/{SUCCESS}"))
    sealed.demand()
    assert set(json.loads(store.read_bytes(f"{PATH}/{SUCCESS}"))["files"]) == set(sealed.names())
    flip(store, f"{PATH}/model.safetensors")
    with pytest.raises(StoreError, match="model.safetensors is damaged"):
        sealed.demand()


def test_the_first_commit_stays(store, tmp_path):
    """What ``_SUCCESS`` of another fit, or an empty one, says is not believed."""
    sealed = fit(store, tmp_path)
    store.write_bytes(f"{PATH}/family.json", b"{}")
    for content in (b"", b"null", b"[]", json.dumps({"digest": "f" * 64}).encode(), b"[" * 100_000):
        store.write_bytes(f"{PATH}/{SUCCESS}", content)
        with pytest.raises(StoreError, match=f"{SUCCESS} is damaged"):
            sealed.read("metrics.json")


def test_json_with_its_own_digest():
    value = {"b": [1, 2.5, None], "a": {"ü": "\x00"}, "3": True}
    data = checked.to_json({**value, 3: True})
    assert checked.from_json(data) == value and checked.from_json(b'{"old": 1}') == {"old": 1}
    for at in range(len(data)):
        torn = bytearray(data)
        torn[at] ^= 1
        try:
            found = checked.from_json(bytes(torn))
        except ValueError:
            continue
        # white space apart, a flip can only rename the digest's own key, which leaves the rest as it was
        assert {k: v for k, v in found.items() if k in value} == value and len(found) <= len(value) + 1


def test_a_damaged_family_is_one_sentence(store):
    store.write_bytes("k/f-1/family.json", checked.to_json({"kind": "k", "version": 1}))
    assert read_family(store, "k/f-1") == {"kind": "k", "version": 1}
    flip(store, "k/f-1/family.json", at=12)
    with pytest.raises(StoreError, match="family.json is damaged"):
        read_family(store, "k/f-1")


def test_a_finished_run_knows_its_files(tmp_path):
    root = Root(str(tmp_path))
    run = Run(root, "toy-1")
    run.write("manifest.json", b"{}")
    run.write("status.json", b"1")
    run.write("figures/a.png", b"png")
    run.seal()
    assert run.damage() == [] and set(Run(root, "toy-1").sums()) == {"manifest.json", "figures/a.png"}
    run.write("status.json", b"2")
    run.write("report.html", b"late")
    assert Run(root, "toy-1").read("report.html") == b"late" and Run(root, "toy-1").damage() == []
    (tmp_path / "runs" / "toy-1" / "figures" / "a.png").write_bytes(b"pnG")
    with pytest.raises(StoreError, match="figures/a.png of toy-1 is damaged"):
        Run(root, "toy-1").read("figures/a.png")
    assert Run(root, "toy-1").damage() == ["figures/a.png"]


def test_a_run_that_goes_on_drops_what_is_damaged_and_keeps_what_it_does_not_write(tmp_path):
    root = Root(str(tmp_path))
    run = Run(root, "toy-1")
    for name in ("execution.json", "manifest.json", "warnings.json", "figures/a.png"):
        run.write(name, name.encode())
    run.seal()
    (tmp_path / "runs" / "toy-1" / "warnings.json").write_bytes(b"[]")
    again = Run(root, "toy-1")
    again.unseal()
    assert not again.has(SUMS) and not again.has("warnings.json") and again.has("manifest.json")
    again.write("manifest.json", b"new")
    again.write("figures/a.png", b"new")
    again.seal()
    assert set(Run(root, "toy-1").sums()) == {"execution.json", "manifest.json", "figures/a.png"}
    assert Run(root, "toy-1").damage() == []
    (tmp_path / "runs" / "toy-1" / "execution.json").write_bytes(b"{}")
    assert Run(root, "toy-1").damage() == ["execution.json"]


def test_damage_names_the_way_out():
    assert "cache verify --repair" in str(damaged("x"))
