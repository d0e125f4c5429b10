"""Alerts on what no SLO can count: each fires, does not fire, and is over; judged by the real promtool."""

from pathlib import Path

from services.monitoring.symptoms import SERVICES
from tests.monitoring.promtool import WHO, counted, judge, needs_promtool, told

pytestmark = needs_promtool


def heard(service: str, values: str) -> dict[str, str]:
    return {"series": f'ready_seconds{{service="{service}",instance="1"}}', "values": values}


def test_a_service_that_is_not_heard_of_pages_after_five_minutes_and_until_it_is_back(tmp_path: Path) -> None:
    series = [heard(service, "3x60") for service in SERVICES if service != "decoder"]
    series.append(heard("decoder", "3x20 stale _x19 3x20"))
    fires = {
        "labels": {"severity": "page", "service": "decoder"},
        "annotations": {
            "summary": "nothing is heard of any decoder",
            "description": "No process of this service that was ready is scraped: nobody can begin to play, "
            "and no SLO is measured.",
            "runbook": "docs/runbooks.md#servicesilent",
        },
    }
    alerts = [told("ServiceSilent", 19), told("ServiceSilent", 24), told("ServiceSilent", 30, fires)]
    assert judge(tmp_path, series, [], [*alerts, told("ServiceSilent", 45)]) == ""


def test_sessions_that_are_opened_and_never_shown_page_until_frames_flow(tmp_path: Path) -> None:
    series = [
        counted(f'session_outcomes_total{{{WHO},outcome="opened"}}', [(60, 2.0)]),
        counted(f'frames_total{{{WHO},timing="on_time"}}', [(20, 100.0), (25, 0.0), (15, 100.0)]),
        counted('session_outcomes_total{tenant="calm",model="maze",outcome="opened"}', [(60, 2.0)]),
        counted('frames_total{tenant="calm",model="maze",timing="late"}', [(60, 100.0)]),
        counted('session_outcomes_total{tenant="rare",model="rare",outcome="opened"}', [(60, 0.2)]),
    ]
    fires = {
        "labels": {"severity": "page", "model": "road"},
        "annotations": {
            "summary": "sessions of model road are opened, and nobody is shown a frame",
            "description": "20 were opened in ten minutes, and no decoder sent a frame.",
            "runbook": "docs/runbooks.md#sessionsnotplayed",
        },
    }
    alerts = [told("SessionsNotPlayed", at_min) for at_min in (19, 28, 50)]
    assert judge(tmp_path, series, [], [*alerts, told("SessionsNotPlayed", 40, fires)]) == ""


def test_a_gpu_that_went_bad_is_a_ticket_until_its_replica_is_replaced(tmp_path: Path) -> None:
    series = [
        {"series": 'gpu_healthy{gpu="3",replica="engine-1"}', "values": "1x10 0x9 stale"},
        {"series": 'gpu_healthy{gpu="4",replica="engine-1"}', "values": "1x30"},
    ]
    fires = {
        "labels": {"severity": "ticket", "gpu": "3", "replica": "engine-1"},
        "annotations": {
            "summary": "GPU 3 of replica engine-1 must not be used",
            "description": "Its replica seats nobody any more, so that its slots are missing. "
            "The engine's log says why.",
            "runbook": "docs/runbooks.md#gpubad",
        },
    }
    alerts = [told("GpuBad", 10), told("GpuBad", 15, fires), told("GpuBad", 25)]
    assert judge(tmp_path, series, [], alerts) == ""
