"""Reading checkpoint files safely, and copying their tensors into a model with errors that name what does not
fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from diffadapt.core.errors import WeightsError

_NESTED = ("state_dict", "model", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "model.")


def load_into(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy ``state`` into ``model``; every key and shape must match. Raises WeightsError naming a few that do
    not."""
    own = model.state_dict()
    # Older torch saved batch norm without its step counter, which no forward pass reads.
    state = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **state}
    missing = [k for k in own if k not in state]
    extra = [k for k in state if k not in own]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, wanted {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(found[:3])}{', ...' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unexpected", extra), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise WeightsError(
            f"The weights {where!r} do not fit {type(model).__name__}: {'; '.join(problems)}; check the"
            " architecture and class count."
        )
    bad = next((k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()), None)
    if bad is not None:
        raise WeightsError(
            f"The weights {where!r} hold NaN or infinity (in {bad}): their training diverged or the file is"
            " damaged; give others."
        )
    model.load_state_dict(dict(state))


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file, unwrapped from ``state_dict``/``model`` and from ``module.``
    prefixes.

    Raises WeightsError if the file is damaged, holds other Python objects, or holds no tensors.
    """
    try:
        raw = (
            load_file(path)
            if path.endswith(".safetensors")
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"The checkpoint {path!r} cannot be read: it is damaged or holds Python objects beside tensors,"
            " which are not unpickled for safety; get it again, or save its state_dict alone as safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"The checkpoint {path!r} cannot be read ({type(error).__name__}): it is damaged or not a"
            " checkpoint."
        ) from error
    while isinstance(raw, Mapping):
        inner = next((raw[k] for k in _NESTED if isinstance(raw.get(k), Mapping)), None)
        if inner is None:
            break
        raw = inner
    if not isinstance(raw, Mapping) or not raw or not all(isinstance(v, torch.Tensor) for v in raw.values()):
        raise WeightsError(
            f"The checkpoint {path!r} holds no state_dict of tensors at its top level or under"
            f" {', '.join(_NESTED)}."
        )
    return {str(k): v for k, v in raw.items()}


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the wrappers' prefixes that all keys share (module., backbone., ...)."""
    state = dict(state)
    while (prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None)) is not None:
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state
