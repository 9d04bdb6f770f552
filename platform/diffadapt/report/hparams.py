"""Trials of a sweep for TensorBoard's HParams dashboard, one run a trial, written without torch and on any file system."""

from __future__ import annotations

import io
import json
import math
from typing import Any

from diffadapt.report.sweep_view import View
from diffadapt.sweeps.folder import Sweep
from diffadapt.sweeps.result import TrialResult

FILE = "events.out.tfevents.0.hparams"
"""A name of its own in each trial's folder, so that a later report replaces it."""


def write_hparams(sweep: Sweep, view: View) -> None:
    """Write ``tensorboard/<trial>/``: axis values, benchmark where there are several, status, and as metrics the objective, accuracy and device hours.

    Objective and accuracy of trials that failed are absent. A trial's epochs, where a scheduler watched them, are the steps of
    its objective.
    """
    if not view.results:
        return
    kinds = {name: _kind([r.values.get(name) for r in view.results]) for name in view.description.get("axes") or {}}
    for result in view.results:
        sweep.write(f"tensorboard/{result.id}/{FILE}", events(view, result, kinds))


def events(view: View, result: TrialResult, kinds: dict[str, type]) -> bytes:
    """The content of an event file (TFRecord) for one trial. ``kinds``: axis -> float, bool or str."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.plugins.hparams import api_pb2, summary_v2
    from tensorboard.summary.writer.record_writer import RecordWriter

    values: dict[str, Any] = {name: _as(kind, result.values.get(name)) for name, kind in kinds.items() if name in result.values}
    if len(view.recipes) > 1:
        values["benchmark"] = result.recipe
    hparams = [summary_v2.HParam(n, display_name=n) for n in (*kinds, *(["benchmark"] if len(view.recipes) > 1 else []))]
    metrics = [("objective", result.objective), ("accuracy", result.accuracy), ("device_hours", result.device_hours)]
    named = {"objective": view.title("objective"), "accuracy": "accuracy (%)", "device_hours": view.hours}
    config = summary_v2.hparams_config_pb(hparams, [summary_v2.Metric(n, display_name=named[n]) for n, _ in metrics], time_created_secs=0)
    start = summary_v2.hparams_pb(values, trial_id=result.id, start_time_secs=0)
    end = _session_end(api_pb2.STATUS_FAILURE if result.status == "failed" else api_pb2.STATUS_SUCCESS, result.seconds)
    buffer = io.BytesIO()
    writer = RecordWriter(buffer)
    started = float(result.number)
    writer.write(Event(wall_time=started, file_version="brain.Event:2").SerializeToString())
    for summary in (config, start):
        writer.write(Event(wall_time=started, summary=summary).SerializeToString())
    steps = [("objective", i, v) for i, v in enumerate(result.epochs, 1)]
    steps += [(n, len(result.epochs) + 1 if result.epochs else 0, v) for n, v in metrics if v is not None]
    for name, step, value in steps:
        if math.isfinite(value):
            event = Event(wall_time=started, step=step)
            event.summary.value.add(tag=name, simple_value=value)
            writer.write(event.SerializeToString())
    writer.write(Event(wall_time=started + result.seconds, summary=end).SerializeToString())
    return buffer.getvalue()


def _session_end(status: int, seconds: float) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    info = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=seconds)
    data = plugin_data_pb2.HParamsPluginData(session_end_info=info, version=metadata.PLUGIN_DATA_VERSION)
    summary = Summary()
    summary.value.add(tag=metadata.SESSION_END_INFO_TAG, metadata=metadata.create_summary_metadata(data), tensor=metadata.NULL_TENSOR)
    return summary


def _kind(values: list[Any]) -> type:
    """The type that all values of an axis share in TensorBoard, which knows numbers, truth values and text."""
    known = [v for v in values if v is not None]
    if known and all(isinstance(v, bool) for v in known):
        return bool
    return float if known and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in known) else str


def _as(kind: type, value: Any) -> Any:
    if kind is str:
        return value if isinstance(value, str) else json.dumps(value)
    return kind(value) if value is not None else math.nan if kind is float else False
