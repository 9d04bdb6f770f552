"""A run as a value: what it scored, made, trained and wrote."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

from diffadapt.api import runners
from diffadapt.api.apart import Tell, Told, call_apart
from diffadapt.api.calls import called
from diffadapt.api.places import Place, open_root
from diffadapt.api.plan import Plan, prepare, with_runner
from diffadapt.api.progress import progress_of
from diffadapt.api.recipe import Recipe, as_recipe
from diffadapt.core.errors import RecipeError, StoreError
from diffadapt.core.runs import Root
from diffadapt.core.runs import Run as Folder
from diffadapt.run.choice import choose
from diffadapt.run.drive import drive
from diffadapt.run.progress import Progress
from diffadapt.run.state import done_of, state_of

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from diffadapt.api.images import Images
    from diffadapt.models.classifier import Classifier


class Run:
    """A run under a root, finished or not. ``folder``: its files."""

    def __init__(self, folder: Folder, recipe: Recipe | None = None):
        self.folder, self._recipe = folder, recipe

    @property
    def name(self) -> str:
        """As `diffadapt status` has it, such as quickstart-1a2b3c4d."""
        return self.folder.name

    @property
    def url(self) -> str:
        """Where its folder lies."""
        return self.folder.url

    @property
    def root(self) -> str:
        """The root that it lies under."""
        return self.folder.root.location

    @property
    def state(self) -> str:
        """finished, running, interrupted or failed."""
        return state_of(self.folder.status()).partition(" ")[0]

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that it was made of. RecipeError where that is no longer found by its name."""
        from diffadapt.api.recipe import recipe

        try:
            return self._recipe or recipe(f"{self.url}/recipe.json")
        except RecipeError as error:
            raise RecipeError(
                f"The recipe of {self.name} cannot be made again ({error}) Of a value of your own, keep the"
                " value: da.run(value, root=...) finds the run."
            ) from None

    @property
    def manifest(self) -> dict[str, Any]:
        """Stages, shards, revisions of weights, rows and settings. StoreError for a run that has not come to
        its end."""
        return self.folder.manifest()

    @property
    def scores(self) -> pd.DataFrame:
        """scores.parquet: a row for every method, group, metric and seed. Groups of the corruption ``clean``
        are images that nothing was done to, which no mean of :meth:`table` counts. StoreError without
        scores."""
        import pandas as pd

        self.folder.scores()  # in one sentence where there are none, or they are damaged
        return pd.read_parquet(io.BytesIO(self.folder.read("scores.parquet")))

    def table(self, metric: str | None = None, *, groups: bool = False) -> pd.DataFrame:
        """The table that `diffadapt report` prints, with numbers that are not rounded.

        A row a method, in its order; ``mean`` over groups (each counted once) and seeds, ``s.d.`` over seeds,
        ``s.e.`` binomial, the difference to the reference, ``clean``, ``images``, ``of_images``, ``control``,
        ``note``; with ``groups`` a column for each group. ``metric``: another than the first one. StoreError
        without scores.
        """
        from diffadapt.api.table import frame

        if not (scores := self.folder.scores()):
            raise StoreError(
                f"The run {self.name} has no scores, since its target has no labels: print(run) shows what is"
                " known without them, and run.predictions what was predicted."
            )
        return frame(scores, metric, groups)

    @property
    def findings(self) -> list[str]:
        """What the table shows, a sentence each, as the report says it."""
        from diffadapt.report.findings import findings

        return findings(self.folder.scores(), manifest=self.manifest)

    @property
    def warnings(self) -> list[str]:
        """Rows that predict (nearly) one class, and what the data and the stages had to say."""
        from diffadapt.report.own.collapsed import collapsed_sentences
        from diffadapt.report.provenance import warnings

        return [*collapsed_sentences(self.folder), *warnings(self.folder)]

    @property
    def predictions(self) -> pd.DataFrame:
        """path, label, class and confidence of every target image (Adapt Anything). StoreError for runs
        without."""
        import pandas as pd

        self.folder.manifest()  # in one sentence where it did not come to its end
        if not self.folder.has("predictions.parquet"):
            raise StoreError(
                f"The run {self.name} has no predictions.parquet, which runs of Adapt Anything have:"
                " da.predict(run, images) applies its models."
            )
        return pd.read_parquet(io.BytesIO(self.folder.read("predictions.parquet")))

    @property
    def report(self) -> Report:
        """Its report, written if it is not there. StoreError for a run that has not come to its end."""
        from diffadapt.report.html import write_report

        if not self.folder.has("report.html"):
            write_report(self.folder)
        return Report(self.folder)

    def images(self, stage: str = "aligned", n: int | None = None) -> Images:
        """Images of a stage (synth, aligned, target, projected, ...), ``n`` of them spread evenly over all,
        or all. StoreError for a stage that the run has not or that holds no images."""
        from diffadapt.api.images import images

        return images(self.folder, stage, n, self._recipe.value if self._recipe else None)

    def model(self, name: str = "model", *, seed: int | None = None) -> Classifier:
        """A trained classifier of the run, in evaluation mode on the CPU: a torch module of images (B, C, H,
        W) that its ``transform`` makes of a file, PIL image or array, to logits (B, classes).

        ``name``: model (the adapted or fine-tuned one), a stage (mcc, finetuned, classifier), or a row of the
        table ("MCC + FixMatch"); ``seed``: of several; by default the first. Its classes are
        ``class_names``. StoreError for a name that is neither, with the nearest.
        """
        from diffadapt.api.models import model

        return model(self.folder, name, seed)

    def to_dataset(self, what: str = "scores") -> datasets.Dataset:
        """``scores``, or the images of a stage, as a Dataset of Hugging Face's datasets."""
        from diffadapt.api.datasets import scores_dataset

        return scores_dataset(self.scores) if what == "scores" else self.images(what).to_dataset()

    def __str__(self) -> str:
        from diffadapt.report.table import score_table

        head = f"{self.name}: {self.state}"
        if not self.folder.has("scores.parquet"):
            return head
        if scores := self.folder.scores():
            return f"{head}\n\n{score_table(scores, colour=False)}"
        return f"{head}\n\n{self._unlabelled()}"

    def _unlabelled(self) -> str:
        """What is known of a run without scores, as the command line prints it."""
        from diffadapt.report.sections import report_of

        return report_of(self.manifest).without_scores(self.folder, self.manifest)

    def __repr__(self) -> str:
        return f"<Run {self.name}: {self.state}>"

    def _repr_html_(self) -> str:
        head = f"<p><b>{html.escape(self.name)}</b>: {html.escape(self.state)}</p>"
        if not self.folder.has("scores.parquet"):
            return head
        if not self.folder.scores():
            return f"{head}<pre>{html.escape(self._unlabelled())}</pre>"
        said = "".join(f"<li>{html.escape(s)}</li>" for s in self.findings[:3])
        shown = self.table().drop(columns=["of_images", "control", "note"]).dropna(axis="columns", how="all")
        return f"{head}{shown.to_html(float_format='{:.1f}'.format)}<ul>{said}</ul>"


@dataclass(frozen=True)
class Report:
    """The HTML report of a run: in a notebook the page itself."""

    folder: Folder

    @property
    def url(self) -> str:
        """Where the page lies."""
        return f"{self.folder.url}/report.html"

    @property
    def html(self) -> str:
        """The whole page; it loads nothing from elsewhere."""
        return self.folder.read("report.html").decode()

    def __str__(self) -> str:
        return self.url

    def _repr_html_(self) -> str:
        page = html.escape(self.html, quote=True)
        return f'<iframe srcdoc="{page}" style="width:100%;height:640px;border:1px solid #ccc"></iframe>'


class Runs(Sequence[Run]):
    """Runs of one root, newest first; by place, or by name, prefix or 'last'."""

    def __init__(self, root: Root, names: Sequence[str]):
        self._root, self._names = root, list(names)

    def __len__(self) -> int:
        return len(self._names)

    @overload
    def __getitem__(self, which: int | str) -> Run: ...
    @overload
    def __getitem__(self, which: slice) -> Runs: ...
    def __getitem__(self, which: int | str | slice) -> Run | Runs:
        if isinstance(which, slice):
            return Runs(self._root, self._names[which])
        return Run(
            self._root.run(which) if isinstance(which, str) else Folder(self._root, self._names[which])
        )

    def __iter__(self) -> Iterator[Run]:
        return (Run(Folder(self._root, name)) for name in self._names)

    def __contains__(self, run: object) -> bool:
        return (run.name if isinstance(run, Run) else run) in self._names

    def table(self) -> pd.DataFrame:
        """A row a run: recipe, state, shards that are there, shards in all, and when it was last written."""
        import pandas as pd

        rows = self._root.runs.each(lambda name: self._row(Run(Folder(self._root, name))), self._names)
        return pd.DataFrame(list(rows), columns=["run", "state", "done", "shards", "updated"]).set_index(
            "run"
        )

    def _row(self, run: Run) -> tuple[Any, ...]:
        import pandas as pd

        status = run.folder.status()
        done, total = done_of(status)
        when = pd.Timestamp(status.get("updated") or 0, unit="s", tz="UTC").floor("s")
        return run.name, state_of(status).partition(" ")[0], done, total, when

    def __repr__(self) -> str:
        return f"<{len(self)} runs under {self._root.location}>"

    def _repr_html_(self) -> str:
        return self.table().to_html()


@called
def run(
    recipe: Any,
    *,
    root: Place | None = None,
    runner: str | None = None,
    progress: bool = True,
) -> Run:
    """Make what is missing of ``recipe`` under ``root``; the same call goes on after anything.

    ``recipe``: as :func:`recipe` gives it, or what it takes. ``root``: folder or URL of the store and the
    runs, by default DIFFADAPT_ROOT, else ./diffadapt-data. ``runner``: auto, local or ray, in place of the
    recipe's. ``progress``: say how far it is, in a notebook as a table that is kept up to date, else on
    stderr.

    Raises DiffadaptError in the words of the command line: RecipeError and DataError before anything is made,
    TrainingError, StoreError and ResourceError later. KeyboardInterrupt (Ctrl-C, a notebook's stop button)
    leaves what is finished in the store.
    """
    told, place = with_runner(as_recipe(recipe), runner), open_root(root)
    plan = prepare(told, place)
    with progress_of(progress) as shown:
        if plan.missing and choose(plan.recipe.execution).runner == "ray":
            name = call_apart(run_apart, plan.recipe, place.location, progress=shown)
            return Run(Folder(place, name), plan.recipe)
        return carry_out(plan, shown)


def run_apart(recipe: Recipe, place: str, tell: Tell) -> str:
    """The run in a process of its own; returns its name."""
    return carry_out(prepare(recipe, open_root(place)), Told(tell)).name


def carry_out(plan: Plan, progress: Progress | None = None) -> Run:
    """Make what ``plan`` lacks, in this process; ``progress``: by default lines on stderr."""
    recipe = plan.recipe
    folder = drive(
        recipe.name,
        recipe.value,
        replace(plan.pipeline, planned=plan.nodes),
        plan.root,
        lambda: runners.make_runner(recipe.execution),
        progress=progress,
        overrides=recipe.overrides,
    )
    return Run(folder, recipe)


@called
def runs(root: Place | None = None) -> Runs:
    """The runs under ``root``, newest first: ``da.runs(root)["last"]``."""
    place = open_root(root)
    return Runs(place, place.names())
