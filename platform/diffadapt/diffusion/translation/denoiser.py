"""The network of a transfer: a U-Net with its ControlNet under a prompt, both branches of guidance in one
call."""

from __future__ import annotations

import math
from typing import Any

import torch

from diffadapt.diffusion.schedule import Schedule
from diffadapt.diffusion.translation.inversion import guided


class Denoiser:
    """Noise predictions for one batch; :meth:`on` binds the layouts.

    ``pipe``: a diffusers Stable Diffusion pipeline, ``controlnet`` or None, ``schedule``: its training
    process. Prompts are embedded once. The networks compute in their own type; latents come and go in
    float32.
    """

    def __init__(
        self,
        pipe: Any,
        controlnet: Any | None,
        schedule: Schedule,
        guidance: float,
        control_scale: float,
        negative_prompt: str,
    ):
        self.pipe, self.controlnet, self.schedule = pipe, controlnet, schedule
        self.guidance, self.control_scale, self.negative_prompt = (
            float(guidance),
            float(control_scale),
            negative_prompt,
        )
        self.embedded_guidance = getattr(pipe.unet.config, "time_cond_proj_dim", None) is not None
        """Whether the network was distilled with guidance as an input (latent consistency models): then there
        is one branch."""
        self._embeddings: dict[str, torch.Tensor] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.pipe.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.pipe.unet.device

    def on(self, control: torch.Tensor | None) -> BoundDenoiser:
        """Predictions for layouts ``control`` float (B, 3, H, W) in [0, 1]; None without a ControlNet."""
        return BoundDenoiser(self, None if control is None else control.to(self.device, self.dtype))

    def embedding(self, prompt: str) -> torch.Tensor:
        """(1, tokens, width) in the networks' type, computed once a prompt."""
        if prompt not in self._embeddings:
            self.remember(prompt, self.pipe.encode_prompt(prompt, self.device, 1, False)[0])
        return self._embeddings[prompt]

    def remember(self, prompt: str, embedding: torch.Tensor) -> None:
        """Use ``embedding`` (1, tokens, width) for ``prompt`` from now on."""
        self._embeddings[prompt] = embedding.to(self.device, self.dtype)

    def __call__(
        self, x: torch.Tensor, t: int, text: torch.Tensor, control: torch.Tensor | None, guidance: float
    ) -> torch.Tensor:
        """The networks' noise prediction, float32, for every row of ``x`` (N, C, h, w) under ``text`` (N,
        tokens, width)."""
        time = torch.tensor(t, device=x.device)
        given: dict[str, Any] = (
            {"timestep_cond": self._guidance_embedding(len(x), guidance)} if self.embedded_guidance else {}
        )
        noisy = x.to(self.dtype)
        residuals: dict[str, Any] = {}
        if control is not None and self.control_scale:
            assert self.controlnet is not None
            down, middle = self.controlnet(
                noisy,
                time,
                encoder_hidden_states=text,
                controlnet_cond=control,
                conditioning_scale=self.control_scale,
                return_dict=False,
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        out = self.pipe.unet(
            noisy, time, encoder_hidden_states=text, return_dict=False, **residuals, **given
        )[0].float()
        return self._noise(x, out, t)

    def _noise(self, x: torch.Tensor, out: torch.Tensor, t: int) -> torch.Tensor:
        kind, abar = self.schedule.prediction_type, float(self.schedule.alphas_cumprod[t])
        if kind == "v_prediction":
            return math.sqrt(abar) * out + math.sqrt(1.0 - abar) * x
        return out if kind == "epsilon" else (x - math.sqrt(abar) * out) / math.sqrt(1.0 - abar)

    def _guidance_embedding(self, count: int, guidance: float) -> torch.Tensor:
        scale = torch.tensor([guidance - 1.0]).repeat(count)
        return self.pipe.get_guidance_scale_embedding(
            scale, embedding_dim=self.pipe.unet.config.time_cond_proj_dim
        ).to(self.device, self.dtype)


class BoundDenoiser:
    """Predictors, as :mod:`diffadapt.diffusion.translation.inversion` takes them, for one batch of
    layouts."""

    def __init__(self, denoiser: Denoiser, control: torch.Tensor | None):
        self.denoiser, self.control = denoiser, control

    def plain(self, prompt: str):
        """x, t -> noise under ``prompt`` without guidance."""
        net = self.denoiser

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            return net(x, t, net.embedding(prompt).expand(len(x), -1, -1), self.control, 1.0)

        return predict

    def guided(self, prompt: str):
        """x, t -> noise under ``prompt`` away from the negative prompt; control in both branches. Guidance of
        at most 1 is off."""
        net = self.denoiser
        if net.embedded_guidance:
            return lambda x, t: net(
                x, t, net.embedding(prompt).expand(len(x), -1, -1), self.control, net.guidance
            )
        if net.guidance <= 1:
            return self.plain(prompt)

        def predict(x: torch.Tensor, t: int) -> torch.Tensor:
            texts = [net.embedding(p).expand(len(x), -1, -1) for p in (net.negative_prompt, prompt)]
            control = None if self.control is None else torch.cat([self.control, self.control])
            negative, positive = net(torch.cat([x, x]), t, torch.cat(texts), control, 1.0).chunk(2)
            return guided(negative, positive, net.guidance)

        return predict
