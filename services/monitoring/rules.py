"""The SLOs as Prometheus' recording rules and alerts: multiwindow, multi-burn-rate, by tenant and model."""

from typing import Any

from services.monitoring import symptoms
from services.monitoring.slos import SLOS, SPEEDS, Slo, Speed

Rule = dict[str, Any]

EVERY_S = 30  # the short windows are evaluated
_SLOW_EVERY = "5m"  # the long ones: they hold thousands of samples of every series
_SHORT = ("5m", "30m", "1h")
_LONG = ("6h", "3d")
_BASE_S = 300


def document() -> dict[str, Any]:
    """All groups, as Prometheus reads them from a file, and as the `spec` of a PrometheusRule."""
    return {
        "groups": [
            {"name": "livevideo-slo", "interval": f"{EVERY_S}s", "rules": _short_windows()},
            {"name": "livevideo-slo-long", "interval": _SLOW_EVERY, "rules": _long_windows()},
            {
                "name": "livevideo-slo-alerts",
                "interval": f"{EVERY_S}s",
                "rules": [alert(slo, speed) for slo in SLOS for speed in SPEEDS],
            },
            {
                "name": "livevideo-symptoms",
                "interval": f"{EVERY_S}s",
                "rules": [dict(each) for each in symptoms.ALERTS],
            },
        ]
    }


def _short_windows() -> list[Rule]:
    """What happened, counted once for each window, and how fast it burns the budget."""
    rules = [_record("slo:budget:ratio", f"vector({slo.budget:g})", slo) for slo in SLOS]
    for window in _SHORT:
        for slo in SLOS:
            events = f"slo:events:increase{window}"
            rules.append(_record(events, slo.events.replace("WINDOW", window), slo))
            happened = slo.bad.replace("WINDOW", window)
            # Where nothing was ever bad there is no such series, and the ratio is to be 0.
            nothing = f'0 * {events}{{slo="{slo.name}"}}'
            bad = f"clamp_min({happened}, 0) or on (tenant, model) {nothing}"
            rules.append(_record(f"slo:bad:increase{window}", bad, slo))
        rules.append(_burn(window))
    return rules


def _long_windows() -> list[Rule]:
    """Summed up from what was counted every 30 s in windows of 5 minutes."""
    rules = []
    for window in _LONG:
        for what in ("events", "bad"):
            expression = f"sum_over_time(slo:{what}:increase5m[{window}]) / {_BASE_S // EVERY_S}"
            rules.append({"record": f"slo:{what}:increase{window}", "expr": expression})
        rules.append(_burn(window))
    for what in ("events", "bad"):
        hour = f"slo:{what}:increase1h"
        # Hour by hour: every sample of 30 days would be more than Prometheus reads at once. Before the first
        # hour is full, what there is of it.
        expression = f"sum_over_time({hour}[30d:1h]) or {hour}"
        rules.append({"record": f"slo:{what}:increase30d", "expr": expression})
    return rules


def _record(name: str, expression: str, slo: Slo) -> Rule:
    return {"record": name, "expr": expression, "labels": {"slo": slo.name}}


def _burn(window: str) -> Rule:
    share = f"slo:bad:increase{window} / (slo:events:increase{window} > 0)"
    return {
        "record": f"slo:burn_rate:{window}",
        "expr": f"{share} / on (slo) group_left () slo:budget:ratio",
    }


def alert_name(slo: Slo, speed: Speed) -> str:
    """For example FramesLateFast."""
    return slo.alert + speed.suffix


def alert(slo: Slo, speed: Speed) -> Rule:
    """Wakes somebody when the budget burns too fast in both windows, and enough players' moments were bad."""
    of_slo = f'{{slo="{slo.name}"}}'
    windows = [f"slo:burn_rate:{window}{of_slo} > {speed.factor:g}" for window in (speed.long, speed.short)]
    enough = f"slo:bad:increase{speed.long}{of_slo} >= {slo.least_bad:g}"
    who = "tenant {{ $labels.tenant }}, model {{ $labels.model }}"
    return {
        "alert": alert_name(slo, speed),
        "expr": " and ".join([*windows, enough]),
        "labels": {"severity": speed.severity},
        "annotations": {
            "summary": f"{slo.trouble}: {who}",
            "description": (
                f"Promised: {slo.promise}. The budget of 30 days burns "
                f'{{{{ $value | printf "%.1f" }}}} times as fast as it may, over {speed.long} '
                f"and over {speed.short}; at {speed.factor:g} times that is {speed.spent}."
            ),
            "runbook": f"docs/runbooks.md#{slo.alert.lower()}",
        },
    }


def recorded() -> frozenset[str]:
    """Names of all series that the rules record."""
    return frozenset(
        rule["record"] for group in document()["groups"] for rule in group["rules"] if "record" in rule
    )
