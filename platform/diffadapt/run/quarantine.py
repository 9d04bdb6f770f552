"""The failure rule: items that cannot be made are set apart and listed; a stage with too many of them
fails."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Set

from diffadapt.core.allowance import demand_few, too_many
from diffadapt.core.artifact import Failure, Receipt
from diffadapt.core.ledger import by_digest
from diffadapt.core.stage import NodePlan
from diffadapt.core.store import Store
from diffadapt.run.fit import recorded_failures

MANY = 2000
"""Finished shards from which on a look into the ledger takes less time than reading their footers."""


class Quarantine:
    """Failures of a run by node and item.

    ``max_failed`` is the fraction of a node's items that may fail. What was made from incomplete inputs is
    dropped when a stage fails, the node's own shards and all that descends from them, so that mended inputs
    are tried again. A finished training is kept though it used fewer items than are allowed now (it counted
    them before it trained): to allow more, or to mend the inputs, costs no second training that nobody
    asked for.
    """

    def __init__(
        self, plans: Mapping[str, NodePlan], store: Store, max_failed: float, ledger: Store | None = None
    ):
        self.plans, self.store, self.max_failed, self.ledger = plans, store, max_failed, ledger
        self.failures: dict[str, dict[str, Failure]] = defaultdict(dict)

    def recall(self, done: Set[str]) -> bool:
        """Read the failures that finished work recorded. True when a node had too many and was dropped: it is
        retried. Raises TrainingError for a training that used too few items."""
        whole = self._whole(done)
        for name, plan in self.plans.items():
            paths = [p.path for p in plan.shards if p.path and p.digest in done and p.digest not in whole]
            recorded = (
                map(lambda path: recorded_failures(self.store, path), paths)
                if plan.stage.fit_stage
                else (header.failures for header in self.store.headers(paths))
            )
            for failures in recorded:
                self.failures[name].update((f.key, f) for f in failures)
        over = [name for name in self.plans if self._too_many(name)]
        if over and all(map(self._keeps, over)):
            self._demand_few(over[0])
        for name in over:
            self._drop(name)
        if over:
            self.failures.clear()
        return bool(over)

    def _whole(self, done: Set[str]) -> set[str]:
        """Finished shards of which the ledger says that nothing was set apart: their footers need not be
        read, each with a request of its own on an object store. Looked up only where they are very many."""
        shards = {
            p.digest
            for plan in self.plans.values()
            if plan.stage.stored and not plan.stage.fit_stage
            for p in plan.shards
            if p.digest in done
        }
        if self.ledger is None or len(shards) < MANY:
            return set()
        return {
            digest for digest, m in by_digest(self.ledger).items() if m.failures == 0 and digest in shards
        }

    def add(self, receipt: Receipt) -> None:
        """Note the failures of one receipt. Raises TrainingError when its node has too many now."""
        self.failures[receipt.node].update((f.key, f) for f in receipt.failures)
        if not receipt.failures or not self._too_many(receipt.node):
            return
        if not self._keeps(receipt.node):
            self._drop(receipt.node)
        self._demand_few(receipt.node)

    def by_node(self) -> dict[str, list[Failure]]:
        return {node: list(failures.values()) for node, failures in self.failures.items() if failures}

    def jsonl(self) -> bytes:
        """One JSON line an item: node, key, reason; empty when nothing failed."""
        rows = [
            {"node": n, "key": f.key, "reason": f.reason}
            for n, fs in sorted(self.failures.items())
            for _, f in sorted(fs.items())
        ]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    def _too_many(self, node: str) -> bool:
        return too_many(len(self.failures.get(node, ())), self.plans[node].items, self.max_failed)

    def _keeps(self, node: str) -> bool:
        stage = self.plans[node].stage
        return stage.fit_stage and stage.trains

    def _demand_few(self, node: str) -> None:
        failures = self.failures[node].values()
        demand_few(node, list(failures), self.plans[node].items, self.max_failed)

    def _drop(self, node: str) -> None:
        below = {node}
        for name, plan in self.plans.items():  # in dependency order
            if name != node and not below & set(plan.inputs):
                continue
            below.add(name)
            for p in plan.shards:
                if plan.stage.fit_stage:
                    self.store.remove(p.path or "")
                elif p.path and self.store.exists(p.path) and self.store.header(p.path).failures:
                    self.store.remove(p.path)
