"""What is said of GPUs, and when one is bad, by an NVML that is made up."""

import itertools
import time
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pynvml
import pytest

from services.engine.gpus import Gpus, is_visible

REPLICAS = (f"replica-{n}" for n in itertools.count())  # each test counts in series of its own


class NVML:
    """Two GPUs that a test can break; constants and errors are the real ones."""

    def __init__(self, gpus: int = 2) -> None:
        self.gpus = gpus
        self.unsupported: set[str] = set()
        self.lost: set[int] = set()
        self.ecc = {pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED: 7, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED: 2}
        self.sent_kib = 1000
        self.xids: list[tuple[int | None, int]] = []
        self.registered: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(pynvml, name)

    def _check(self, name: str, handle: int) -> None:
        if handle in self.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        if name in self.unsupported:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def nvmlInit(self) -> None:  # noqa: N802 (NVML's own names)
        if not self.gpus:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._check("handle", index)
        return index

    def nvmlDeviceGetUUID(self, handle: int | None) -> str:  # noqa: N802
        if handle is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return f"GPU-{handle}{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        self._check("utilisation", handle)
        return SimpleNamespace(gpu=85, memory=40)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        self._check("memory", handle)
        return SimpleNamespace(used=20 * 10**9, total=80 * 10**9)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        self._check("power", handle)
        return 512_000

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:  # noqa: N802
        self._check("clock", handle)
        return {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[kind]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        self._check("temperature", handle)
        return 61

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> int:  # noqa: N802
        self._check("ecc", handle)
        assert counter == pynvml.NVML_VOLATILE_ECC
        return self.ecc[kind]

    def nvmlDeviceGetFieldValues(self, handle: int, fields: list[tuple[int, int]]) -> Any:  # noqa: N802
        self._check("nvlink", handle)
        sent, received = self.sent_kib, 3 * self.sent_kib
        return [
            SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=kib))
            for kib in (sent, received)
        ]

    def nvmlEventSetCreate(self) -> object:  # noqa: N802
        self._check("events", -1)
        return self.xids

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:  # noqa: N802
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, events: list[tuple[int | None, int]], timeout_ms: int) -> Any:  # noqa: N802
        if not events:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        handle, xid = events.pop(0)
        return SimpleNamespace(device=handle, eventData=xid)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def nvml() -> NVML:
    return NVML()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def replica() -> str:
    return next(REPLICAS)


@pytest.fixture
def gpus(nvml: NVML, clock: Clock, replica: str) -> Gpus:
    made = Gpus(replica, nvml=nvml, clock=clock, environ={})
    assert made.open() == 2
    made.read()
    return made


def said(replica: str, metric: str, gpu: int = 0, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(
        metric, {"gpu": str(gpu), "replica": replica, **labels}
    )


def test_every_figure_is_in_base_units(gpus: Gpus, replica: str) -> None:
    for gpu in range(2):
        assert said(replica, "gpu_utilisation_ratio", gpu) == 0.85
        assert said(replica, "gpu_memory_used_bytes", gpu) == 20e9
        assert said(replica, "gpu_memory_total_bytes", gpu) == 80e9
        assert said(replica, "gpu_power_watts", gpu) == 512
        assert said(replica, "gpu_clock_hertz", gpu, clock="sm") == 1.98e9
        assert said(replica, "gpu_clock_hertz", gpu, clock="memory") == 2.619e9
        assert said(replica, "gpu_temperature_celsius", gpu) == 61
        assert said(replica, "gpu_healthy", gpu) == 1
    assert gpus.trouble() is None


def test_counters_say_what_has_happened_since_the_replica_began(gpus: Gpus, nvml: NVML, replica: str) -> None:
    assert said(replica, "gpu_nvlink_bytes_total", direction="tx") == 0
    assert said(replica, "gpu_ecc_errors_total", kind="corrected") == 0
    nvml.sent_kib += 5
    nvml.ecc[pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED] += 4
    gpus.read()
    assert said(replica, "gpu_nvlink_bytes_total", direction="tx") == 5 * 1024
    assert said(replica, "gpu_nvlink_bytes_total", direction="rx") == 15 * 1024
    assert said(replica, "gpu_ecc_errors_total", kind="corrected") == 4
    assert gpus.trouble() is None  # corrected errors are the weather
    nvml.sent_kib = 3  # the driver was loaded anew
    gpus.read()
    assert said(replica, "gpu_nvlink_bytes_total", direction="tx") == 5 * 1024


def test_new_uncorrected_errors_are_trouble_and_old_ones_are_not(
    gpus: Gpus, nvml: NVML, replica: str
) -> None:
    assert gpus.trouble() is None  # two were there when the replica began
    nvml.ecc[pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED] += 1
    gpus.read()
    assert str(gpus.trouble()).startswith("GPU 0 (GPU-00) has 1 new memory errors that ECC could not correct")
    assert said(replica, "gpu_ecc_errors_total", kind="uncorrected") == 1
    assert said(replica, "gpu_healthy") == 0
    gpus.read()
    assert gpus.trouble() is not None  # what has gone bad stays bad


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68])
def test_an_error_of_the_application_is_counted_and_no_trouble(
    gpus: Gpus, nvml: NVML, replica: str, xid: int
) -> None:
    nvml.xids.append((1, xid))
    gpus.read()
    assert said(replica, "gpu_xid_errors_total", 1, xid=str(xid)) == 1
    assert gpus.trouble() is None


def test_a_fatal_xid_is_trouble_of_the_gpu_that_it_names(gpus: Gpus, nvml: NVML, replica: str) -> None:
    assert nvml.registered == [0, 1]
    nvml.xids += [(1, 31), (1, 79)]
    gpus.read()
    assert str(gpus.trouble()).startswith("GPU 1 (GPU-11) reported XID 79")
    assert said(replica, "gpu_xid_errors_total", 0, xid="79") is None
    assert said(replica, "gpu_healthy", 0) == 1
    assert said(replica, "gpu_healthy", 1) == 0


def test_a_fatal_xid_that_names_nobody_is_everybodys(gpus: Gpus, nvml: NVML, replica: str) -> None:
    nvml.xids.append((None, 48))
    gpus.read()
    assert [said(replica, "gpu_healthy", gpu) for gpu in range(2)] == [0, 0]


def test_a_gpu_that_is_lost_is_trouble_and_the_other_is_still_read(
    gpus: Gpus, nvml: NVML, replica: str
) -> None:
    nvml.lost.add(0)
    gpus.read()
    assert str(gpus.trouble()).startswith("GPU 0 (GPU-00) is lost")
    assert said(replica, "gpu_healthy", 1) == 1


def test_a_gpu_that_is_lost_before_the_replica_begins_is_trouble(nvml: NVML, replica: str) -> None:
    nvml.lost.add(1)
    gpus = Gpus(replica, nvml=nvml, environ={})
    assert gpus.open() == 1
    assert str(gpus.trouble()).startswith("GPU 1 () cannot be reached")
    others = Gpus(replica, nvml=nvml, environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert others.open() == 1
    assert others.trouble() is None  # it was not this replica's


def test_gpus_that_do_not_answer_for_long_are_trouble(gpus: Gpus, nvml: NVML, clock: Clock) -> None:
    nvml.unsupported.add("memory")
    clock.now_s = 29.0
    gpus.read()
    assert gpus.trouble() is None
    clock.now_s = 31.0
    assert "not answered for 30 s" in str(gpus.trouble())
    nvml.unsupported.clear()
    gpus.read()
    assert gpus.trouble() is None


def test_what_a_gpu_cannot_say_is_left_out(nvml: NVML, replica: str) -> None:
    nvml.unsupported |= {"utilisation", "power", "clock", "temperature", "ecc", "nvlink", "events"}
    gpus = Gpus(replica, nvml=nvml, environ={})
    gpus.open()
    gpus.read()
    assert gpus.trouble() is None
    assert said(replica, "gpu_memory_used_bytes") == 20e9
    assert said(replica, "gpu_power_watts") is None
    assert said(replica, "gpu_ecc_errors_total", kind="corrected") is None


@pytest.mark.parametrize("nvml", [NVML(0), pynvml], ids=["no library", "this machine"])
def test_where_there_is_no_gpu_nothing_is_wrong(nvml: Any, replica: str) -> None:
    gpus = Gpus(replica, nvml=nvml, environ={"CUDA_VISIBLE_DEVICES": ""})
    assert gpus.open() == 0
    gpus.start()
    gpus.stop()
    assert gpus.trouble() is None


def test_a_thread_of_its_own_asks_until_it_is_stopped(nvml: NVML, replica: str) -> None:
    gpus = Gpus(replica, nvml=nvml, period_s=0.01, environ={})
    gpus.start()
    until_s = time.monotonic() + 10
    nvml.lost.add(1)
    while gpus.trouble() is None:
        assert time.monotonic() < until_s
        time.sleep(0.01)
    gpus.stop()
    nvml.sent_kib += 1
    time.sleep(0.05)
    assert said(replica, "gpu_nvlink_bytes_total", direction="tx") == 0


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, True), ("1", True), ("0,1", True), ("0", False), ("", False), ("GPU-ab", True), ("GPU-b", False)],
)
def test_a_replica_watches_the_gpus_that_it_was_given(visible: str | None, expected: bool) -> None:
    assert is_visible(1, "GPU-abc", visible) == expected
