"""Items through a model in batches: out of memory halves the batch, a poisonous item is isolated and
quarantined."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TypeVar

from diffadapt.core.artifact import Failure
from diffadapt.core.errors import ItemError, ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher:
    """Runs ``process(items) -> results`` over batches; keeps the batch size that fitted for later shards.

    A batch that raises ItemError is retried one item at a time; the items that raise again are quarantined.
    An out-of-memory error halves the batch size, down to one (then ResourceError).
    """

    def __init__(self, batch_size: int):
        self.batch_size = max(1, batch_size)

    def run(
        self,
        items: Sequence[Item],
        keys: Sequence[str],
        process: Callable[[Sequence[Item]], Sequence[Result]],
    ) -> tuple[list[tuple[int, Result]], list[Failure]]:
        """Results as (index, result) in item order, and the failures."""
        done: list[tuple[int, Result]] = []
        failures: list[Failure] = []
        start, alone = 0, 0  # items before ``alone`` go one by one
        while start < len(items):
            stop = min(start + (1 if start < alone else self.batch_size), len(items))
            try:
                done.extend(zip(range(start, stop), process(items[start:stop]), strict=True))
            except ItemError as error:
                if stop - start > 1:
                    alone = stop
                    continue
                failures.append(Failure(keys[start], str(error)))
            except Exception as error:
                if not is_out_of_memory(error) and not is_out_of_memory(error.__cause__):
                    raise
                if stop - start == 1:
                    raise ResourceError(
                        "Even one image does not fit into the device's memory: use a device with more memory,"
                        " fp16/bf16 precision or a smaller model."
                    ) from error
                self.batch_size = (stop - start) // 2
                release_memory()
                continue
            start = stop
        return done, failures


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception says that device or host memory ran out."""
    import torch

    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
    )


def release_memory() -> None:
    """Give freed blocks back before a smaller batch is tried."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
