"""``diffadapt plan``: shards to make, shards at hand, hours and cost of what is missing; the same validation
as ``run``, nothing written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffadapt.api import runners
from diffadapt.api.plan import format_plan, missing_time, outlook
from diffadapt.api.recipe import Recipe
from diffadapt.commands.options import RootOption, parse_recipe
from diffadapt.core import ledger
from diffadapt.core.devices import device as device_of
from diffadapt.core.errors import RecipeError, ResourceError
from diffadapt.core.estimate import Estimate, estimate, same_device
from diffadapt.core.plan import summarise
from diffadapt.core.prices import Instance, find
from diffadapt.core.redact import redact
from diffadapt.core.runs import Root, run_name
from diffadapt.core.schedule import finished
from diffadapt.core.stage import NodePlan
from diffadapt.core.units import hours_text
from diffadapt.models.counts import KnownCounts
from diffadapt.run.calibrate import calibrate, chosen
from diffadapt.sweeps.union import merge

if TYPE_CHECKING:
    from diffadapt.run.runner import ExecutionConfig


@dataclass(frozen=True)
class CostOptions(RootOption):
    """Where the work would be done."""

    on: str = ""
    """A machine of the price list (cluster/prices.toml), such as aws.p4d.24xlarge, or devices such as 8xH100:
    time and cost on it, as measured on such a device, else counted."""
    nodes: int = 1
    """How many of them."""
    speed: float = 1.0
    """How many times as fast as the measured device one of its devices is."""
    spot_price: float = 0.0
    """USD per hour of one spot machine, where the price list has none or another."""
    prices: str = ""
    """A price list of your own."""

    def machine(self) -> Instance | None:
        """The machine that --on names; RecipeError for one that is not known and for numbers out of range."""
        for name, value, low in (
            ("nodes", self.nodes, "at least 1"),
            ("speed", self.speed, "above 0"),
            ("spot-price", self.spot_price, "at least 0"),
        ):
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "spot-price"):
                raise RecipeError(f"--{name} is {value:g} but must be {low}.")
        if not self.on:
            if self.nodes != 1 or self.spot_price or self.prices:
                raise RecipeError(
                    "--nodes, --spot-price and --prices are about a machine: name it with --on, such as --on"
                    " aws.g5.xlarge."
                )
            return None
        return find(self.on, self.prices)


@dataclass(frozen=True)
class PlanOptions(CostOptions):
    calibrate: bool = False
    """Make one shard of each stage that nothing was measured of, on this machine or the named cluster; it
    stays in the store."""


def plan(argv: Sequence[str]) -> int:
    name, recipe, options = parse_recipe(PlanOptions, flags(argv, "--calibrate"), "plan")
    machine = options.machine()
    found = outlook(Recipe(name, recipe), options.open(), machine)
    recipe, root, plans, notes = found.recipe.value, found.root, found.nodes, found.not_at_hand
    summary, guess, threads = found.summary, found.estimate, recipe.execution.threads or 1
    digests = chosen(plans, finished(plans, root.store), guess)
    if options.calibrate:
        if notes:
            raise ResourceError(f"--calibrate makes images for real, which is not possible yet: {notes[0]}")
        if _calibrate(name, recipe, plans, root, digests):
            summary, digests = summarise(plans, root.store), set()
            guess = missing_time(plans, root, machine, threads)
    print(format_plan(name, summary, guess, recipe.execution))
    if machine and (text := format_needs(guess, machine)):
        print(f"\n{text}")
    if text := format_time(guess, options, recipe.execution, machine, found.layout):
        print(f"\n{text}")
    if digests and not notes:
        print("--calibrate makes one shard of each stage that is not measured and needs no training first.")
    for sentence, node in found.warnings.items():
        print(f"\nWarning: {sentence} [{node}]")
    for note in notes:
        print(f"\nNot at hand: {redact(note)}")
    if notes:
        print("\nThe counts hold; `run` needs what is not at hand.")
    return 0


def sweep_time(
    plans: Sequence[Mapping[str, NodePlan]], root: Root, options: CostOptions, execution: ExecutionConfig
) -> str:
    """What the trials of a sweep lack together, against one by one in a store of each one's own: hours, and
    cost where --on names a machine. ``plans``: those of the trials. Empty when nothing is missing."""
    machine = options.machine()
    measured = ledger.read(root.ledger)
    together = missing_time(merge(plans), root, machine, execution.threads or 1)
    text = format_time(together, options, execution, machine)
    if not text or not together.seconds:
        return text
    device, counts = machine.device if machine else "", KnownCounts(counting=False)
    apart = [estimate(trial, (), measured, device, counts, execution.threads or 1) for trial in plans]
    least = "" if all(a.complete for a in apart) else "at least "
    return f"{text}\nOne by one, each from nothing: {least}{sum(a.seconds for a in apart) / 3600:.3g} hours."


def flags(argv: Sequence[str], *names: str) -> list[str]:
    """``argv`` with switches that stand alone followed by 'True', as the parser wants them."""
    words = list(argv)
    for i in range(len(words) - 1, -1, -1):
        if words[i] in names and (i + 1 == len(words) or words[i + 1].lower() not in ("true", "false")):
            words.insert(i + 1, "True")
        elif i and words[i - 1] in names:
            words[i] = words[i].capitalize()
    return words


def _calibrate(name: str, recipe: Any, plans: Mapping[str, NodePlan], root: Root, digests: set[str]) -> bool:
    if not digests:
        print("Nothing to calibrate: what is not measured is training, or waits for it.\n")
        return False
    made = calibrate(
        run_name(name, "calibration"), plans, root, digests, lambda: runners.make_runner(recipe.execution)
    )
    print(
        f"Calibration made {made} shard{'s' * (made != 1)}; {'it stays' if made == 1 else 'they stay'} in the"
        f" store, and a run will find {'it' if made == 1 else 'them'} there.\n"
    )
    return True


def format_time(
    guess: Estimate,
    options: CostOptions,
    execution: ExecutionConfig,
    machine: Instance | None,
    layout: tuple[Any, list[dict[str, float]]] | None = None,
) -> str:
    """The sum, and what it means on the named machines and on the connected cluster; empty when nothing is
    missing."""
    from diffadapt.core.units import format_seconds

    if not guess.stages:
        return _layout_text(layout) if layout else ""
    least = "" if guess.complete else "at least "
    parts = [
        f"{format_seconds(seconds)} of {device or 'a device not noted'} ({_hours(seconds)}"
        f" {_unit(device)}-hours)"
        for device, seconds in guess.by_device().items()
    ]
    lines = [
        (
            f"In all {least}{' and '.join(parts)}."
            if parts
            else "Nothing like it was measured yet under this root, so no time is known."
            + ("" if machine else " --on names a device to count it for, such as --on 8xH100.")
        )
    ]
    if parts and (names := list(dict.fromkeys(re.split("[.@]", s.name)[0] for s in guess.unmeasured))):
        lines.append(
            f"Not measured: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}."
        )
    if layout:
        lines.append(_layout_text(layout))
    if not parts:
        return "\n".join(lines)
    if layout:
        devices = layout[0].actors
        lines.append(
            f"About {least}{format_seconds(guess.wall(devices, train_workers=execution.train_workers))} on"
            f" {devices} actors like those measured."
        )
    if machine:
        lines += _cost(guess, options, execution, machine, least)
    return "\n".join(lines)


def _cost(
    guess: Estimate, options: CostOptions, execution: ExecutionConfig, machine: Instance, least: str
) -> list[str]:
    from diffadapt.core.units import format_seconds

    each, nodes = machine.devices(execution.threads or 1), options.nodes
    wall = guess.wall(nodes * each, train_workers=execution.train_workers, speed=options.speed)
    spot = options.spot_price or machine.spot
    each_hour = nodes * machine.on_demand
    prices = [
        f"{least}{_usd(wall / 3600 * each_hour)} on demand" if each_hour else "no price listed (--prices)",
        f"{least}{_usd(wall / 3600 * nodes * spot)} spot" if spot else "no spot price listed (--spot-price)",
    ]
    what = f"{machine.gpus} x {machine.gpu}" if machine.gpus else f"{machine.vcpus} vCPUs"
    lines = [
        f"On {nodes} x {machine.name} ({what} each): {least}{format_seconds(wall)}, {', '.join(prices)}.",
        (
            f"  Prices of {machine.region or 'its region'}, {machine.date}: {machine.source}. Start-up of"
            " machines, loading of models, a head node, storage and traffic come on top."
        ),
    ]
    others = [d for d in guess.by_device() if not same_device(d, machine.device)]
    if others and options.speed == 1.0:
        lines.append(
            f"  Measured on {', '.join(d or 'a device not noted' for d in others)}, counted as if"
            f" {machine.device} were as fast: --speed says how many times as fast it is, or calibrate there."
        )
    elif options.speed != 1.0:
        lines.append(
            f"  Counted {options.speed:g} times as fast as"
            f" {', '.join(d or 'a device not noted' for d in guess.by_device())}, as --speed says."
        )
    return lines


def format_needs(guess: Estimate, machine: Instance) -> str:
    """What the stages that were counted ask of a device: TFLOP an item, memory at the recipe's batch, hours
    where they are counted; and what the counting stands on. Empty where nothing was."""
    known = [s for s in guess.stages if s.need is not None and s.need.total]
    if not known:
        return ""
    groups: dict[tuple[str, float, int], list[Any]] = {}
    for s in known:
        groups.setdefault((re.split(r"[.@]", s.name)[0], s.need.total, s.need.batch), []).append(s)
    titles = ("counted, not measured", "TFLOP an item", "batch", "GB of GPU", "GPU-hours")
    lines = ["  {:<34} {:>14} {:>6} {:>10} {:>10}".format(*titles)]
    table, much = device_of(machine.device), []
    for (name, flops, batch), stages in groups.items():
        memory = max(s.need.memory for s in stages)
        counted = [s for s in stages if s.basis == "counted"]
        hours = hours_text(sum(s.seconds or 0.0 for s in counted) / 3600) if counted else "measured"
        title = f"{name} (x{len(stages)})" if len(stages) > 1 else name
        lines.append(f"  {title:<34} {flops / 1e12:>14.3g} {batch:>6} {memory / 1e9:>10.3g} {hours:>10}")
        if table and table.memory and memory > table.memory:
            much.append(name)
    if guess.counted and table:
        precisions = sorted({p for s in known if s.basis == "counted" for p in s.need.flops})
        shares = ", ".join(
            f"{100 * table.share[p]:.0f} % of {table.peak[p] / 1e12:g} TFLOP/s in {p}" for p in precisions
        )
        lines.append(
            f"  Counted FLOPs over {shares} ({table.source}; the shares are assumed: right within a factor of"
            " about two). Reading and decoding of images is not counted; --calibrate measures."
        )
    if much:
        lines.append(
            f"  More than the {table.memory / 1e9:g} GB of {table.name}: {', '.join(much)}. A smaller"
            " batch_size (of trainings micro_batch) fits; batches of images are halved until they do,"
            " trainings stop."
        )
    return "\n".join(lines)


def _layout_text(layout: tuple[Any, list[dict[str, float]]]) -> str:
    plan, nodes = layout
    here, coming = [n for n in nodes if "possible" not in n], [n for n in nodes if "possible" in n]
    gpus = sum(n.get("GPU", 0.0) for n in nodes)
    what = f"{len(here)} node{'s' * (len(here) != 1)}" + (
        f" and {len(coming)} that the autoscaler can add" if coming else ""
    )
    return (
        f"The cluster: {what}, {sum(n.get('CPU', 0.0) for n in nodes):g} CPUs, {gpus:g} GPUs; {plan.actors}"
        f" actors on {plan.device}, {plan.train_workers} worker{'s' * (plan.train_workers != 1)} a fit."
    )


def _unit(device: str) -> str:
    return "CPU" if device == "cpu" else "GPU" if device else "device"


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.3g}" if hours < 1000 else f"{hours:,.0f}"


def _usd(value: float) -> str:
    return f"{value:.2f} USD" if value >= 0.1 else f"{value:.2g} USD"
