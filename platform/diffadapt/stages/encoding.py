"""Image encoding beside the device: while the next batch is computed, a thread compresses the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np


class Encoder:
    """Compresses images in one thread; zlib and libjpeg let go of the interpreter, so the model's thread is
    not held up."""

    def __init__(self, encode: Callable[[np.ndarray], bytes]):
        self.encode = encode
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="encode")

    def submit(self, images: Iterable[np.ndarray]) -> list[Future[bytes]]:
        """A promise of bytes for each uint8 (H, W, C) image."""
        return [self.pool.submit(self.encode, image) for image in images]
