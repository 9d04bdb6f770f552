"""MEMO (Zhang et al. 2022): one step on the entropy of the mean prediction over augmented views, afresh for
each image."""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from diffadapt.core.errors import TrainingError
from diffadapt.data.image import to_pil
from diffadapt.methods.config import MemoConfig
from diffadapt.methods.tta.augmix import View, draw_views, mixed, view_parts
from diffadapt.models.config import ClassifierConfig
from diffadapt.models.inputs import with_inputs
from diffadapt.models.preprocess import match_channels, normalise, to_input

Begun = tuple[list[View], "list[np.ndarray | Future[np.ndarray]]"]


class Memo:
    """Works on a copy of the classifier, whose weights go back to the source's for every image.

    Batch norm normalises with bn_prior / (bn_prior + 1) of its running statistics and 1 / (bn_prior + 1) of
    the batch's, through which no gradient flows. Dropout and stochastic depth stay off. All parameters learn.
    Views are made by ``readers`` threads, and mixed on the model's device.
    """

    def __init__(self, model: nn.Module, config: MemoConfig, preprocess: ClassifierConfig, readers: int = 0):
        self._pool = ThreadPoolExecutor(readers, thread_name_prefix="views") if readers else None
        self.config, self.preprocess = config, with_inputs(preprocess)
        self.model = copy.deepcopy(model).eval().requires_grad_(True)
        self._start = [p.detach().clone() for p in self.model.parameters()]
        norms = [
            m
            for m in self.model.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None
        ]
        for norm in norms:
            _mix_statistics(norm, config.bn_prior)
        # A part of the views has other batch statistics than all of them, so networks with batch norm see
        # them at once.
        self._chunk = config.views if norms else max(1, min(config.chunk, config.views))

    def predict(self, image: np.ndarray, seed: int, begun: Begun | None = None) -> np.ndarray:
        """uint8 (H, W, C) -> float32 logits (K,) of the adapted model on the image without augmentation.

        Depends on the image and the seed alone; ``begun`` is what :meth:`begin` said of the same. Raises
        TrainingError on NaN or infinity.
        """
        drawn, parts = begun or self.begin(image, seed)
        return self.adapted(
            image, drawn, np.stack([p.result() if isinstance(p, Future) else p for p in parts])
        )

    def begin(self, image: np.ndarray, seed: int) -> Begun:
        """The views of an image, which the readers make meanwhile."""
        matched, config = match_channels(image, self.preprocess.in_channels), self.config
        size, whole = self.preprocess.crop, to_pil(matched)
        drawn = draw_views(matched.shape[:2], config.views, size, seed, config.flip)
        if self._pool is None:
            return drawn, [view_parts(whole, view, size) for view in drawn]
        return drawn, [self._pool.submit(view_parts, whole, view, size) for view in drawn]

    def adapted(self, image: np.ndarray, drawn: list[View], parts: np.ndarray) -> np.ndarray:
        """The logits, from the views' crops and chains, uint8 (views, 1 + chains, crop, crop, C)."""
        device = self._start[0].device
        self._reset()
        views = self.views(drawn, parts)
        for _ in range(self.config.steps):
            self._adapt(views)
        with torch.no_grad():
            logits = self.model(to_input([image], self.preprocess, device))[0].float()
        if not torch.isfinite(logits).all():
            raise TrainingError("MEMO's logits became NaN or infinite; lower its learning rate.")
        return logits.cpu().numpy()

    def views(self, drawn: list[View], parts: np.ndarray) -> torch.Tensor:
        """The views (V, C, crop, crop), mixed and normalised on the model's device."""
        there = torch.from_numpy(parts).to(self._start[0].device)
        return normalise(mixed(there, drawn).permute(0, 3, 1, 2), self.preprocess)

    def _reset(self) -> None:
        with torch.no_grad():
            for parameter, start in zip(self.model.parameters(), self._start, strict=True):
                parameter.copy_(start)
        choices = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
        self._optimizer = choices[self.config.optimizer](
            self.model.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay
        )

    def _adapt(self, views: torch.Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        parts = views.split(self._chunk)
        with torch.enable_grad():
            if len(parts) == 1:
                marginal_entropy(self.model(views)).backward()
            else:
                self._backward_in_parts(parts, len(views))
        self._optimizer.step()

    def _backward_in_parts(self, parts: tuple[torch.Tensor, ...], count: int) -> None:
        """The gradient of the entropy H of the mean p: dH = -sum_k (log p_k + 1) dp_k, and p is a sum over
        the parts."""
        with torch.no_grad():
            mean = torch.cat([self.model(part).float().softmax(1) for part in parts]).mean(0)
        slope = -(mean.clamp_min(torch.finfo(torch.float32).tiny).log() + 1)
        for part in parts:
            (self.model(part).float().softmax(1) @ slope).sum().div(count).backward()


def marginal_entropy(logits: torch.Tensor) -> torch.Tensor:
    """(V, K) logits of V views -> the entropy in nats of their mean softmax."""
    log_p = logits.float().log_softmax(1)
    log_mean = log_p.logsumexp(0) - float(np.log(len(logits)))
    return -(log_mean.exp() * log_mean).sum()


def _mix_statistics(norm: nn.Module, prior: float) -> None:
    mean, var = norm.get_buffer("running_mean").clone(), norm.get_buffer("running_var").clone()

    @torch.no_grad()
    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].float()
        axes = [d for d in range(x.ndim) if d != 1]
        batch_var, batch_mean = torch.var_mean(x, axes, correction=int(x.numel() > x.shape[1]))
        module.running_mean = (prior * mean.to(x.device) + batch_mean) / (prior + 1)
        module.running_var = (prior * var.to(x.device) + batch_var) / (prior + 1)

    norm.register_forward_pre_hook(before)
