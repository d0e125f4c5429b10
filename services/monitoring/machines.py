"""Boards of the engines and of their GPUs."""

from services.monitoring.panels import OF_MODEL, OF_REPLICA, Board, Panel, Query, quantiles, rate_by

ENGINE = Board(
    "engine",
    "engines",
    "Whether every tick has its time, and how much room is left.",
    (
        Panel(
            "Step",
            "s",
            quantiles("step_seconds", "model", OF_MODEL),
            "One evaluation of the network, for all sessions that shared it.",
        ),
        Panel(
            "Ticks late",
            "s",
            quantiles("tick_lateness_seconds", "model", OF_MODEL),
            "How long after its time a tick began.",
        ),
        Panel(
            "Steps a second",
            "none",
            (Query(rate_by("model, instance", "step_seconds_count", OF_MODEL), "{{instance}} {{model}}"),),
            "Evaluations, by engine; with several phases there are several in a period.",
        ),
        Panel(
            "Time spent in steps",
            "percentunit",
            (Query(rate_by("model, instance", "step_seconds_sum", OF_MODEL), "{{instance}} {{model}}"),),
            "Share of an engine's time in which it evaluates.",
        ),
        Panel(
            "Sessions and free seats",
            "none",
            (
                Query(f"sum by (model) (sessions_live{{{OF_MODEL}}})", "played, {{model}}"),
                Query(f"sum by (model) (seats_free{{{OF_MODEL}}})", "free, {{model}}"),
            ),
            "Where no slot is free, newcomers are refused or wait.",
        ),
        Panel(
            "Latents skipped, a second",
            "none",
            (Query(rate_by("model, reason", "latents_skipped_total", OF_MODEL), "{{reason}}, {{model}}"),),
            "Ticks in which a session got no latent: for want of credit, of time, or of memory.",
        ),
        Panel(
            "Ready after",
            "s",
            (Query("max by (service) (ready_seconds)", "{{service}}"),),
            "From the beginning of a process to its first readiness.",
            is_figure=True,
        ),
    ),
    {"model": "step_seconds_count"},
)


def _gpu(
    title: str, unit: str, expression: str, about: str, legend: str = "{{replica}} GPU {{gpu}}"
) -> Panel:
    return Panel(title, unit, (Query(expression, legend),), about)


GPUS = Board(
    "gpus",
    "GPUs",
    "What NVML tells of the GPUs of each replica.",
    (
        Panel(
            "GPUs that must not be used",
            "none",
            (Query(f"sum(1 - gpu_healthy{{{OF_REPLICA}}})", "bad"),),
            "A GPU that went bad stays so until its replica is replaced.",
            is_figure=True,
        ),
        _gpu(
            "Busy",
            "percentunit",
            f"gpu_utilisation_ratio{{{OF_REPLICA}}}",
            "Share of time in which a kernel ran.",
        ),
        _gpu(
            "Memory in use",
            "percentunit",
            f"gpu_memory_used_bytes{{{OF_REPLICA}}} / gpu_memory_total_bytes{{{OF_REPLICA}}}",
            "By everybody on the GPU.",
        ),
        _gpu("Power", "watt", f"gpu_power_watts{{{OF_REPLICA}}}", "Power drawn."),
        _gpu(
            "Clock",
            "hertz",
            f"gpu_clock_hertz{{{OF_REPLICA}}}",
            "Falls when it is hot.",
            "{{replica}} {{gpu}} {{clock}}",
        ),
        _gpu("Temperature", "celsius", f"gpu_temperature_celsius{{{OF_REPLICA}}}", "Of the chip."),
        _gpu(
            "NVLink",
            "Bps",
            rate_by("replica, gpu, direction", "gpu_nvlink_bytes_total", OF_REPLICA),
            "Ranks of a gang exchange tokens and heads this way.",
            "{{replica}} {{gpu}} {{direction}}",
        ),
        _gpu(
            "Errors in an hour",
            "none",
            f"sum by (replica, gpu, kind) (increase(gpu_ecc_errors_total{{{OF_REPLICA}}}[1h]))",
            "Memory errors.",
            "{{replica}} {{gpu}} {{kind}}",
        ),
        _gpu(
            "XIDs in an hour",
            "none",
            f"sum by (replica, gpu, xid) (increase(gpu_xid_errors_total{{{OF_REPLICA}}}[1h]))",
            "Errors that the driver reported.",
            "{{replica}} {{gpu}} XID {{xid}}",
        ),
    ),
    {"replica": "gpu_healthy"},
)
