"""What is a secret in text goes, whatever stands around it; what is none stays."""

from __future__ import annotations

import json
import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diffadapt.core.artifact import Failure, Rows, image_table, to_parquet
from diffadapt.core.redact import HIDDEN, redact, scrub, told
from diffadapt.report.mask import masked

LONG = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"
TABLE = [  # text, what must be gone, what must stay
    ("http://user:p@SECRET@host/v1", "SECRET", ("http://", "@host/v1")),
    ("http://user:SECRET@host:8000/v1?x=1", "SECRET", ("@host:8000/v1?x=1",)),
    ("https://SECRET@host/x", "SECRET", ("https://", "@host/x")),
    ("https://:SECRET@host/x", "SECRET", ("@host/x",)),
    ("s3://KEY:SEC/RET+x@bucket/a", "RET", ("s3://", "@bucket/a")),
    ("see s3://k:SECRET@bucket/a, or ask me@home", "SECRET", ("see s3://", "@bucket/a, or ask me@home")),
    ("simplecache::s3://k:SECRET@bucket/a", "SECRET", ("simplecache::s3://", "@bucket/a")),
    ("zip://in.png::s3://k:SECRET@bucket/a.zip", "SECRET", ("zip://in.png::s3://", "@bucket/a.zip")),
    ("s3://k:SECRET@one/a::http://u:SECRET@two/b", "SECRET", ("@one/a::http://", "@two/b")),
    ("See s3://k:SECRET@bucket/a: no /k:SECRET@bucket/a.", "SECRET", ("@bucket/a:", "@bucket/a.")),
    ('{"url": "s3://k:SEC RET@bucket/a", "who": "me@home"}', "RET", ('@bucket/a", "who": "me@home"}',)),
    ("painter:http://me:SECRET@host:8000", "SECRET", ("painter:http://", "@host:8000")),
    (f"--data {shlex.quote('s3://k:SEC RET@bucket/a b')} --x y", "RET", ("--data", "@bucket/a b' --x y")),
    ("https://h/x?token=SECRET&y=1", "SECRET", ("https://h/x?", "&y=1")),
    ("https://h/x?X-Amz-Signature=SECRET&X-Amz-Credential=SECRET", "SECRET", ("X-Amz-Credential=",)),
    ("https://a.blob.core.windows.net/c?sv=2022-11-02&sig=SECRET%2Fx&se=1", "SECRET", ("sv=2022", "&se=1")),
    ("Server=db;Uid=me;Pwd=SECRET;", "SECRET", ("Server=db",)),
    ("DefaultEndpointsProtocol=https;AccountName=me;AccountKey=SECRET==;x=y", "SECRET", ("AccountName=me",)),
    ("u?auth=SECRET&a=b", "SECRET", ("&a=b",)),
    ("pass=SECRET pw=SECRET passwd=SECRET", "SECRET", ("pass=", "pw=")),
    ('token="SEC RET" then', "RET", ("then",)),
    ("WANDB_API_KEY=SECRET", "SECRET", ("WANDB_API_KEY=",)),
    ("env AWS_SECRET_ACCESS_KEY=SE/CR run", "SE/CR", ("env ", " run")),
    ("Authorization: Basic dXNlcjpTRUNSRVQ=", "dXNlcjpTRUNSRVQ", ("Authorization",)),
    ("Authorization: Bearer SECRET", "SECRET", ("Authorization",)),
    ("sent Basic dXNlcjpTRUNSRVQ= to it", "dXNlcjpTRUNSRVQ", ("sent Basic", " to it")),
    (f"sent Bearer {LONG} to it", LONG, ("sent Bearer", " to it")),
    ("{'password': 'SECRET', 'user': 'me'}", "SECRET", ("'user': 'me'",)),
    (json.dumps({"api_key": 'SEC"RET', "n": 1}), "RET", ('"n": 1',)),
    (json.dumps({"text": json.dumps({"access_token": "SECRET"})}), "SECRET", ("text",)),
    ("password: SECRET", "SECRET", ("password",)),
    *(
        (f"(key {token})", token, ("(key ", ")"))
        for token in (
            f"hf_{LONG}", f"ghp_{LONG}", f"gho_{LONG}", f"github_pat_11AAAA_{LONG}", f"glpat-{LONG}",
            f"gldt-{LONG}", f"sk-{LONG}", f"sk-proj-{LONG}", f"sk-ant-api03-{LONG}", f"sk_live_{LONG}",
            f"rk_test_{LONG}", f"whsec_{LONG}", f"xoxb-1234-{LONG}", f"xapp-1-{LONG}",
            "AKIAIOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", f"AIza{LONG}{LONG}", f"ya29.{LONG}",
            f"GOCSPX-{LONG}", JWT, f"gsk_{LONG}", f"r8_{LONG}", f"nvapi-{LONG}",
            "dapi" + "0123456789abcdef" * 2, f"npm_{LONG}{LONG}", f"pypi-{LONG}", f"dckr_pat_{LONG}",
            f"SG.{LONG}.{LONG}", f"wandb_v1_{LONG}", f"api_org_{LONG}",
        )
    ),
    ("https://hooks.slack.com/services/T0SECRET/B0SECRET/SECRET", "SECRET", ("hooks.slack.com/services/",)),
    ("-----BEGIN RSA PRIVATE KEY-----\nSECRET\n-----END RSA PRIVATE KEY-----\nx", "SECRET", ("\nx",)),
]  # fmt: skip
HARMLESS = [
    "s3://bucket/key/a.png",
    "embedded:digits",
    "gs://b/x@v1/y",
    "https://host:8080/path",
    "http://localhost:8000/v1 (me@home)",
    "http://127.0.0.1:8000/v1?mail=me@home",
    "a=b c=d sigma=0.5 author=me",
    "plain/path key",
    "0123456789abcdef" * 4,
    "synth/digits-dit-0123456789ab/c000-i000-0123456789ab.parquet",
    "zero-shot/glyphs-clip-0123456789ab/target-0-000-0123456789ab.parquet",
    "a torch bearer in the night, basic cooking of a Basic understanding",
    "task-sk-learn-and-so-on",
    "the tokenizer: clip, 'tokenizer': 'clip', max tokens: 77",
    "git@github.com:me/project",
    "A light switch, an eight and a weight",
]


@pytest.mark.parametrize(("text", "gone", "stays"), TABLE, ids=range(len(TABLE)))
def test_secrets_go_and_the_rest_stays(text, gone, stays):
    assert gone in text
    result = redact(text)
    assert gone not in result and HIDDEN in result and all(part in result for part in stays), result
    assert redact(result) == result, "it is the same twice"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


@given(
    st.sampled_from([(text, gone) for text, gone, _ in TABLE]),
    st.sampled_from(["", "x ", "see: ", "(", "a/b-c_d=e&", "Ä\n"]),
    st.sampled_from(["", " y", ", and", "\n", ")", " @ home"]),
)
def test_no_surrounding_hides_a_secret(row, before, after):
    text, gone = row
    assert gone not in redact(before + text + after)


@given(st.text(), st.sampled_from(["{}", "painter:{}", "simplecache::{}", "--root={}"]))
@example("p@ss/w:rd?#", "{}")
@example("80/x", "{}")
@example("s3://a@b", "{}")
@example("a::http://b", "{}")
def test_a_password_of_any_characters_goes_from_a_url(password, form):
    assert redact(form.format(f"http://user:{password}@host/v1")) == form.format(f"http://{HIDDEN}@host/v1")


@given(st.text())
def test_a_password_of_any_characters_goes_from_json(password):
    value = {"a": f"s3://user:{password}@bucket/x", "b": "me@home"}
    assert json.loads(redact(json.dumps(value))) == {"a": f"s3://{HIDDEN}@bucket/x", "b": "me@home"}


@given(st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="\"'`")))
def test_a_password_without_spaces_goes_from_a_sentence(password):
    text = f"The place s3://user:{password}@bucket/x is gone (ask me@home)."
    assert redact(text) == f"The place s3://{HIDDEN}@bucket/x is gone (ask me@home)."


def test_fields_with_telling_names_are_hidden_in_values():
    value = {
        "api_key": "x",
        "n": {"hub.token": 5, "tokens": 5},
        "list": ["s3://k:s@b/x", 1, None],
        "password": "",
    }
    wanted = {
        "api_key": HIDDEN, "n": {"hub.token": HIDDEN, "tokens": 5}, "list": ["s3://***@b/x", 1, None],
        "password": "",
    }  # fmt: skip
    assert scrub(value) == wanted and masked(value) == wanted and scrub("x", "secret") == HIDDEN


def test_reasons_and_warnings_are_stored_without_secrets():
    failure = Failure("a.png", "http://user:SECRET@host/ refuses it")
    assert failure.reason == f"http://{HIDDEN}@host/ refuses it"
    rows = Rows(image_table([], [], [], []), [failure], [f"sk-{LONG} is not accepted"])
    stored = to_parquet(rows, {})
    assert b"SECRET" not in stored and LONG.encode() not in stored and b"is not accepted" in stored


def test_an_error_about_a_place_with_a_secret_is_not_quoted():
    """botocore repeats what it takes for a bucket: the half of a password before a slash."""
    error = ValueError('Parameter validation failed:\nInvalid bucket name "KEY:HALF": it must match')
    assert told(error, redact("s3://KEY:HALF/REST@bucket/x")) == "ValueError"
    assert (
        told(error, "s3://bucket/x")
        == 'Parameter validation failed: Invalid bucket name "KEY:HALF": it must match'
    )
