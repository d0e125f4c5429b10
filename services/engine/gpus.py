"""`Gpus`: what this replica's GPUs do, as metrics, and whether one of them has gone bad.

A replica is told its GPUs by CUDA_VISIBLE_DEVICES, and watches all of those. Without a GPU, or without
NVIDIA's library, there is nothing to watch, and nothing is wrong.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pynvml
from prometheus_client import Counter, Gauge

from services import telemetry

log = telemetry.logger("engine")

# What the application did wrong: the GPU itself is well. All other XIDs are fatal, as for NVIDIA's device
# plugin for Kubernetes.
HARMLESS_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_ALL_LINKS = 0xFFFFFFFF
_KIB = 1024

_EACH = ("gpu", "replica")
UTILISATION = Gauge("gpu_utilisation_ratio", "Share of the last moments in which a kernel ran", _EACH)
MEMORY_USED = Gauge("gpu_memory_used_bytes", "Memory in use, by everybody", _EACH)
MEMORY_TOTAL = Gauge("gpu_memory_total_bytes", "Memory that there is", _EACH)
POWER = Gauge("gpu_power_watts", "Power drawn", _EACH)
CLOCK = Gauge("gpu_clock_hertz", "Clock of the multiprocessors (sm) and of the memory", (*_EACH, "clock"))
TEMPERATURE = Gauge("gpu_temperature_celsius", "Temperature of the chip", _EACH)
NVLINK = Counter("gpu_nvlink_bytes_total", "Sent (tx) and received (rx), all links", (*_EACH, "direction"))
ECC_ERRORS = Counter("gpu_ecc_errors_total", "Memory errors, corrected and uncorrected", (*_EACH, "kind"))
XID_ERRORS = Counter("gpu_xid_errors_total", "Errors that the driver reported", (*_EACH, "xid"))
HEALTHY = Gauge("gpu_healthy", "1: nothing is wrong with it, 0: it must not be used", _EACH)


class _Lost(Exception):
    """The GPU does not answer any more."""


@dataclass
class _Gpu:
    """One that is watched, and how far its counters had come."""

    handle: Any
    index: int
    uuid: str
    counted: dict[str, int] = field(default_factory=dict)


class Gpus:
    """Asks NVML every few seconds, from a thread of its own, since a broken GPU may never answer.

    nvml: the module `pynvml`, or what has its functions. silent_s: after that long without an answer,
    something is wrong.
    """

    def __init__(
        self,
        replica: str,
        *,
        nvml: Any = pynvml,
        period_s: float = 5.0,
        silent_s: float = 30.0,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._replica = replica
        self._nvml = nvml
        self._period_s = period_s
        self._silent_s = silent_s
        self._visible = environ.get("CUDA_VISIBLE_DEVICES")
        self._clock = clock
        self._gpus: list[_Gpu] = []
        self._events: Any = None
        self._troubles: dict[int, str] = {}  # by index; what has gone bad stays bad
        self._answered_at_s: float | None = None  # None: there is nothing to watch, or not yet
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch. It is no error that there are no GPUs."""
        self._answered_at_s = self._clock()  # a driver may hang at the first question
        self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; does not wait for a GPU that never answers."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def trouble(self) -> str | None:
        """Why this replica must not be given work, in a sentence; None: all is well."""
        for reason in self._troubles.copy().values():
            return reason
        if self._answered_at_s is not None and self._clock() - self._answered_at_s > self._silent_s:
            return (
                f"the GPUs have not answered for {self._silent_s:g} s; look at the driver, replace the node"
            )
        return None

    def open(self) -> int:
        """Find the GPUs of this replica; how many there are."""
        nvml = self._nvml
        try:
            nvml.nvmlInit()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            log.info("no GPUs watched", reason=str(error))
            self._answered_at_s = None
            return 0
        self._gpus = list(self._found(count))
        self._answered_at_s = self._clock() if self._gpus else None
        if self._gpus:
            self._events = self._registered()
            log.info("GPUs watched", gpus=[gpu.uuid for gpu in self._gpus])
        return len(self._gpus)

    def read(self) -> None:
        """Ask every GPU once, and set the metrics."""
        has_answered = False
        for gpu in self._gpus:
            try:
                has_answered |= self._read(gpu)
            except _Lost as error:
                self._blame(gpu, f"is lost ({error}); replace the node")
        for gpu, xid in list(self._xids()):
            XID_ERRORS.labels(str(gpu.index), self._replica, str(xid)).inc()
            log.warning("GPU reported an error", gpu=gpu.index, xid=xid)
            if xid not in HARMLESS_XIDS:
                self._blame(gpu, f"reported XID {xid}; see NVIDIA's list of XIDs, replace the node")
        for gpu in self._gpus:
            HEALTHY.labels(str(gpu.index), self._replica).set(gpu.index not in self._troubles)
        if has_answered:
            self._answered_at_s = self._clock()

    def _watch(self) -> None:
        try:
            self.open()
            while self._gpus and not self._stopping.is_set():
                self.read()
                self._stopping.wait(self._period_s)
        except Exception as error:
            # Nothing is known of the GPUs from here on, which `trouble` says once they are silent too long.
            log.exception("GPUs not watched any more", error)
            if not self._gpus:
                self._answered_at_s = None

    def _found(self, count: int) -> Iterator[_Gpu]:
        for index in range(count):
            gpu = _Gpu(None, index, "")
            try:
                gpu.handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
                gpu.uuid = str(self._nvml.nvmlDeviceGetUUID(gpu.handle))
            except self._nvml.NVMLError as error:
                if is_visible(index, "", self._visible):
                    self._blame(gpu, f"cannot be reached ({error}); replace the node")
                continue
            if is_visible(index, gpu.uuid, self._visible):
                yield gpu

    def _registered(self) -> Any:
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            for gpu in self._gpus:
                nvml.nvmlDeviceRegisterEvents(gpu.handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError as error:
            log.warning("XIDs are not heard of", reason=str(error))
            return None
        return events

    def _read(self, gpu: _Gpu) -> bool:
        nvml, labels = self._nvml, (str(gpu.index), self._replica)
        if (used := self._ask(nvml.nvmlDeviceGetUtilizationRates, gpu.handle)) is not None:
            UTILISATION.labels(*labels).set(used.gpu / 100)
        if (power_mw := self._ask(nvml.nvmlDeviceGetPowerUsage, gpu.handle)) is not None:
            POWER.labels(*labels).set(power_mw / 1e3)
        for name, kind in (("sm", nvml.NVML_CLOCK_SM), ("memory", nvml.NVML_CLOCK_MEM)):
            if (clock_mhz := self._ask(nvml.nvmlDeviceGetClockInfo, gpu.handle, kind)) is not None:
                CLOCK.labels(*labels, name).set(clock_mhz * 1e6)
        celsius = self._ask(nvml.nvmlDeviceGetTemperature, gpu.handle, nvml.NVML_TEMPERATURE_GPU)
        if celsius is not None:
            TEMPERATURE.labels(*labels).set(celsius)
        for direction, kib in self._nvlink_kib(gpu):
            NVLINK.labels(*labels, direction).inc(_KIB * self._grown(gpu, direction, kib))
        for name, kind in (
            ("corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        ):
            errors = self._ask(nvml.nvmlDeviceGetTotalEccErrors, gpu.handle, kind, nvml.NVML_VOLATILE_ECC)
            if errors is None:
                continue
            grown = self._grown(gpu, name, errors)
            ECC_ERRORS.labels(*labels, name).inc(grown)
            if grown and name == "uncorrected":
                self._blame(
                    gpu, f"has {grown} new memory errors that ECC could not correct; replace the node"
                )
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, gpu.handle)
        if memory is None:
            return False
        MEMORY_USED.labels(*labels).set(memory.used)
        MEMORY_TOTAL.labels(*labels).set(memory.total)
        return True

    def _nvlink_kib(self, gpu: _Gpu) -> Iterator[tuple[str, int]]:
        nvml = self._nvml
        fields = (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
        asked = [(number, _ALL_LINKS) for number in fields]
        values = self._ask(nvml.nvmlDeviceGetFieldValues, gpu.handle, asked)
        for direction, value in zip(("tx", "rx"), values or (), strict=False):
            if value.nvmlReturn == nvml.NVML_SUCCESS:
                yield direction, value.value.ullVal

    def _xids(self) -> Iterator[tuple[_Gpu, int]]:
        nvml = self._nvml
        while self._events is not None:
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # nothing more has happened, or a GPU is lost, which `_read` finds
                return
            try:
                uuid = str(nvml.nvmlDeviceGetUUID(event.device))
            except nvml.NVMLError:  # which cannot be said: it concerns them all
                uuid = ""
            yield from ((gpu, int(event.eventData)) for gpu in self._gpus if uuid in ("", gpu.uuid))

    def _grown(self, gpu: _Gpu, name: str, count: int) -> int:
        """Since the last time; 0 the first time, and where the driver began to count anew."""
        before = gpu.counted.get(name, count)
        gpu.counted[name] = count
        return max(0, count - before)

    def _blame(self, gpu: _Gpu, what: str) -> None:
        if gpu.index not in self._troubles:
            self._troubles[gpu.index] = f"GPU {gpu.index} ({gpu.uuid}) {what}"
            log.error("GPU went bad", gpu=gpu.index, uuid=gpu.uuid, reason=what)

    def _ask(self, call: Callable[..., Any], *given: Any) -> Any:
        """What NVML answers; None where this GPU cannot say. Raises _Lost."""
        try:
            return call(*given)
        except self._nvml.NVMLError as error:
            if error.value in (self._nvml.NVML_ERROR_GPU_IS_LOST, self._nvml.NVML_ERROR_RESET_REQUIRED):
                raise _Lost(str(error)) from error
            return None


def is_visible(index: int, uuid: str, visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names a GPU, by number or by the beginning of its UUID; None: all are."""
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return any(name == str(index) or (name.startswith("GPU-") and uuid.startswith(name)) for name in names)
