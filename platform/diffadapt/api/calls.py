"""What every call from a person's own Python shares: interruptions, and errors in one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from diffadapt.core.errors import DiffadaptError
from diffadapt.core.interrupts import Interrupts, seen

P = ParamSpec("P")
R = TypeVar("R")


def called(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as a library's entry.

    Ctrl-C raises KeyboardInterrupt, also where a library has turned it into an error of its own, and signals
    mean afterwards what they meant before. What the command line says in one sentence is a DiffadaptError,
    with credentials masked; anything else is raised as it is.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        with Interrupts():
            try:
                return function(*args, **kwargs)
            except DiffadaptError as error:
                if seen():
                    raise KeyboardInterrupt from None
                raise _masked(error) from error.__cause__
            except Exception as error:
                if seen():
                    raise KeyboardInterrupt from None
                from diffadapt.core.causes import of_system
                from diffadapt.core.redact import redact

                if (said := of_system(error)) is None:
                    raise
                raise DiffadaptError(redact(said)) from error

    return call


def _masked(error: DiffadaptError) -> DiffadaptError:
    from diffadapt.core.redact import redact

    if (said := redact(str(error))) != str(error):
        error.args = (said,)
    return error
