"""Who may ask the page for anything: by method, by the name that was asked for, by token."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from diffadapt.core.listening import is_address

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'self'; sandbox"
)
"""Of a report, which the page shows in a frame: a file of the root, and none of our own code."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Refusal(NamedTuple):
    status: int
    sentence: str


@dataclass(frozen=True)
class Guard:
    """``names``: what the page may be called in a Host header beside addresses and localhost; ``token``: what
    requests must bear, if anything; ``cookie``: under which name a browser keeps it."""

    names: Collection[str] = ()
    token: str = ""
    cookie: str = "diffadapt"

    def refuse(
        self, method: str, headers: Mapping[str, str], cookies: Mapping[str, str], given: str
    ) -> Refusal | None:
        """Why a request is not answered; ``headers`` with names in lower case, ``given``: the token of its
        query."""
        if method != "GET":
            return Refusal(405, f"The page only shows: it takes GET, not {method[:20]}.")
        host = host_of(headers.get("host", ""))
        if not self._known(host):
            return Refusal(
                421,
                f"The page is not called {host[:100]!r}: open it by the address that `diffadapt ui` printed,"
                " or name it with --name.",
            )
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not _opens(headers):
            return Refusal(403, "Another site asked for this in your browser: open the page itself.")
        if self.token and not (self.bears(headers, cookies) or self.fits(given)):
            return Refusal(
                401,
                "The request bears no or another token: open the address with ?token=... that `diffadapt ui`"
                " printed, or send it as Authorization: Bearer.",
            )
        return None

    def bears(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a header or a cookie has the token."""
        header = headers.get("authorization", "")
        return self.fits(header.removeprefix("Bearer ").strip()) or _same(
            cookies.get(self.cookie, ""), self.kept
        )

    def fits(self, given: str) -> bool:
        """Whether ``given`` is the token; takes as long whatever it is."""
        return bool(self.token) and _same(given, self.token)

    @property
    def kept(self) -> str:
        """What a browser keeps in place of the token: it opens this page and tells the token to nobody."""
        return hashlib.sha256(f"diffadapt ui {self.token}".encode()).hexdigest()

    def _known(self, host: str) -> bool:
        """DNS can bend a name to another machine, but no address: of names only known ones are answered."""
        name = host.rstrip(".").lower()
        return name == "localhost" or is_address(name) or name in {n.lower() for n in self.names}


def host_of(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.rpartition(":")[0] if header.count(":") == 1 else header


def _opens(headers: Mapping[str, str]) -> bool:
    """A link that somebody followed to the page."""
    return headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())
