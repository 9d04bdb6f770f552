"""Why the system refused something: found anywhere in an error's chain of causes, in words for its reader."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator

FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is full for you (your quota is used up)"}
"""What the disk is, by the number of the error."""
_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "a name is longer than the file system allows, mostly 255 bytes",
    errno.ENOTDIR: "a file is in the way",
    errno.EEXIST: "a file is in the way",
    errno.EISDIR: "a folder is in the way",
    errno.EIO: "the disk reports an error",
}
_TEXTS = {
    "no space left on device": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
}
"""What libraries in other languages say instead of raising an OSError with its number."""
_UNEXPLAINED = ("file write failed", "unexpected pos", "pytorchstreamwriter failed")
"""torch's own writer says no more than this."""
_NOWHERE = "no usable temporary directory"
"""What Python says when the folders for temporary files are all full, or may not be written."""


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
    """(what the disk is, where) when ``error`` means that nothing more can be written: a text of FULL, and
    the file that was written, else the folder of temporary files; None for any other error."""
    for one in chain(error):
        number = _number(one)
        if number in FULL:
            return FULL[number], str(getattr(one, "filename", None) or _temporary())
        if _NOWHERE in str(one).lower():
            return "cannot be written", "temporary files (TMPDIR names their folder)"
    return None


def reason(error: BaseException) -> str:
    """Why the system refused: a clause without a full stop."""
    number = _number(error)
    return _REASONS.get(number, os.strerror(number)) if number else str(error) or type(error).__name__


def mend(error: BaseException, otherwise: str) -> str:
    """What helps against it: an imperative, ``otherwise`` where the place is at fault."""
    return "shorten it" if _number(error) == errno.ENAMETOOLONG else otherwise


def of_system(error: BaseException) -> str | None:
    """The sentence for an error that reached the command line and is the system's answer to a path, or None
    for what may be a fault of the program."""
    if found := full_disk(error):
        return f"The disk that holds {found[1]} {found[0]}: free space, then run the same command."
    for one in chain(error):
        if isinstance(one, OSError) and one.filename is not None and _number(one) in _PLACES:
            return f"{shown(one.filename)} cannot be used ({reason(one)}): {mend(one, 'give another place')}."
    return None


def shown(name: object) -> str:
    """A path in quotes, its middle left out where it is very long."""
    text = str(name)
    return repr(text if len(text) < 160 else f"{text[:80]}...{text[-60:]}")


_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EIO)


def _number(error: BaseException) -> int:
    """The error's number, 0 where there is none. A text counts too, and a disk without room beside an error
    of writing that says nothing."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    text = str(error).lower()
    for part, number in _TEXTS.items():
        if part in text:
            return number
    if any(part in text for part in _UNEXPLAINED) and _no_room(_temporary()):
        return errno.ENOSPC
    return 0


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return os.environ.get("TMPDIR") or "/tmp"


def _no_room(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < 2**20
    except OSError:
        return False
