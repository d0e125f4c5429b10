"""Alerts on what no SLO can count, since what would count it is not there, and on what will hurt soon."""

from typing import Any

SERVICES = ("sessions", "control", "decoder", "engine")

_SILENT = " or ".join(f'absent(ready_seconds{{service="{name}"}})' for name in SERVICES)
_OPENED = 'sum by (model) (increase(session_outcomes_total{outcome="opened"}[10m]))'
_SHOWN = "sum by (model) (increase(frames_total[10m]))"
_LEAST_OPENED = 5


def _alert(name: str, expression: str, *, lasts: str, severity: str, summary: str, description: str) -> Any:
    return {
        "alert": name,
        "expr": expression,
        "for": lasts,
        "labels": {"severity": severity},
        "annotations": {
            "summary": summary,
            "description": description,
            "runbook": f"docs/runbooks.md#{name.lower()}",
        },
    }


ALERTS: tuple[dict[str, Any], ...] = (
    _alert(
        "ServiceSilent",
        _SILENT,
        lasts="5m",
        severity="page",
        summary="nothing is heard of any {{ $labels.service }}",
        description="No process of this service that was ready is scraped: nobody can begin to play, and "
        "no SLO is measured.",
    ),
    _alert(
        "SessionsNotPlayed",
        f"({_OPENED} >= {_LEAST_OPENED}) unless on (model) ({_SHOWN} > 0)",
        lasts="2m",
        severity="page",
        summary="sessions of model {{ $labels.model }} are opened, and nobody is shown a frame",
        description='{{ $value | printf "%.0f" }} were opened in ten minutes, and no decoder sent a frame.',
    ),
    _alert(
        "GpuBad",
        "gpu_healthy == 0",
        lasts="1m",
        severity="ticket",
        summary="GPU {{ $labels.gpu }} of replica {{ $labels.replica }} must not be used",
        description="Its replica seats nobody any more, so that its slots are missing. The engine's log says "
        "why.",
    ),
)
