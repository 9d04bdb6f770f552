"""Members of population-based training: the last fit of a recipe, trained round by round with values that may
change between rounds.

What a member ends with is a function of its whole history, not of a recipe, so it never enters the
content-addressed store. It lies in ``trials/<id>/`` of the sweep: ``policy.json`` ([epoch, values, parent] of
every round: the values it trained with up to that epoch, and the trial whose weights it began with),
``model/``, ``scores.parquet``, ``result.json``; while the population trains also
``population/<epoch>-<digest>/``, one folder a round with its checkpoint. A round's digest covers its values
and where its weights come from: a population that is begun again finds its rounds there and trains the
missing ones. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from diffadapt.core import interrupts, record
from diffadapt.core.checked import from_json, to_json
from diffadapt.core.config import field_types, override
from diffadapt.core.errors import DiffadaptError, LostError, RecipeError, StoreError
from diffadapt.core.files import scratch
from diffadapt.core.foreign import parse
from diffadapt.core.identity import digest
from diffadapt.core.pipeline import Pipeline, ancestors
from diffadapt.core.runs import Root, Run
from diffadapt.core.schedule import Task, locate
from diffadapt.core.stage import FitJob, NodePlan, WorkContext
from diffadapt.run.epochs import trained
from diffadapt.run.executor import device_name, one_line
from diffadapt.run.fit import make_job
from diffadapt.run.scores import score_rows, totals
from diffadapt.run.trial import TrialWork, failed, hours
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.objective import accuracy, objective
from diffadapt.sweeps.result import TrialResult
from diffadapt.sweeps.space import ORACLE, Space
from diffadapt.sweeps.trials import build, enumerate_trials

KINDS = {"uda": "uda", "ssl": "ssl"}
"""Kind of a fit that a population can train -> where its settings lie in the recipe."""
FIXED = ("sdat",)
"""Real numbers that decide what a step is made of."""


@dataclass(frozen=True)
class Member:
    """One member, as it travels. ``interval``: epochs between exchanges; ``lost``: the epoch in whose round
    it was given up before, or 0."""

    work: TrialWork
    space: Space
    node: str
    epochs: int
    interval: int
    lost: int = 0

    def end(self, epoch: int) -> int:
        """The epoch at which the round that begins at ``epoch`` ends."""
        return min(epoch + self.interval, self.epochs)


@dataclass(frozen=True)
class State:
    """A member after a round. ``folder``: its newest checkpoint, under the sweep, of ``trained`` epochs
    (fewer than ``epoch`` after a failed round); ``scores``: the objective after each epoch of these weights,
    whoever trained them; ``seconds``: what that took.
    """

    member: str
    epoch: int
    values: Mapping[str, Any]
    folder: str = ""
    trained: int = 0
    scores: Sequence[float] = ()
    seconds: float = 0.0
    error: str = ""

    @property
    def score(self) -> float | None:
        """What the member is judged by; None where its last round failed."""
        return None if self.error or not self.scores else self.scores[-1]


def last_fit(name: str, pipeline: Pipeline) -> str:
    """The node that a population of the recipe ``name`` trains: the one fit that its result's predictions are
    made with. RecipeError where there is none."""
    rows, nodes = pipeline.result(), {n.name: n for n in pipeline.nodes}
    members = {m for row in rows for m in row.members}
    fits = {i for m in members for i in nodes[m].inputs if nodes[i].stage.fit_stage}
    if len(rows) > 1:
        raise RecipeError(
            f"Population-based training trains one model, and the recipe {name} ends in {len(rows)} (seeds or"
            " transfers): leave it one, e.g. with --seeds 0."
        )
    if len(fits) != 1 or nodes[next(iter(fits))].stage.kind not in KINDS:
        raise RecipeError(
            "Population-based training works on stage 1 or 2 of Adapt Anything, and the result of the recipe"
            f" {name} is not the prediction of such a model: use another scheduler."
        )
    return fits.pop()


def check_population(space: Space, recipes: Mapping[str, Any]) -> None:
    """RecipeError for a space whose fields cannot change in the middle of the last fit of a recipe, or a
    population of one."""
    for name, recipe in recipes.items():
        if len(enumerate_trials(space, [name])) < 2:
            raise RecipeError(
                "A population needs at least two members that differ: give --search.trials 2 or more, and"
                " axes with as many values."
            )
        recipe = override(recipe, space.base)
        pipeline = recipe.pipeline()
        fit = next(n.stage for n in pipeline.nodes if n.name == last_fit(name, pipeline))
        if fit.select.rule != "last":
            raise RecipeError(
                f"Members of a population are judged at their last epoch, and the recipe {name} chooses one"
                f" by {fit.select.rule!r}: set select.rule to last."
            )
        if not fit.config.steps_per_epoch:
            raise RecipeError(
                f"The rounds of a population are epochs of so many steps each, and the recipe {name} has"
                " epochs of one pass over the data: set steps_per_epoch above 0."
            )
        if recipe.execution.train_workers > 1:
            raise RecipeError(
                "Each member of a population trains in one process: set --execution.train-workers to 1 (it"
                f" is {recipe.execution.train_workers})."
            )
        part, method = KINDS[fit.kind], fit.config.method
        known = field_types(recipe)
        for axis in space.axes:
            for field in space.fields(axis):
                head, _, rest = field.partition(".")
                own = rest.partition(".")[0] == method and rest.count(".") == 1
                if (
                    head != part
                    or not (own or "." not in rest)
                    or known.get(field) not in (float, float | None)
                    or rest in FIXED
                ):
                    raise RecipeError(
                        "Population-based training changes values in the middle of the recipe's last"
                        f" training, which {field!r} does not allow: vary real numbers of it, such as"
                        f" {part}.lr or weights and thresholds of {part}.{method}."
                    )
                if rest.endswith(".ema") and min(space.axes[axis].ends()) <= 0:
                    raise RecipeError(
                        f"Population-based training cannot switch {field!r} off in the middle of a training:"
                        " let it vary above 0."
                    )


def recipe_of(member: Member, values: Mapping[str, Any]) -> Any:
    """The member's recipe with ``values``, its fits reporting the objective after each epoch."""
    trial = replace(member.work.trial, values=dict(values), changes=member.space.changes(values))
    return override(build(member.work.recipe, trial), {"select.watch": member.work.objective})


def needed(pipeline: Pipeline, node: str) -> set[str]:
    """The nodes that must be in the store before the fit ``node`` is trained and its result predicted."""
    others = {
        i
        for row in pipeline.result()
        for m in row.members
        for i in next(n for n in pipeline.nodes if n.name == m).inputs
    } - {node}
    return (
        ancestors(pipeline.nodes, node) | others | {a for o in others for a in ancestors(pipeline.nodes, o)}
    ) - {node}


def advance(
    member: Member, start: State | None, values: Mapping[str, Any], device: str = "cpu", threads: int = 1
) -> State:
    """Train one round from ``start`` (the member's own state or another's; None: the beginning) with
    ``values``, unless it is done.

    At the recipe's last epoch the result is predicted, judged and recorded. A round that fails is told by
    ``error``, and the next one begins where it did. StoreError when the sweep's folder cannot be written.
    """
    began = time.monotonic()
    sweep = Sweep(Root(member.work.location), member.work.sweep)
    place, mine = sweep.trial(member.work.trial), member.work.trial.id
    end = member.end(start.epoch if start else 0)
    folder = f"population/{end:05d}-{digest([start.folder if start else '', values], 8)}"
    if (done := _read(place, folder)) is not None:
        return done
    before = start or State(mine, 0, {})
    state = State(mine, end, dict(values), before.folder, before.trained, before.scores, before.seconds)
    policy = [*_rounds(place, end), [end, dict(values), start.member if start else None]]
    try:
        if before.folder and not _checkpoints(place, folder):
            _copy(sweep, before.folder, place, folder)
        with _fit(member, place, folder, values, device, threads) as (job, plans, pipeline):
            stage = plans[member.node].stage
            metrics = stage.fit(replace(job, until=end * trained(stage).config.steps_per_epoch))
            found = _scores(place, folder)
            scores = [*before.scores, *(found[e] for e in range(before.trained + 1, end + 1))]
            state = replace(
                state,
                folder=posixpath.join("trials", mine, folder),
                trained=end,
                scores=scores,
                seconds=before.seconds + time.monotonic() - began,
            )
            if end == member.epochs:
                _keep(place, job.output, metrics)
                sweep.record(_judge(member, place, state, job, plans, pipeline))
    except StoreError:
        raise
    except Exception as error:
        interrupts.check()
        message = (
            one_line(error)
            if isinstance(error, DiffadaptError)
            else f"{type(error).__name__}: {one_line(error)}"
        )
        state = State(
            mine,
            end,
            dict(values),
            before.folder,
            before.trained,
            before.scores,
            before.seconds + time.monotonic() - began,
            message,
        )
    place.write("policy.json", json.dumps(policy, indent=1).encode())
    place.write(f"{folder}/state.json", to_json(asdict(state)))
    _forget(place, end, member.interval)
    return state


def clear(sweep: Sweep, trial: str) -> None:
    """Remove the checkpoints of a member of a population that has come to its end."""
    sweep.trial(trial).remove("population")


def outcome(member: Member, state: State) -> TrialResult:
    """The member's result after its last round: recorded where it finished, 'failed' where the round failed
    (and recorded now)."""
    trial, sweep = member.work.trial, Sweep(Root(member.work.location), member.work.sweep)
    if not state.error:
        return next(r for r in sweep.results() if r.id == trial.id)
    own = replace(trial, values=state.values, changes=member.space.changes(state.values))
    result = replace(
        failed(replace(member.work, trial=own), state.error, state.seconds),
        id=trial.id,
        epochs=list(state.scores),
    )
    sweep.record(result)
    return result


def _read(place: Run, folder: str) -> State | None:
    try:
        return State(**from_json(place.read(f"{folder}/state.json")))
    except (LostError, ValueError, TypeError):
        return None


def _rounds(place: Run, end: int) -> list[Any]:
    """The member's policy before epoch ``end``."""
    try:
        return [row for row in parse(place.read("policy.json")) if row[0] < end]
    except (LostError, ValueError, TypeError):
        return []


@contextlib.contextmanager
def _fit(
    member: Member, place: Run, folder: str, values: Mapping[str, Any], device: str, threads: int
) -> Iterator[tuple[FitJob, dict[str, NodePlan], Pipeline]]:
    """The member's fit as a job whose checkpoints lie in ``folder``; the objective of each epoch is written
    beside them before its checkpoint."""
    from diffadapt.run.logs import TENSORBOARD, Logs
    from diffadapt.train.reporter import LocalReporter

    def on_report(step: int, total: int, scalars: Mapping[str, float]) -> None:
        if "objective" in scalars:
            scores = {**_scores(place, folder), int(scalars["objective_epoch"]): float(scalars["objective"])}
            place.write(f"{folder}/scores.json", to_json({"scores": sorted(scores.items())}))

    recipe = recipe_of(member, values)
    pipeline = recipe.pipeline()
    plans = pipeline.plan(place.root.store)
    (planned,) = plans[member.node].shards
    where = locate(plans)
    task = Task(
        member.node,
        planned.shard,
        planned.digest,
        planned.path or "",
        tuple(replace(where[i.digest], node=i.node) for i in planned.shard.inputs),
    )
    with (
        scratch("member") as output,
        Logs(posixpath.join(place.url, TENSORBOARD), member.node, recipe.execution.trackers) as logs,
    ):
        reporter = LocalReporter(device, logs.trackers, on_report)
        job = make_job(
            task,
            {n: p.stage for n, p in plans.items()},
            place.root.store,
            reporter,
            output,
            threads,
            logs.folder,
        )
        yield replace(job, checkpoints=posixpath.join(place.url, folder, "checkpoints")), plans, pipeline


def _scores(place: Run, folder: str) -> dict[int, float]:
    """Epoch -> objective, of the epochs that were trained in ``folder``."""
    if not place.has(f"{folder}/scores.json"):
        return {}
    try:
        value = parse(place.read(f"{folder}/scores.json"))
        pairs = value if isinstance(value, list) else from_json(json.dumps(value).encode())["scores"]
        return {int(epoch): float(score) for epoch, score in pairs}
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"The file {folder}/scores.json of {place.name} is damaged: delete the folder {folder} there,"
            " then run the same command; that round is trained again."
        ) from None


def _keep(place: Run, output: str, metrics: Mapping[str, Any]) -> None:
    """Copy the model into the member's folder."""
    for base, _, names in os.walk(output):
        for name in names:
            full = os.path.join(base, name)
            with open(full, "rb") as handle:
                place.write(
                    posixpath.join("model", os.path.relpath(full, output).replace(os.sep, "/")), handle.read()
                )
    place.write("model/metrics.json", json.dumps(metrics, indent=1, sort_keys=True).encode())


def _judge(
    member: Member, place: Run, state: State, job: FitJob, plans: Mapping[str, NodePlan], pipeline: Pipeline
) -> TrialResult:
    """Predict with the model in ``job.output`` and score it. Exchanges by target labels make the result an
    oracle's."""
    trial, name = member.work.trial, member.work.objective
    rows = (
        [replace(row, selection=ORACLE) for row in pipeline.result()]
        if name == ORACLE
        else list(pipeline.result())
    )
    where, predictions = locate(plans), {}
    for node in {m for row in rows for m in row.members}:
        worker = plans[node].stage.open(
            WorkContext(
                job.context.device,
                {member.node: job.output},
                threads=job.context.threads,
                readers=job.context.readers,
                kinds={member.node: plans[member.node].stage.kind},
            )
        )
        parts = [
            worker.run(
                p.shard, [job.read(where[i.digest]) for i in p.shard.inputs if not where[i.digest].fitted]
            )
            for p in plans[node].shards
        ]
        predictions[node] = record.predictions_by_key(parts)
    scores = score_rows(place.name, member.work.recipe.seed, rows, predictions, totals(pipeline, plans))
    place.write("scores.parquet", record.to_bytes(scores))
    before = {n: plans[n] for n in needed(pipeline, member.node)}
    spent, device = hours(place.root, before), device_name(job.context.device)
    return TrialResult(
        trial.id,
        trial.number,
        trial.recipe,
        state.values,
        member.space.changes(state.values),
        "finished",
        name,
        objective=objective(name, rows, predictions, scores),
        accuracy=accuracy(rows, scores),
        method=rows[0].name,
        scores=[[s.method, s.seed, s.group, s.metric, s.value] for s in scores],
        seconds=state.seconds,
        device_hours=(spent["device_hours"] or 0.0) + state.seconds / 3600,
        device=", ".join(sorted({*filter(None, spent["device"].split(", ")), device})),
        made=1,
        found=sum(len(p.shards) for p in before.values() if p.stage.stored),
        epochs=list(state.scores),
        selection=rows[0].selection,
    )


def _checkpoints(place: Run, folder: str) -> set[str]:
    return {n for n in place.place.list(f"{place.name}/{folder}/checkpoints") if n.startswith("step-")}


def _copy(sweep: Sweep, source: str, place: Run, folder: str) -> None:
    """The newest checkpoint of ``source`` (under the sweep) into ``folder``."""
    names = {n for n in sweep.place.list(f"{sweep.name}/{source}/checkpoints") if n.startswith("step-")}
    if not names:
        raise StoreError(
            f"The checkpoint {source} of the sweep is gone: remove the folder {posixpath.dirname(source)} of"
            " every open trial, then run the same command."
        )
    place.write(f"{folder}/checkpoints/{max(names)}", sweep.read(f"{source}/checkpoints/{max(names)}"))


def _forget(place: Run, epoch: int, interval: int) -> None:
    """Drop checkpoints that no member can need any more: those older than the round before ``epoch``'s."""
    for name in place.place.list(f"{place.name}/population"):
        if name.partition("-")[0].isdigit() and int(name.partition("-")[0]) < epoch - interval:
            place.remove(f"population/{name}/checkpoints")
