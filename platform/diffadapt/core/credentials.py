"""What an object store says of credentials, found in the errors of its client library."""

from __future__ import annotations

import re

from diffadapt.core.causes import chain

_RENEW = (
    "renew them (log in again, or set the new token), then run the same command; finished shards are kept"
)
_GIVE = "give the right ones in the environment, then run the same command; finished shards are kept"
_EXPIRED = (
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "RefreshError",
    "ReauthFailError", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "ExpiredAuthenticationToken",
    "CredentialUnavailableError", "CredentialRetrievalError", "TokenRetrievalError",
)  # fmt: skip
_WRONG = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId",
    "UnrecognizedClientException", "InvalidAuthenticationInfo", "AuthenticationFailed",
    "ClientAuthenticationError", "InvalidCredentials",
)  # fmt: skip
_NONE = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "DefaultCredentialsError",
    "NoAuthenticationInformation",
)
_CLOCK = ("RequestTimeTooSkewed",)
_SAYS = (
    (_EXPIRED, "have expired", _RENEW),
    (_WRONG, "are refused", _GIVE),
    (_NONE, "are missing", _GIVE),
)


def refused(error: BaseException, where: str) -> str | None:
    """The sentence for ``where`` ('the store ...') whose credentials are expired, wrong or missing, or whose
    server finds this machine's clock wrong; None for any other error, plain lack of permission among
    them."""
    names = [name for one in chain(error) for name in _names(one)]
    if found := next((n for n in names if n in _CLOCK), None):
        return (
            f"{where[0].upper()}{where[1:]} refuses this machine's clock ({found}): set the time, then run"
            " the same command; finished shards are kept."
        )
    for known, what, mend in _SAYS:
        if found := next((n for n in names if n in known), None):
            return f"The credentials for {where} {what} ({found}): {mend}."
    if any(_status(one) == 401 for one in chain(error)):
        return f"The credentials for {where} are refused or have expired (status 401): {_RENEW}."
    return None


def unexplained(error: BaseException) -> bool:
    """Whether ``error`` may be about credentials without saying so: an answer to HEAD has a status and no
    text."""
    return any(
        _status(one) in (400, 403) or isinstance(one, PermissionError) or "Bad Request" in str(one)
        for one in chain(error)
    )


def _names(error: BaseException) -> list[str]:
    """The class of ``error``, the code that the server gave, and words of its text that are such codes."""
    answer = getattr(error, "response", None)
    code = (answer.get("Error") or {}).get("Code") if isinstance(answer, dict) else None
    return [
        type(error).__name__,
        str(code or ""),
        str(getattr(error, "error_code", "")),
        *_WORDS.findall(str(error)),
    ]


def _status(error: BaseException) -> int | None:
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return (answer.get("ResponseMetadata") or {}).get("HTTPStatusCode")
    for name in ("status_code", "status", "code"):
        try:
            return int(getattr(error, name))
        except (AttributeError, TypeError, ValueError):
            continue
    return None


_WORDS = re.compile("|".join(rf"\b{name}\b" for name in (*_EXPIRED, *_WRONG, *_NONE, *_CLOCK)))
