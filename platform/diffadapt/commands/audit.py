"""``diffadapt audit``: a few target images to label, and from these an accuracy with an interval for every
row of a run."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffadapt.commands.options import RootOption, parse

if TYPE_CHECKING:
    from diffadapt.audit.answers import Answers
    from diffadapt.core.runs import Run


@dataclass(frozen=True)
class AuditOptions(RootOption):
    run: str = "last"
    """The finished run: a name, a prefix, or 'last'."""
    out: str = ""
    """Folder to write for labelling: index.html (a page that needs no network), labels.csv (to fill in by
    hand) and images; must be new or empty."""
    n: int = 80
    """Images to label, 10 to 1000; 50 to 100 take minutes."""
    labels: str = ""
    """The filled labels.csv, also a half-filled one: says what is known of every row from it."""
    population: Literal["images", "domain"] = "images"
    """images: the accuracy on just the run's target images; domain: on further images of the same domain too,
    with the wider interval that this takes."""
    transfer: str = ""
    """Of a run with several transfers, the one to audit: all labels on its target."""
    seed: int = 0
    """Another one chooses other images."""
    rehearse: bool = False
    """Take the labels that the run's data have, instead of --labels: what an audit of --n images would
    say."""


def audit(argv: Sequence[str]) -> int:
    from diffadapt.audit.answers import read_answers
    from diffadapt.core.errors import DataError

    options = parse(AuditOptions, argv, "audit")
    given = [name for name in ("out", "labels", "rehearse") if getattr(options, name)]
    if len(given) != 1:
        raise DataError(
            "Give one of --out (a folder to write for labelling), --labels (the filled CSV) and --rehearse."
            if not given
            else f"--{' and --'.join(given)} do not go together: give one of them."
        )
    if options.labels and options.transfer:
        raise DataError("--transfer and --labels do not go together: the labels are of the audit's transfer.")
    run = options.open().run(options.run)
    if options.out:
        return _write(options, run, read_answers(run, options.transfer))
    return _evaluate(options, run)


def _write(options: AuditOptions, run: Run, answers: Answers) -> int:
    from diffadapt.audit.design import choose, file_of
    from diffadapt.audit.page import page, picture
    from diffadapt.audit.sheet import sheet
    from diffadapt.core.place import demand_empty, new_folder, write_file
    from diffadapt.run.audit_images import image_bytes

    demand_empty(options.out)
    design = choose(answers, run.name, options.n, options.seed, options.transfer)
    at = {key: i for i, key in enumerate(answers.keys)}
    data = image_bytes(run, {c.key: answers.nodes[at[c.key]] for c in design.chosen})
    pictures = {c.name: picture(data[c.key], c.key) for c in design.chosen}
    root = f" --root {shlex.quote(options.root)}" if options.root else ""
    command = f"diffadapt audit --run {shlex.quote(run.name)}{root} --labels labels.csv"
    run.write(file_of(design.id), design.to_json())  # labels of a folder without it would say nothing
    with new_folder(options.out) as out:
        write_file(
            posixpath.join(out, "index.html"), page(design, pictures, answers.class_names, command).encode()
        )
        write_file(posixpath.join(out, "labels.csv"), sheet(design))
        for name, (end, content) in pictures.items():
            write_file(posixpath.join(out, "images", name + end), content)
    print(
        f"{len(design.chosen)} of {len(answers.keys):,} images of {run.name} in {options.out}: open"
        f" {posixpath.join(options.out, 'index.html')} in a browser, or fill in labels.csv by hand ('?'"
        f" where a class"
        f" cannot be told); then\n  {command}"
    )
    return 0


def _evaluate(options: AuditOptions, run: Run) -> int:
    from diffadapt.audit.answers import read_answers
    from diffadapt.audit.design import choose, load, places
    from diffadapt.audit.label_free import label_free
    from diffadapt.audit.result import result
    from diffadapt.audit.sheet import labels_of, read_sheet
    from diffadapt.core.errors import DataError
    from diffadapt.report.audit_words import FILE, text
    from diffadapt.report.html import write_report

    given: dict[int, int | None]
    if options.rehearse:
        answers = read_answers(run, options.transfer)
        if (answers.truth < 0).all():
            raise DataError(
                f"The target of {run.name} has no labels to rehearse with: give --out and label images."
            )
        design = choose(answers, run.name, options.n, options.seed)
        stratum, where = places(design, answers)
        given = {i: int(answers.truth[p]) for i, p in enumerate(where) if answers.truth[p] >= 0}
    else:
        audit, found = read_sheet(options.labels)
        design = load(run, audit)
        answers = read_answers(run, design.group)
        stratum, where = places(design, answers)
        given = labels_of(found, design, answers.class_names, options.labels)
    said: dict[str, Any] = result(
        answers, given, where, stratum, label_free(run, answers), options.population == "images"
    )
    said = {"id": design.id, "run": run.name, "rehearsed": options.rehearse, **said}
    print(text(said))
    _guess(run)
    if not options.rehearse:
        run.write(FILE, json.dumps(said, indent=1).encode())
        print(f"report      {write_report(run)}")
    return 0


def _guess(run: Run) -> None:
    """What can be guessed without labels, beside what the audit measured; for runs of earlier versions
    too."""
    from diffadapt.report.own.without_labels import FILE, as_text
    from diffadapt.run.held_out import stored
    from diffadapt.run.without_labels import without_labels

    if (found := without_labels(run.manifest(), stored(run))) is not None:
        run.write(FILE, json.dumps(found, indent=1).encode())
        print(as_text(found))
