"""A fitted model as a folder: a marker (JSON that says what it is), model.safetensors and a card. Torch is
imported when weights are written or read."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from diffadapt.core.config import from_dict
from diffadapt.data.scenes.table import ClassTable

if TYPE_CHECKING:
    from torch import Tensor, nn

C = TypeVar("C")
N = TypeVar("N", bound="nn.Module")
STATE, CARD = "model.safetensors", "README.md"


@dataclass(frozen=True)
class ModelFolder(Generic[C, N]):
    """One kind of folder: the name of its ``marker``, the class of its settings, and what ``build`` makes of
    (settings, number of classes, the network's facts): the network, its parameters random."""

    marker: str
    config: type[C]
    build: Callable[[C, int, Mapping[str, Any]], N]

    def write(
        self,
        folder: str | Path,
        weights: nn.Module | Mapping[str, Tensor],
        values: Mapping[str, Any],
        card: str,
        **style: Any,
    ) -> Path:
        """Write the folder and return it. ``weights``: a state dict, or a network some of whose tensors have
        two names; ``values`` (JSON, formatted in ``style``) become the marker."""
        from safetensors.torch import save_file, save_model

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / STATE
        if isinstance(weights, Mapping):
            state = {k: v.detach().cpu().contiguous().clone() for k, v in weights.items()}
            save_file(state, file, metadata={"format": "pt"})
        else:
            save_model(weights, str(file), metadata={"format": "pt"})
        file.chmod(0o644)  # safetensors writes for the owner alone
        text = json.dumps(values, ensure_ascii=False, **{"indent": 2, **style})
        (folder / self.marker).write_text(text + "\n", encoding="utf-8")
        (folder / CARD).write_text(card, encoding="utf-8")
        return folder

    def settings(self, values: Mapping[str, Any]) -> tuple[C, ClassTable]:
        """What the marker's ``config`` and ``classes`` stand for. Raises KeyError, TypeError or RecipeError
        for a damaged one."""
        return from_dict(self.config, values["config"]), from_dict(ClassTable, values["classes"])

    def fill(
        self, net: N, folder: str | Path, fit: Callable[[N, dict[str, Tensor]], Mapping[str, Tensor]]
    ) -> N:
        """``net`` in evaluation mode with the folder's weights, which ``fit`` gives the network's names.

        Raises WeightsError for weights that are missing, damaged or of another network.
        """
        from diffadapt.models.state_dict import load_into, read_state_dict

        load_into(net, fit(net, read_state_dict(str(Path(folder) / STATE))), str(folder))
        return net.eval()
