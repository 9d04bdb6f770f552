"""Secrets taken out of text before it is stored or shown: logins of URLs, parameters and fields with telling
names, tokens of known forms. What cannot be told from a secret goes too."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CHAINED = re.compile(r"::(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_AUTHORITY = re.compile(r"[^/?#]*")
_PLAIN_HOST = re.compile(r"(?:localhost|\d+(?:\.\d+){3}|\[[0-9A-Fa-f:.]+\]):\d{1,5}")
_QUOTED = {q: re.compile(rf"(?:\\.|[^\\{q}])*(?={q})", re.DOTALL) for q in "\"'`"}
_WORD = re.compile(r"\S*")

_TEXT = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_FIELDS = (
    "secret|token|password|passwd|passphrase|pwd|credentials?|(?:api|access|account|private|secret)[_-]?key"
    "|(?:access|auth|id|refresh)token|clientsecret|secret[_-]?access[_-]?key|authorization|signature"
)
_PARAMETER = re.compile(
    r"(?i)((?:key|secret|token|passwo?r?d|passphrase|pwd|signature|credential)[^=&\s]*="
    rf"|(?<![A-Z0-9])(?:sig|auth|authorization|pass|pw)=)(?:{_TEXT}|[^&\s]+)"
)
_ENTRY = re.compile(
    rf"""(?ix)((\\?["'])(?:[\w.-]*[_.-])?(?:{_FIELDS})(?:[_.-][\w.-]*)?\2\s*:\s*)(?:{_TEXT}|\\"(?s:.*?)\\")"""
)
_HEADER = re.compile(
    r"(?i)\b((?:proxy-)?authorization|x-api-key|api[_-]key|x-auth-token|password|passwd|passphrase)(:\s*)"
    r"(?:(?:basic|bearer|token)\s+)?[^\s\"']+"
)
_BEARER = re.compile(r"\b([Bb]earer +)(?=\S*\d|\S{20})[^\s\"']{8,}")
_BASIC = re.compile(r"\b([Bb]asic +)([A-Za-z0-9+/_-]{4,}={0,2})")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{16,}"
    r"|gl(?:pat|oas|dt|rtr?|cbt|ptt|ft|imt|agent|wt|soat|ffct)-[A-Za-z0-9_-]{16,}"
    r"|sk-[A-Za-z0-9_-]{16,}|[srp]k_(?:live|test)_[A-Za-z0-9]{10,}|whsec_[A-Za-z0-9]{16,}"
    r"|xox[a-z]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{10,}"
    r"|A[BCKS][CI]A[A-Z0-9]{16}(?![A-Za-z0-9])|AIza[A-Za-z0-9_-]{30,}|ya29\.[A-Za-z0-9_.-]{10,}|GOCSPX-[A-Za-z0-9_-]{16,}"
    r"|eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)*"
    r"|wandb_[A-Za-z0-9_]{20,}|gsk_[A-Za-z0-9]{20,}|r8_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{16,}|dapi[0-9a-f]{32}"
    r"|npm_[A-Za-z0-9]{30,}|pypi-[A-Za-z0-9_-]{16,}|dckr_pat_[A-Za-z0-9_-]{16,}|SG\.[\w-]{16,}\.[\w-]{16,}"
    r")"
)
_SLACK = re.compile(r"(hooks\.slack\.com/services/)[\w/-]+")
_FIELD = re.compile(
    r"(?i)(^|[_.-])(secret|token|password|passwd|credentials?|api_?key|access_?key|account_?key|private_?key)"
    r"([_.-]|$)"
)


def redact(text: str) -> str:
    """``text`` without the logins of URLs, the values of parameters, fields and headers that hold secrets,
    and tokens of known forms."""
    # A manifest has a million strings; most hold none of the marks without which there is no secret.
    if ":" in text:
        if "@" in text and "://" in text:
            text = _without_logins(text)
        if "slack.com" in text:
            text = _SLACK.sub(rf"\1{HIDDEN}", text)
        text = _HEADER.sub(rf"\1\2{HIDDEN}", _ENTRY.sub(_entry, text))
    if " " in text:
        if "earer " in text or "asic " in text:
            text = _BASIC.sub(_basic, _BEARER.sub(rf"\1{HIDDEN}", text))
        if "PRIVATE KEY" in text:
            text = _PEM.sub(HIDDEN, text)
    if (
        "-" in text and ("sk-" in text or "gl" in text or "xox" in text or "xapp-" in text or "pi-" in text)
        or "_" in text and (
            "hf_" in text or "gh" in text or "_pat_" in text or "_org_" in text or "_live_" in text
            or "_test_" in text or "whsec_" in text or "wandb_" in text or "gsk_" in text or "r8_" in text
            or "npm_" in text
        )
        or not text.islower() and (
            "IA" in text or "CA" in text or "AIza" in text or "eyJ" in text or "SG." in text
            or "GOCSPX-" in text
        )
        or "ya29." in text or "dapi" in text
    ):  # fmt: skip
        text = _TOKEN.sub(HIDDEN, text)
    if "=" in text:
        text = _PARAMETER.sub(rf"\1{HIDDEN}", text)
    return text


def told(error: BaseException, where: str) -> str:
    """What ``error`` says, in one line and redacted, or its class where it says nothing. ``where``: the place
    that it is about, redacted; where that had a secret, the class alone: a library repeats pieces of it."""
    text = "" if HIDDEN in where else " ".join(redact(str(error)).split())
    return text or type(error).__name__


def scrub(value: Any, name: str = "") -> Any:
    """``value`` (a JSON value) with secrets replaced by ``***``: by the name of the field that holds them
    (``name``: that of ``value`` itself), and as :func:`redact` finds them in text."""
    return _scrub(value, bool(name) and _FIELD.search(name) is not None)


def _scrub(value: Any, secret: bool) -> Any:
    if isinstance(value, str):
        return HIDDEN if secret and value else redact(value)
    if isinstance(value, Mapping):
        return {k: _scrub(v, isinstance(k, str) and _FIELD.search(k) is not None) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_scrub(v, secret) for v in value]
    return HIDDEN if secret and value is not None and not isinstance(value, bool) else value


def _without_logins(text: str) -> str:
    """``text`` with ``***`` for user and password of every URL: what stands before the last @ of its
    authority, which is further right than a parser says where a password holds a slash or the like. Errors
    of file systems repeat the place without its scheme: there it goes too."""
    out, done, logins = [], 0, set()
    while found := _URL.search(text, done):
        start = found.end()
        login = _login(text, found.start(), start)
        out.append(text[done:start])
        if login:
            out.append(HIDDEN)
            logins.add(text[start : start + login])
        done = start + login
    result = "".join([*out, text[done:]])
    for login in logins:
        if login.partition(":")[2]:
            result = result.replace(f"{login}@", f"{HIDDEN}@")
    return result


def _login(text: str, scheme: int, start: int) -> int:
    """The length of the login in the URL of ``text`` whose scheme begins at ``scheme`` and whose authority
    begins at ``start``; 0: it has none."""
    rest = _extent(text, scheme, start)
    if (link := _CHAINED.search(rest)) and _length(rest[: link.start()]) is not None:
        rest = rest[: link.start()]
    return _length(rest) or 0


def _extent(text: str, scheme: int, start: int) -> str:
    """How far the URL may reach: to the quote that it stands in, to the end of a text that it makes up alone,
    else to the next space."""
    quote = text[scheme - 1] if scheme else ""
    if quote in _QUOTED and (inside := _QUOTED[quote].match(text, start)) and _length(inside[0]) is not None:
        return inside[0]
    if not re.search(r"\s", text[:scheme]):
        return text[start:]
    word = _WORD.match(text, start)
    return word[0] if word else ""


def _length(rest: str) -> int | None:
    """The length of the login that ``rest``, a URL without its scheme, begins with (0: it has none); None
    where a user is followed by a colon, but no @ is found."""
    authority = _AUTHORITY.match(rest)
    place = authority[0] if authority else ""
    if "@" in place and ":" not in place:
        return place.rfind("@")
    if ":" not in place or _PLAIN_HOST.fullmatch(place):
        return 0
    last = rest.rfind("@")
    return None if last < 0 else last


def _entry(found: re.Match[str]) -> str:
    mark = found[2]
    return f"{found[1]}{mark}{HIDDEN}{mark}"


def _basic(found: re.Match[str]) -> str:
    """A user and password in base64, and no word of a sentence."""
    try:
        pair = base64.b64decode(found[2].replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return found[0]
    return f"{found[1]}{HIDDEN}" if b":" in pair else found[0]
