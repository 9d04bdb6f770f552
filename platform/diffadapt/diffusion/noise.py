"""Noise that belongs to an image: seeded singly, so it depends neither on batch mates, order nor device."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch


class ItemNoise:
    """A stream of standard normal draws for a batch of images, each from its own generator on the CPU.

    The first draw is the start noise, the following ones are the step noises. On a CUDA device the next draw
    is made in a thread into pinned memory while the device works on the present one.

    Args:
        seeds: one integer in [0, 2^63) for each image.
        shape: an image's shape, e.g. (C, H, W).
        device: where the draws are wanted.
        dtype: of the returned draws; they are always drawn in float32 and then converted.
        draws: how many draws will be asked for, if known: none is then made in vain.
        prefetch: make the next draw in a thread; default on CUDA only.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        draws: int | None = None,
        prefetch: bool | None = None,
    ) -> None:
        self.shape = (len(seeds), *shape)
        self.device = torch.device(device)
        self.dtype = dtype
        self._generators = [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds]
        self._left = draws
        self._ahead: Future | None = None
        self._thread: ThreadPoolExecutor | None = None
        on_cuda = self.device.type == "cuda"
        if on_cuda if prefetch is None else prefetch:
            self._buffers = [torch.empty(self.shape, pin_memory=on_cuda) for _ in range(2)]
            self._copied: list[torch.cuda.Event | None] = [None, None]
            self._turn = 0
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="noise")
            self._prefetch()

    def draw(self) -> torch.Tensor:
        """The next draw, (B, *shape). Raises ValueError after the announced number of draws."""
        if self._left is not None:
            if self._left <= 0:
                raise ValueError("more draws were asked for than were announced")
            self._left -= 1
        if self._thread is None:
            return self._fill(torch.empty(self.shape)).to(self.device, self.dtype)
        assert self._ahead is not None
        slot = self._ahead.result()
        on_device = self._buffers[slot].to(self.device, non_blocking=True, copy=True).to(self.dtype)
        if self.device.type == "cuda":
            event = self._copied[slot] = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.device))
        if self._left is None or self._left > 0:
            self._prefetch()
        else:
            self._thread.shutdown(wait=False)
        return on_device

    def close(self) -> None:
        """Let the prefetching thread go; safe to call twice."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _prefetch(self) -> None:
        slot, self._turn = self._turn, 1 - self._turn
        pending = self._copied[slot]

        def work() -> int:
            if pending is not None:
                pending.synchronize()
            self._fill(self._buffers[slot])
            return slot

        self._ahead = self._thread.submit(work)  # type: ignore[union-attr]

    def _fill(self, out: torch.Tensor) -> torch.Tensor:
        for row, generator in zip(out, self._generators, strict=True):
            torch.randn(row.shape, generator=generator, out=row)
        return out
