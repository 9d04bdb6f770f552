"""``python -m tests.bench.without_labels <root> ...``: how far accuracies that are guessed without labels are
off, over the rows of finished runs whose labels are known; the lines of
``metrics/unlabelled_accuracy.KNOWN``."""

from __future__ import annotations

import sys
from functools import lru_cache

import numpy as np

from diffadapt.core.record import predictions_by_key
from diffadapt.core.runs import Root
from diffadapt.metrics.unlabelled_accuracy import AGREEMENT, ATC
from diffadapt.run.without_labels import without_labels


def main() -> None:
    for place in sys.argv[1:]:
        root = Root(place)
        for name in root.names():
            run = root.run(name)
            manifest = run.manifest()

            @lru_cache(maxsize=8)
            def load(node: str, root=root, nodes=manifest["nodes"]):
                return predictions_by_key([root.store.load(p) for _, _, _, p in nodes[node]["shards"]])

            found = without_labels(manifest, load) or {"rows": []}
            for guess in (ATC, AGREEMENT):
                pairs = [(r[guess], r["true"], r) for r in found["rows"] if None not in (r[guess], r["true"])]
                for value, true, row in pairs:
                    print(f"  {guess}: {row['row']} {row['group']}: {value:.1f}, true {true:.1f}")
                if pairs:
                    off = np.array([value - true for value, true, _ in pairs])
                    numbers = ", ".join(f"{v:.1f}" for v in (abs(off).mean(), abs(off).max(), off.mean()))
                    print(f"Known({guess!r}, {manifest['recipe']!r}, {len(off)}, {numbers}),")


if __name__ == "__main__":
    main()
