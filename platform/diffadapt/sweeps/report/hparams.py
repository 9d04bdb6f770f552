"""Trials of a sweep for TensorBoard's HParams dashboard, one run a trial, written without torch and on any
file system."""

from __future__ import annotations

import importlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.report.view import View
from diffadapt.sweeps.result import TrialResult

FILE = "events.out.tfevents.0.hparams"
"""A name of its own in each trial's folder, so that a later report replaces it."""
WRITERS = 8
LISTED = 20
"""So many numbers of an axis are offered one by one; of more their range."""


def write_hparams(sweep: Sweep, view: View) -> None:
    """Write ``tensorboard/<trial>/``: axis values, benchmark where there are several, status, and as metrics
    the objective, accuracy and device hours.

    Objective and accuracy of trials that failed are absent. A trial's epochs, where a scheduler watched them,
    are the steps of its objective.
    """
    if not view.results:
        return
    seen = {
        name: [r.values[name] for r in view.results if name in r.values]
        for name in view.description.get("axes") or {}
    }
    kinds = {name: _kind(values) for name, values in seen.items()}
    axes = {name: list(dict.fromkeys(_as(kinds[name], v) for v in values)) for name, values in seen.items()}
    if len(view.recipes) > 1:
        axes["benchmark"] = list(view.recipes)
    with ThreadPoolExecutor(WRITERS) as pool:  # a remote store takes its time for each file
        list(
            pool.map(lambda r: sweep.write(f"tensorboard/{r.id}/{FILE}", events(view, r, axes)), view.results)
        )


def events(view: View, result: TrialResult, axes: Mapping[str, Sequence[Any]]) -> bytes:
    """The content of an event file (TFRecord) for one trial. ``axes``: name -> the values that trials have,
    all float, bool or str."""
    from tensorboard.plugins.hparams import summary_v2
    from tensorboard.summary.writer.record_writer import RecordWriter

    event_of, api = _protocol("compat.proto.event_pb2").Event, _protocol("plugins.hparams.api_pb2")
    given = {"benchmark": result.recipe, **result.values}
    values = {name: _as(type(known[0]), given[name]) for name, known in axes.items() if name in given}
    hparams = [
        summary_v2.HParam(name, _domain(known), display_name=name) for name, known in axes.items() if known
    ]
    metrics = [
        ("objective", result.objective),
        ("accuracy", result.accuracy),
        ("device_hours", result.device_hours),
    ]
    named = {"objective": view.title("objective"), "accuracy": "accuracy (%)", "device_hours": view.hours}
    config = summary_v2.hparams_config_pb(
        hparams, [summary_v2.Metric(n, display_name=named[n]) for n, _ in metrics], time_created_secs=0
    )
    start = summary_v2.hparams_pb(values, trial_id=result.id, start_time_secs=0)
    end = _session_end(
        api.STATUS_FAILURE if result.status == "failed" else api.STATUS_SUCCESS, result.seconds
    )
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    started = float(result.number)
    writer.write(event_of(wall_time=started, file_version="brain.Event:2").SerializeToString())
    for summary in (config, start):
        writer.write(event_of(wall_time=started, summary=summary).SerializeToString())
    steps = [("objective", i, v) for i, v in enumerate(result.epochs, 1)]
    steps += [(n, len(result.epochs) + 1 if result.epochs else 0, v) for n, v in metrics if v is not None]
    for name, step, value in steps:
        if math.isfinite(value):
            event = event_of(wall_time=started, step=step)
            event.summary.value.add(tag=name, simple_value=value)
            writer.write(event.SerializeToString())
    writer.write(event_of(wall_time=started + result.seconds, summary=end).SerializeToString())
    return buffer.getvalue()


def _protocol(name: str) -> Any:
    """A module of TensorBoard's generated protocol classes, which have no types."""
    return importlib.import_module(f"tensorboard.{name}")


def _domain(known: Sequence[Any]) -> Any:
    from tensorboard.plugins.hparams import summary_v2

    if isinstance(known[0], float) and len(known) > LISTED:
        return summary_v2.RealInterval(min(known), max(known))
    return summary_v2.Discrete(list(known))


def _session_end(status: int, seconds: float) -> Any:
    from tensorboard.plugins.hparams import metadata

    plugin = _protocol("plugins.hparams.plugin_data_pb2")
    info = plugin.SessionEndInfo(status=status, end_time_secs=seconds)
    data = plugin.HParamsPluginData(session_end_info=info, version=metadata.PLUGIN_DATA_VERSION)
    summary = _protocol("compat.proto.summary_pb2").Summary()
    summary.value.add(
        tag=metadata.SESSION_END_INFO_TAG,
        metadata=metadata.create_summary_metadata(data),
        tensor=metadata.NULL_TENSOR,
    )
    return summary


def _kind(values: list[Any]) -> type:
    """The type that all values of an axis share in TensorBoard, which knows numbers, truth values and
    text."""
    if values and all(isinstance(v, bool) for v in values):
        return bool
    return (
        float
        if values and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
        else str
    )


def _as(kind: type, value: Any) -> Any:
    if kind is str:
        return value if isinstance(value, str) else json.dumps(value)
    return kind(value)
