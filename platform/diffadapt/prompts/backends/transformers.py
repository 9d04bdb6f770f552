"""A language model in this process: any causal model that transformers loads, with one random stream for each
request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from diffadapt.core.errors import ResourceError, WeightsError
from diffadapt.models.pretrained import from_pretrained
from diffadapt.models.weights import is_hub_id, resolve, revision
from diffadapt.prompts.backends.base import Backend, Failed, Request
from diffadapt.prompts.config import LlmConfig

BATCH = 8
TOP_P = 0.95
SHORTEST = 16
"""Tokens that must be left for an answer."""


class TransformersBackend(Backend):
    """Generates on ``device``: bf16 or what the weights say on a GPU, float32 on a CPU. Raises
    WeightsError."""

    def __init__(self, config: LlmConfig, device: str):
        self.config, self.device = config, torch.device(device)
        self.identity = {"backend": "transformers", "model": revision(config.model)}
        path, _, commit = (
            resolve(config.model).partition("@")
            if is_hub_id(resolve(config.model))
            else (resolve(config.model), "", "")
        )
        try:
            self.tokenizer = from_pretrained(
                AutoTokenizer, path, revision=commit or "main", padding_side="left"
            )
            dtype = torch.float32 if self.device.type == "cpu" else "auto"
            self.model = (
                from_pretrained(AutoModelForCausalLM, path, revision=commit or "main", dtype=dtype)
                .to(self.device)
                .eval()
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise ResourceError(
                    f"The language model {config.model} does not fit into the device's memory: choose a"
                    " smaller one, or serve it elsewhere (prompts.llm.backend openai)."
                ) from error
            raise WeightsError(
                f"{config.model} is no causal language model that transformers can load"
                f" ({' '.join(str(error).split())[:200]}): give a folder with model and tokenizer, or a"
                " hub id."
            ) from error
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token or self.tokenizer.convert_ids_to_tokens(0)
        self.batch = BATCH

    def complete(self, requests: Sequence[Request]) -> list[str | Failed]:
        """Answers in order; a batch that does not fit into memory is halved. Raises ResourceError when one
        request does not fit."""
        answers: list[str | Failed] = []
        while len(answers) < len(requests):
            part = requests[len(answers) : len(answers) + self.batch]
            try:
                answers += self._batch(part)
            except torch.cuda.OutOfMemoryError as error:
                if len(part) == 1:
                    raise ResourceError(
                        f"The language model {self.config.model} runs out of device memory with a single"
                        " request: ask for fewer prompts at once (prompts.llm.ask) or choose a smaller"
                        " model."
                    ) from error
                self.batch = len(part) // 2
                torch.cuda.empty_cache()
        return answers

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request]) -> list[str | Failed]:
        chat = self.tokenizer.chat_template is not None
        encoded = self.tokenizer(
            [self._prompt(r.text) for r in requests],
            return_tensors="pt",
            padding=True,
            add_special_tokens=not chat,
        )
        ids, mask = (encoded[k].to(self.device) for k in ("input_ids", "attention_mask"))
        longest = max(r.max_tokens for r in requests)
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context:
            longest = min(longest, context - ids.shape[1])
        if longest < SHORTEST:
            return [Failed(f"its context of {context} tokens is too short for the request")] * len(requests)
        sampler = LogitsProcessorList(
            [_Sampler([r.seed for r in requests], self.config.temperature, self.device)]
        )
        made = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            logits_processor=sampler,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        texts = self.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True)
        return [text if chat else "[" + text for text in texts]

    def _prompt(self, text: str) -> str:
        """With the model's chat template, or, for a model without one, with the beginning of the answer."""
        if self.tokenizer.chat_template is None:
            return text + "\n["
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )


class _Sampler(LogitsProcessor):
    """Sampling by the largest of logits / temperature + Gumbel noise, cut to the nucleus of TOP_P: with
    greedy search this draws each row from its own generator, so that an answer does not depend on the
    requests beside it. Temperature 0 is greedy.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, device: torch.device):
        self.temperature = temperature
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.temperature == 0:
            return scores
        logits = torch.log_softmax(scores.float() / self.temperature, -1)
        ordered, index = logits.sort(-1, descending=True)
        beyond = ordered.exp().cumsum(-1) - ordered.exp() >= TOP_P
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(-1, index, beyond), -torch.inf)
        noise = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=g)
                for row, g in zip(logits, self.generators, strict=True)
            ]
        )
        return logits - noise.log()
