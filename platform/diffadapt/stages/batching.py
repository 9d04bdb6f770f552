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

    ``coupled``: the items of a batch act on each other, so that its size is part of what is made. Then
    memory that does not suffice is a ResourceError at once, and what is left of a batch without its poisonous
    items is run again together.
    """

    def __init__(self, batch_size: int, coupled: bool = False):
        self.batch_size = max(1, batch_size)
        self.coupled = coupled

    def run(
        self,
        items: Sequence[Item],
        keys: Sequence[str],
        process: Callable[[Sequence[Item]], Sequence[Result]],
        reach: Callable[[int, int], int] | None = None,
    ) -> tuple[list[tuple[int, Result]], list[Failure]]:
        """Results as (index, result) in item order, and the failures. ``reach`` is asked for the items up to
        a place while they still come (stages/decoding.py); by default all are there."""
        done: list[tuple[int, Result]] = []
        failures: list[Failure] = []
        start, alone = 0, 0  # items before ``alone`` go one by one
        there = reach or (lambda start, stop: min(stop, len(items)))
        while (stop := there(start, start + (1 if start < alone else self.batch_size))) > start:
            try:
                done.extend(zip(range(start, stop), process(items[start:stop]), strict=True))
            except ItemError as error:
                if stop - start > 1 and self.coupled:
                    good, bad = _apart(range(start, stop), items, keys, process)
                    done.extend(good)
                    failures.extend(bad)
                elif stop - start > 1:
                    alone = stop
                    continue
                else:
                    failures.append(Failure(keys[start], str(error)))
            except Exception as error:
                if not is_out_of_memory(error) and not is_out_of_memory(error.__cause__):
                    raise
                if stop - start > 1 and self.coupled:
                    raise ResourceError(
                        f"{stop - start} images at a time do not fit into the device's memory, and they are"
                        " guided together (align.coupled_batch), so that fewer would give other images: use a"
                        " device with more memory, or fp16/bf16 precision."
                    ) from error
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


def _apart(
    batch: Sequence[int],
    items: Sequence[Item],
    keys: Sequence[str],
    process: Callable[[Sequence[Item]], Sequence[Result]],
) -> tuple[list[tuple[int, Result]], list[Failure]]:
    """A coupled batch without the items that raise ItemError by themselves; all of it where none does."""
    failures: dict[int, Failure] = {}
    for i in batch:
        try:
            process([items[i]])
        except ItemError as error:
            failures[i] = Failure(keys[i], str(error))
    good = [i for i in batch if i not in failures]
    try:
        made = process([items[i] for i in good]) if good else []
    except ItemError as error:
        return [], [failures.get(i) or Failure(keys[i], str(error)) for i in batch]
    return list(zip(good, made, strict=True)), list(failures.values())


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
