"""What loading any diffusers pipeline takes: silence, the precision a device can compute in, and one sentence
when it fails."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import diffusers
import transformers

from diffadapt.core.errors import WeightsError
from diffadapt.models.weights import is_hub_id, resolve

_log = logging.getLogger(__name__)
T = TypeVar("T")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor notes of diffusers and transformers while a pipeline is put together."""
    loggings = diffusers.utils.logging, transformers.utils.logging
    before = [(module.get_verbosity(), module.is_progress_bar_enabled()) for module in loggings]
    for module in loggings:
        module.set_verbosity_error()
        module.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*torch_dtype.*"
            )  # newer diffusers prefer another name that older ones lack
            yield
    finally:
        for module, (level, bars) in zip(loggings, before, strict=True):
            module.set_verbosity(level)
            if bars:
                module.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of what ``error`` says, without its full stop; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def named(weights: str) -> tuple[str, str | None]:
    """(folder or hub id, revision or None) of ``weights`` as from_pretrained takes them."""
    resolved = resolve(weights)
    if not is_hub_id(resolved):
        return resolved, None
    name, _, revision = resolved.partition("@")
    return name, revision or None


def loaded(what: str, weights: str, load: Callable[[], T]) -> T:
    """What ``load`` returns. Raises WeightsError with one sentence for whatever it raises; ``what`` is e.g.
    'text-to-image pipeline'."""
    try:
        return load()
    except WeightsError:
        raise
    except Exception as error:  # hub, file-format and shape errors share no base class
        name, _ = named(weights)
        how = (
            f"run `hf download {name}` where there is a network"
            if is_hub_id(resolve(weights))
            else "save the folder again with save_pretrained"
        )
        raise WeightsError(
            f"No {what} could be loaded from {weights!r} ({first_line(error)}): check the name, or {how}."
        ) from error


def note_truncation(pipe: Any, prompts: Sequence[str]) -> bool:
    """Log the first prompt that is longer than the pipeline reads; whether there was one."""
    tokenizers = [t for name, t in pipe.components.items() if name.startswith("tokenizer") and t is not None]
    if not tokenizers:
        return False
    widest = max(tokenizers, key=lambda t: min(t.model_max_length, 1 << 20))
    for prompt in prompts:
        tokens = len(widest(prompt, verbose=False).input_ids)
        if tokens > widest.model_max_length:
            _log.warning(
                "A prompt has %d tokens, of which the pipeline reads %d; what follows is ignored, here and in"
                " others like it: %s",
                tokens,
                widest.model_max_length,
                prompt,
            )
            return True
    return False
