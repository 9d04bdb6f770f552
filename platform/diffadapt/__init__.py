"""diffadapt: adapt a vision model to a domain without labels, with diffusion models supplying the data.

In Python::

    import diffadapt as da

    recipe = da.recipe("quickstart", **{"align.scale": 1.0})
    run = da.run(recipe, root="diffadapt-data")
    run.table()
"""

import types as _types
from typing import Any as _Any

from diffadapt import run as _run
from diffadapt.core import moved as _moved
from diffadapt.core.functions import lazily as _lazily

__version__ = "0.1.0"

_moved.install()

_FILES = {
    "api.recipe": ("recipe", "Recipe"),
    "api.plan": ("plan", "Plan"),
    "api.run": ("runs", "Run", "Runs", "Report"),
    "api.predict": ("predict",),
    "api.sweep": ("sweep", "Sweep"),
    "api.images": ("Images", "Picture"),
    "api.datasets": ("from_dataset",),
    "core.errors": ("DiffadaptError",),
}
__all__ = sorted(["run", "__version__", *(name for names in _FILES.values() for name in names)])
__getattr__ = _lazily(__name__, _FILES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Callable(_types.ModuleType):
    """The room ``diffadapt.run``, which is also the function of that name: importing any file of the room
    puts it in the function's place."""

    def __call__(self, *args: _Any, **kwargs: _Any) -> _Any:
        return self.__wrapped__(*args, **kwargs)

    @property
    def __wrapped__(self) -> _Any:
        from importlib import import_module

        return import_module("diffadapt.api.run").run

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.__wrapped__.__doc__


_run.__class__ = _Callable
