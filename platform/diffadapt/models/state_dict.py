"""Reading checkpoint files safely, and copying their tensors into a model with errors that name what does not
fit."""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import pickle
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from diffadapt.core.errors import WeightsError

_NESTED = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher")
"""Averages over the training, taken where a file has them alone."""
_PREFIXES = (
    "module.", "_orig_mod.", "backbone.", "model.", "net.", "network.", "encoder.", "ema_model.", "ema.",
)  # fmt: skip
_DEEPEST = 3
_ASIDE = (
    "n_averaged", "num_updates", "decay", "initted", "step", "criterion", "loss", "loss_fn", "loss_weight",
    "class_weights", "total_ops", "total_params",
)  # fmt: skip
"""First or last parts of the names that wrappers, losses and profilers add to a network's own."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file as one state dict, and what was said of choosing them, a clause each."""

    state: dict[str, torch.Tensor]
    said: tuple[str, ...] = ()

    def note(self, where: str) -> str:
        """A sentence on what was chosen; empty where there was nothing to choose."""
        return f"Of the weights {where!r} {'; '.join(self.said)}." if self.said else ""


def load_into(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Copy ``state`` into ``model``; every key and shape must match. Raises WeightsError naming a few that do
    not."""
    state = demand_fit(model, state, where)
    bad = next((k for k, v in state.items() if v.is_floating_point() and not torch.isfinite(v).all()), None)
    if bad is not None:
        raise WeightsError(
            f"The weights {where!r} hold NaN or infinity (in {bad}): their training diverged or the file is"
            " damaged; give others."
        )
    model.load_state_dict(dict(state))


def demand_fit(model: nn.Module, state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """``state`` as ``model`` takes it. Raises WeightsError unless every key and shape match, and for integers
    where ``model`` has fractions; the tensors themselves are not looked at."""
    own = model.state_dict()
    # Older torch saved batch norm without its step counter, which no forward pass reads.
    state = {**{k: v for k, v in own.items() if k.endswith("num_batches_tracked")}, **state}
    shapes = [(k, state[k].shape, own[k].shape) for k in own if k in state and state[k].shape != own[k].shape]
    problems = misfits([k for k in own if k not in state], [k for k in state if k not in own], shapes)
    if problems:
        raise WeightsError(
            f"The weights {where!r} do not fit {type(model).__name__}: {problems}; check the"
            " architecture and class count."
        )
    if whole := [k for k in own if own[k].is_floating_point() and not state[k].is_floating_point()]:
        raise WeightsError(
            f"The weights {where!r} hold integers ({str(state[whole[0]].dtype).removeprefix('torch.')}) for"
            f" {len(whole)} tensors ({_few(whole)}), as quantised files do, whose scales are not known here:"
            " give the weights before quantisation."
        )
    return state


def misfits(
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> str:
    """In words, with a few names: tensors that a network has and a file has not, that a file has beyond it,
    and those of ``shapes`` (name, in the file, in the network); '' for none."""
    other = [f"{k} is {tuple(has)}, wanted {tuple(wanted)}" for k, has, wanted in shapes]
    return "; ".join(
        f"{len(found)} {what} ({_few(found)})"
        for what, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if found
    )


def read_state_dict(path: str) -> dict[str, torch.Tensor]:
    """The tensors of :func:`read_checkpoint`."""
    return read_checkpoint(path).state


def read_checkpoint(path: str, shapes_only: bool = False) -> Checkpoint:
    """The tensors of a checkpoint file, unwrapped from ``state_dict``/``model`` and their like; with
    ``shapes_only`` hardly more than its header is read, and the tensors are not to be computed with.

    Settings of a training script (argparse's, numbers of NumPy) may stand beside the tensors. Raises
    WeightsError if the file is damaged, holds other Python objects, or holds no tensors.
    """
    try:
        if path.endswith(".safetensors"):
            raw: Any = _headers(path) if shapes_only else load_file(path)
        else:
            raw = unpickled(path, shapes_only)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"The checkpoint {path!r} cannot be read: it is damaged or holds Python objects beside tensors"
            f"{_classes(path)}, which are not unpickled for safety; get it again, or save its state_dict"
            " alone as safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(
            f"The checkpoint {path!r} cannot be read ({type(error).__name__}): it is damaged or not a"
            " checkpoint."
        ) from error
    said: list[str] = []
    while isinstance(raw, Mapping):
        parts = [k for k in (*_NESTED, *_AVERAGED) if isinstance(raw.get(k), Mapping)]
        if not parts:
            break
        if beside := [k for k in parts[1:] if k in _AVERAGED and parts[0] not in _AVERAGED]:
            said.append(f"the part {parts[0]!r} is taken, not the average in {beside[0]!r} beside it")
        raw = raw[parts[0]]
    tensors = (
        {str(k): v for k, v in raw.items() if isinstance(v, torch.Tensor)} if isinstance(raw, Mapping) else {}
    )
    if not tensors:
        raise WeightsError(
            f"The checkpoint {path!r} holds no state_dict of tensors at its top level or under"
            f" {', '.join((*_NESTED, *_AVERAGED))}."
        )
    if others := [str(k) for k in raw if str(k) not in tensors]:
        said.append(f"{len(others)} values that are no tensors are set aside ({_few(others)})")
    return Checkpoint(tensors, tuple(said))


def arranged(checkpoint: Checkpoint, names: Collection[str]) -> Checkpoint:
    """The part of a checkpoint that has the parameter ``names``, under these names: without the prefixes of
    wrappers (DataParallel, SWA, EMA, Lightning, torch.compile), and what they add set aside.

    Names that the network's own level of the file has beyond ``names`` stay, for :func:`load_into` to refuse.
    """
    wanted, state = set(names), checkpoint.state
    best, prefix = state, ""
    for candidate, part in _parts(state):
        if len(wanted & part.keys()) > len(wanted & best.keys()):
            best, prefix = part, candidate
    outside = [k for k in state if not k.startswith(prefix)]
    aside = [k for k in best if k not in wanted and {k.partition(".")[0], k.rpartition(".")[2]} & set(_ASIDE)]
    said = list(checkpoint.said)
    if prefix and outside:
        said.append(
            f"what is under {prefix!r} is taken, and {len(outside)} others set aside ({_few(outside)})"
        )
    if aside:
        said.append(f"{len(aside)} that are no parameters are set aside ({_few(aside)})")
    return Checkpoint({k: v for k, v in best.items() if k not in aside}, tuple(said))


def _parts(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(prefix, the tensors under it without it) for every chain of wrappers' prefixes that the names have."""
    level = {""}
    for _ in range(_DEEPEST):
        level = {
            prefix + more
            for prefix, more in itertools.product(level, _PREFIXES)
            if any(k.startswith(prefix + more) for k in state)
        }
        for prefix in sorted(level):
            yield prefix, {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def strip_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without the wrappers' prefixes that all keys share (module., backbone., ...), and without what wrappers
    add to them."""
    state = {k: v for k, v in state.items() if k.partition(".")[0] not in _ASIDE}
    while (prefix := next((p for p in _PREFIXES if all(k.startswith(p) for k in state)), None)) is not None:
        if not state:
            break
        state = {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def _headers(path: str) -> dict[str, torch.Tensor]:
    """Tensors without content of the shapes that a .safetensors file names, fractions or integers."""
    with safe_open(path, framework="pt") as handle:
        slices = {name: handle.get_slice(name) for name in handle.keys()}
        return {
            name: torch.empty(part.get_shape(), dtype=_kind(part.get_dtype()), device="meta")
            for name, part in slices.items()
        }


def _kind(name: str) -> torch.dtype:
    """The type of tensors that safetensors calls so, as far as :func:`demand_fit` looks."""
    known = {"I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool, "I16": torch.int16, "I32": torch.int32}
    return torch.float32 if "F" in name else known.get(name, torch.int64)


def unpickled(path: str, mapped: bool = False) -> Any:
    """What torch reads safely of a file, settings of training scripts included. Raises what torch raises,
    UnpicklingError for other Python objects."""
    with torch.serialization.safe_globals(settings_classes()):
        if mapped:
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except (RuntimeError, ValueError):  # a file of torch before 1.6, which cannot be mapped
                pass
        return torch.load(path, map_location="cpu", weights_only=True)


@functools.cache
def settings_classes() -> list[Any]:
    """What training scripts keep beside tensors and is only values: argparse's namespace, numbers and arrays
    of NumPy under the names of its versions 1 and 2."""
    multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
    made: list[Any] = [(multiarray.scalar, "numpy.core.multiarray.scalar"), multiarray.scalar]
    made += [
        (multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        multiarray._reconstruct,
    ]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdgSU"}
    return [
        argparse.Namespace,
        collections.defaultdict,
        collections.Counter,
        *made,
        np.ndarray,
        np.dtype,
        *kinds,
        _encode(),
    ]


def _encode() -> Any:
    import _codecs

    return _codecs.encode  # how NumPy writes the bytes of a number


def _classes(path: str) -> str:
    """', such as <class>' for a file that names classes of which nothing is read; empty where it cannot be
    told."""
    try:
        with torch.serialization.safe_globals(settings_classes()):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older torch, or a file that breaks off
        return ""
    return f" ({_few(sorted(found))})" if found else ""


def _few(names: Collection[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
