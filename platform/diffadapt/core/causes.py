"""Why the system refused something: found anywhere in an error's chain of causes, in words for its reader."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator

FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota of disk space is used up"}
_REASONS = {
    **FULL,
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "a name is longer than the file system allows, mostly 255 bytes",
    errno.ENOTDIR: "there is a file where a folder should be",
    errno.EEXIST: "something of that name is there already",
    errno.EISDIR: "a folder of that name is there already",
    errno.EIO: "the disk reports an error",
}
_MENDS = {
    **dict.fromkeys(FULL, "free space"),
    errno.ENAMETOOLONG: "shorten it",
}
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
}
"""What libraries in other languages say instead of raising an OSError with its number."""
_UNEXPLAINED = "file write failed"
"""torch's own writer says no more than this."""


def chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and all that it was raised from, raised during, or that it carries (as Ray's errors do)."""
    waiting, seen = [error], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        more = (one.__cause__, one.__context__, getattr(one, "cause", None), *one.args)
        waiting += [m for m in more if isinstance(m, BaseException)]


def full_disk(error: BaseException) -> tuple[str, str] | None:
    """(what, where) when ``error`` means that nothing more can be written: 'the disk is full' or the like, and the
    file that was written, else the folder of temporary files; None for any other error."""
    for one in chain(error):
        number = _number(one)
        if number in FULL:
            return FULL[number], str(getattr(one, "filename", None) or tempfile.gettempdir())
    return None


def reason(error: OSError) -> str:
    """Why the system refused: a clause without a full stop."""
    number = _number(error)
    return _REASONS.get(number, os.strerror(number)) if number else str(error) or type(error).__name__


def mend(error: OSError, otherwise: str) -> str:
    """What helps against it: an imperative, ``otherwise`` where the place is at fault."""
    return _MENDS.get(_number(error), otherwise)


def of_system(error: BaseException) -> str | None:
    """The sentence for an error that reached the command line and is the system's answer to a path, or None for
    what may be a fault of the program."""
    if found := full_disk(error):
        return f"Writing failed at {found[1]} ({found[0]}): free space, then run the same command."
    for one in chain(error):
        if isinstance(one, OSError) and one.filename is not None and _number(one) in _PLACES:
            name = str(one.filename)
            shown = name if len(name) < 120 else f"{name[:60]}...{name[-40:]}"
            return f"{shown!r} cannot be used ({reason(one)}): {mend(one, 'give another place')}."
    return None


_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO)


def _number(error: BaseException) -> int:
    """The error's number, 0 where there is none. A text counts too, and a disk without room beside an error of
    writing that says nothing."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error).lower()
    for part, number in _TEXTS.items():
        if part in text:
            return number
    if _UNEXPLAINED in text and shutil.disk_usage(tempfile.gettempdir()).free < 2**20:
        return errno.ENOSPC
    return 0
