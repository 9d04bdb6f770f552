"""``python -m tests.bench.audit <root> [run] [--transfer A-B] [--n 50 80 100] [--draws 1000]``: how often
the intervals of an audit hold, and how wide they are, when audits of a finished run with known labels are
drawn again and again.

A line a row: the true accuracy, the share of draws whose interval holds it and the mean width (points), with
the labels alone from the same sample, and from a uniform sample of as many labels (classical interval of the
mean).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np

from diffadapt.audit.answers import Answer, Answers, read_answers
from diffadapt.audit.design import strata_of
from diffadapt.audit.verdict import Labels, accuracy, truth_of
from diffadapt.core.runs import Root
from diffadapt.metrics.audit_sample import draw
from diffadapt.metrics.prediction_powered import LEVEL, interval


def simulate(answers: Answers, n: int, draws: int) -> Iterator[tuple[str, float, list[tuple[float, float]]]]:
    """(row, accuracy, (held, width) of PPI++, of the labels alone, of the classical interval), in shares."""
    from scipy import stats

    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    stratum = strata_of(answers)
    known = [(a, truth_of(a, answers)) for a in answers.answers]
    found: dict[str, list[tuple[float, ...]]] = {a.title: [] for a, _ in known}
    for seed in range(draws):
        sample = draw(stratum, answers.doubt, n, seed)
        labels = Labels.of(sample.chosen, answers.truth[sample.chosen], stratum)
        uniform = np.random.default_rng((seed, 1)).choice(len(answers.keys), n, replace=False)
        for answer, true in known:
            powered = accuracy(answer, labels)
            if true is None or powered is None:
                continue
            values = []
            for kind in (powered, accuracy(answer, labels, lam=0.0)):
                low, high = interval(kind)
                values += [float(low <= true <= high), float(high - low)]
            y = _right(answer, answers, uniform)
            half = z * np.sqrt(y.mean() * (1 - y.mean()) / len(y)) if len(y) else 0.0
            values += [float(abs(y.mean() - true) <= half) if len(y) else 0.0, 2 * half]
            found[answer.title].append(tuple(values))
    for answer, true in known:
        if true is not None and len(found[answer.title]) == draws:
            m = np.mean(found[answer.title], axis=0)
            yield answer.title, true, [(m[0], m[1]), (m[2], m[3]), (m[4], m[5])]


def _right(answer: Answer, answers: Answers, places: np.ndarray) -> np.ndarray:
    at = np.full(len(answers.keys), -1)
    at[answer.places] = np.arange(len(answer.places))
    mine = places[at[places] >= 0]
    return answer.predicted[at[mine]] == answers.truth[mine]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root")
    parser.add_argument("run", nargs="?", default="last")
    parser.add_argument("--transfer", default="")
    parser.add_argument("--n", type=int, nargs="+", default=[50, 80, 100])
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    answers = read_answers(Root(options.root).run(options.run), options.transfer)
    print(f"{options.run}: {len(answers.keys)} images, {options.draws} draws; held % (width in points)")
    for n in options.n:
        print(f"{f'{n} labels':<44} {'true':>6} {'PPI++':>14} {'labels alone':>14} {'uniform':>14}")
        rows = list(simulate(answers, n, options.draws))
        for row, true, parts in rows:
            cells = " ".join(f"{f'{100 * held:.1f} ({100 * width:.1f})':>14}" for held, width in parts)
            print(f"  {row[:42]:<42} {100 * true:>6.1f} {cells}")
        mean = np.mean([parts for _, _, parts in rows], axis=0)
        least = min(parts[0][0] for _, _, parts in rows)
        widths = ", ".join(f"{100 * w:.1f}" for w in mean[:, 1])
        print(f"  least held {100 * least:.1f} %, mean {100 * mean[0, 0]:.1f} %; mean widths {widths}")


if __name__ == "__main__":
    main()
