"""The dashboards: what players see, engines, their GPUs, the tenants, and a session's path by stage."""

from typing import Any

from services.monitoring.machines import ENGINE, GPUS
from services.monitoring.panels import LATELY, OF_MODEL, Board, Panel, Query, quantiles, rate_by, rendered
from services.monitoring.players import PLAYERS, TENANTS

PATH = Board(
    "path",
    "a session's path",
    "Where the time goes between a control and its frame, stage by stage.",
    (
        Panel(
            "Mean time, stage by stage",
            "s",
            (
                Query(
                    f"{rate_by('stage', 'stage_seconds_sum', OF_MODEL)}"
                    f" / {rate_by('stage', 'stage_seconds_count', OF_MODEL)}",
                    "{{stage}}",
                ),
            ),
            "control_path: receipt to mailbox. tick_wait: mailbox to step. handover: engine to decoder. "
            "send: waiting for its place in time, and being sent.",
        ),
        Panel(
            "99th percentile, stage by stage",
            "s",
            quantiles("stage_seconds", "stage", OF_MODEL, 0.99),
            "The stage that grew is the one to look at.",
        ),
        Panel(
            "Control to frame",
            "s",
            quantiles("control_to_frame_seconds", "model", OF_MODEL),
            "The whole path.",
        ),
        Panel(
            "Decode",
            "s",
            quantiles("decode_seconds", "model", OF_MODEL),
            "From one latent to its pixels.",
        ),
        Panel(
            "Between two frames",
            "s",
            quantiles("frame_interval_seconds", "model", OF_MODEL),
            "At 24 frames/s: 42 ms.",
        ),
        Panel(
            "Spans of traces dropped, a minute",
            "none",
            (Query(f"60 * sum by (service) (rate(spans_dropped_total{LATELY}))", "{{service}}"),),
            "The collector is away, or too slow; nobody waits for it.",
        ),
    ),
    {"model": "stage_seconds_count"},
)

BOARDS = (PLAYERS, ENGINE, GPUS, TENANTS, PATH)


def all_boards() -> dict[str, dict[str, Any]]:
    """Every dashboard as Grafana reads it, by name."""
    return {board.name: rendered(board) for board in BOARDS}
