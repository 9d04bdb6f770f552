"""The only folder that imports Ray: starting or joining it, the actor pool, training groups, and the runner
over them.

Importing the folder itself imports no Ray; it hands in the back-end that a prompt's settings may ask for.
"""

from typing import Any

from diffadapt.prompts.backends.base import HANDED_IN, Backend


def _ray_backend(config: Any, device: str) -> Backend:
    from diffadapt.orchestrate.llm import RayBackend

    return RayBackend(config, device)


HANDED_IN["ray"] = _ray_backend
