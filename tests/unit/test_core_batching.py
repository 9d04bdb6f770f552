"""Batches through a model: out of memory halves them, poison is isolated."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from diffadapt.core.artifact import Failure
from diffadapt.core.errors import ItemError, ResourceError
from diffadapt.stages.batching import Batcher, is_out_of_memory

KEYS = [f"k{i}" for i in range(10)]


class Model:
    """Squares numbers; runs out of memory above ``room``, refuses the ``poison``."""

    def __init__(self, room: int = 100, poison: Sequence[int] = (), error: Exception | None = None):
        self.room, self.poison, self.sizes = room, set(poison), []
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory")

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        if self.poison & set(batch):
            raise ItemError(f"poison in {list(batch)}")
        return [i * i for i in batch]


SQUARES = [(i, i * i) for i in range(10)]


def test_batches_in_order():
    model = Model()
    assert Batcher(4).run(range(10), KEYS, model) == (SQUARES, []) and model.sizes == [4, 4, 2]
    assert Batcher(4).run(range(0), [], model) == ([], [])


def test_out_of_memory_halves_and_the_smaller_size_stays():
    model, batcher = Model(room=3), Batcher(8)
    assert batcher.run(range(10), KEYS, model) == (SQUARES, [])
    assert model.sizes == [8, 4, 2, 2, 2, 2, 2] and batcher.batch_size == 2
    assert batcher.run(range(10), KEYS, model) == (SQUARES, []) and model.sizes[7:] == [2] * 5


def test_poison_is_isolated():
    model = Model(poison=[5, 6])
    done, failures = Batcher(4).run(range(10), KEYS, model)
    assert done == [s for s in SQUARES if s[0] not in (5, 6)]
    assert failures == [Failure("k5", "poison in [5]"), Failure("k6", "poison in [6]")] and model.sizes == [
        4,
        4,
        1,
        1,
        1,
        1,
        2,
    ]


def test_one_image_that_does_not_fit_is_a_resource_error():
    model = Model(room=0)
    with pytest.raises(ResourceError, match="one image does not fit"):
        Batcher(4).run(range(3), KEYS, model)
    assert model.sizes == [3, 1]


def test_out_of_memory_behind_another_error_counts():
    error = ResourceError("The device has not enough memory")
    error.__cause__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    assert Batcher(8).run(range(10), KEYS, Model(room=4, error=error))[0] == SQUARES


def test_out_of_memory_while_items_go_one_by_one():
    """A poisoned batch whose single items do not fit is a lack of memory, not ten poisoned items."""

    def process(batch):
        raise ItemError("poison") if len(batch) > 1 else torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match="one image does not fit"):
        Batcher(4).run(range(3), KEYS, process)


def test_other_errors_pass_through():
    with pytest.raises(ZeroDivisionError):
        Batcher(4).run(range(3), KEYS, lambda batch: 1 // 0)
    with pytest.raises(ValueError):  # too few results
        Batcher(4).run(range(3), KEYS, lambda batch: [1])


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shape mismatch"), False),
        (ValueError("out of memory"), False),
        (None, False),
    ],
)
def test_what_counts_as_out_of_memory(error, wanted):
    assert is_out_of_memory(error) is wanted


def test_a_coupled_batch_keeps_its_size():
    def sizes(batch):
        return [(i, len(batch)) for i in model(batch)]

    model = Model(room=3)
    with pytest.raises(ResourceError, match="4 images at a time .*coupled_batch"):
        Batcher(4, coupled=True).run(range(8), KEYS, sizes)
    model = Model(poison=[1])
    done, failures = Batcher(4, coupled=True).run(range(8), KEYS, sizes)
    assert [(i, size) for i, (_, size) in done] == [(0, 3), (2, 3), (3, 3), *((i, 4) for i in range(4, 8))]
    assert failures == [Failure("k1", "poison in [1]")] and model.sizes == [4, 1, 1, 1, 1, 3, 4]
