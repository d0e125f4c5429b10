"""Boards of those who play, and of those who pay."""

from services.monitoring.panels import LATELY, OF_PLAYERS, Board, Panel, Query, quantiles, rate_by
from services.monitoring.slos import CONTROL_WITHIN_S, FIRST_FRAME_WITHIN_S, SPEEDS

TENANT_AND_MODEL = {"tenant": "frames_total", "model": "frames_total"}

PLAYERS = Board(
    "players",
    "what players see",
    "The promises, how fast their budgets burn, and what a player would notice.",
    (
        Panel(
            "Budgets: how fast they burn",
            "none",
            (Query(f"max by (slo) (slo:burn_rate:1h{{{OF_PLAYERS}}})", "{{slo}}"),),
            "Of the worst tenant and model, in an hour. 1: it lasts the 30 days that it should; 14.4 pages.",
            limit=SPEEDS[0].factor,
        ),
        Panel(
            "Promises kept, last three days",
            "percentunit",
            (
                Query(
                    f"1 - sum by (slo) (slo:bad:increase3d{{{OF_PLAYERS}}})"
                    f" / sum by (slo) (slo:events:increase3d{{{OF_PLAYERS}}})",
                    "{{slo}}",
                ),
            ),
            "Share of what was promised that was kept.",
            is_figure=True,
        ),
        Panel(
            "Budgets: share left of 30 days",
            "percentunit",
            (
                Query(
                    f"1 - sum by (slo) (slo:bad:increase30d{{{OF_PLAYERS}}})"
                    f" / sum by (slo) (slo:events:increase30d{{{OF_PLAYERS}}} > 0)"
                    " / on (slo) slo:budget:ratio",
                    "{{slo}}",
                ),
            ),
            "Of what may break the promise. Below 0 it is broken.",
            is_figure=True,
        ),
        Panel(
            "Control to frame",
            "s",
            quantiles("control_to_frame_seconds", "model", OF_PLAYERS),
            "From a control being received to the first frame that obeys it. Promised: 99 % within 350 ms.",
            limit=CONTROL_WITHIN_S,
        ),
        Panel(
            "First frame",
            "s",
            quantiles("first_frame_seconds", "model", OF_PLAYERS),
            "From a viewer coming to its first frame. Promised: 99 % within 2 s.",
            limit=FIRST_FRAME_WITHIN_S,
        ),
        Panel(
            "Frames a second, by timing",
            "none",
            (Query(rate_by("timing", "frames_total", OF_PLAYERS), "{{timing}}"),),
            "Late: by more than one frame period. Held up: the viewer gave no credit in time.",
        ),
        Panel(
            "Stall, seconds an hour of play",
            "s",
            (
                Query(
                    f"3600 * {rate_by('model', 'stalled_seconds_total', OF_PLAYERS)} / "
                    f"({rate_by('model', 'played_seconds_total', OF_PLAYERS)} + "
                    f"{rate_by('model', 'stalled_seconds_total', OF_PLAYERS)})",
                    "{{model}}",
                ),
            ),
            "How long pictures stood still. Promised: 3.6 s at most.",
            limit=3.6,
        ),
        Panel(
            "Outcomes of sessions, a minute",
            "none",
            (Query(f"60 * {rate_by('outcome', 'session_outcomes_total', OF_PLAYERS)}", "{{outcome}}"),),
            "Not opened and failed are a service's doing; the others are the player's, or by rule.",
        ),
        Panel(
            "Sessions played",
            "none",
            (Query(f"sum by (model) (sessions_live{{{OF_PLAYERS}}})", "{{model}}"),),
            "Sessions that engines play now.",
        ),
    ),
    TENANT_AND_MODEL,
)

TENANTS = Board(
    "tenants",
    "tenants",
    "Who plays how much, and what is refused.",
    (
        Panel(
            "Sessions played",
            "none",
            (Query(f"sum by (tenant) (sessions_live{{{OF_PLAYERS}}})", "{{tenant}}"),),
            "Now, by tenant.",
        ),
        Panel(
            "Minutes played in an hour",
            "m",
            (
                Query(
                    f"sum by (tenant) (increase(played_seconds_total{{{OF_PLAYERS}}}[1h])) / 60", "{{tenant}}"
                ),
            ),
            "Video that was sent.",
        ),
        Panel(
            "Decisions a minute",
            "none",
            (Query(f"60 * sum by (outcome) (rate(admission_seconds_count{LATELY}))", "{{outcome}}"),),
            "Opened, or why not; of all tenants.",
        ),
        Panel(
            "Time to decide",
            "s",
            quantiles("admission_seconds", "outcome", "", 0.99),
            "From a session being asked for to the decision.",
        ),
        Panel(
            "Controls refused, a second",
            "none",
            (
                Query(
                    rate_by("tenant, reason", "controls_refused_total", OF_PLAYERS), "{{tenant}}: {{reason}}"
                ),
            ),
            "They changed nothing.",
        ),
        Panel(
            "Sessions ended by rule, an hour",
            "none",
            (
                Query(
                    f"sum by (tenant, reason) (increase(sessions_ended_total{{{OF_PLAYERS}}}[1h]))",
                    "{{tenant}}: {{reason}}",
                ),
            ),
            "Preempted, revoked, out of time, closed.",
        ),
        Panel(
            "Logs that made room, a day",
            "none",
            (Query('sum by (tenant) (increase(logs_dropped_total{tenant=~"$tenant"}[1d]))', "{{tenant}}"),),
            "Sessions that can be played again no more, since LOG_TENANT_BYTES was full.",
        ),
        Panel(
            "Budgets burnt by tenant",
            "none",
            (Query(f"slo:burn_rate:6h{{{OF_PLAYERS}}}", "{{tenant}} {{model}}: {{slo}}"),),
            "Over six hours; 6 pages.",
            limit=SPEEDS[1].factor,
        ),
    ),
    TENANT_AND_MODEL,
)
