"""What is traced, and what that may cost."""

import subprocess
import sys
import time
from threading import Event

import pytest

from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.session_pb2 import Session
from services import telemetry
from services.engine.mailbox import Mailbox
from services.engine.residence import Made
from services.engine.spanned import record_latent
from services.errors import BadSetting
from services.settings import settings_from_env
from services.traceparent import Trace, exemplar, parsed
from services.tracing import Sampler, Sampling, Tracer, Tracing
from tests.services.collector import DEADLINE_S, Collector, collecting
from tests.services.small_world import KEYS, Clock

ID, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{ID}-{SPAN}-01"
HOSTILE = [
    "",
    "00",
    f"00-{ID}-{SPAN}-00",  # nobody records it
    f"00-{ID}-{SPAN}",
    f"00-{ID}-{SPAN}-01-more",
    f"00-{ID.upper()}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{ID}-{'0' * 16}-01",
    f"ff-{ID}-{SPAN}-01",
    f"00-{ID}-{SPAN}-0\uff11",
    f"{SAMPLED}\n",
    f"01-{ID}-{SPAN}-01-{'x' * 100_000}",
]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


def test_a_traceparent_is_read() -> None:
    assert parsed(SAMPLED) == Trace(int(ID, 16), int(SPAN, 16))
    assert parsed(f"01-{ID}-{SPAN}-03-of a later version") == parsed(SAMPLED)
    assert exemplar(SAMPLED) == {"trace_id": ID}


@pytest.mark.parametrize("sent", HOSTILE, ids=map(str, range(len(HOSTILE))))
def test_what_is_no_traceparent_is_none(sent: str) -> None:
    assert parsed(sent) is None
    assert exemplar(sent) is None
    assert Sampler(Sampling(0.5), chance=lambda: 0.9).parent(sent) == ""


def test_a_share_of_all_controls_is_traced() -> None:
    chances = iter([0.1, 0.3, 0.2, 0.25])
    sampler = Sampler(Sampling(0.25), chance=lambda: next(chances))
    assert [sampler.parent("") for _ in range(4)] == [None, "", None, ""]


def test_who_traces_everything_is_sampled_like_the_others() -> None:
    clock = Clock()
    sampler = Sampler(Sampling(0.01, client_traces_per_s=2.0), clock, chance=lambda: 0.5)
    joined = 0
    for _ in range(10_000):
        clock.now_s += 0.001
        joined += sampler.parent(SAMPLED) == SAMPLED
    assert joined == 2 + 2 * 10 - 1  # those that may come at once, and two a second


def test_nothing_is_traced_where_the_share_is_0() -> None:
    sampler = Sampler(Sampling(), chance=lambda: 0.0)
    assert sampler.parent(SAMPLED) == sampler.parent("") == ""


def test_without_a_collector_opentelemetry_is_not_imported() -> None:
    made = "from services.control.service import ControlService; ControlService()"
    ends = "sys.exit(any('opentelemetry' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", f"import sys; {made}; {ends}"], check=True, timeout=120)


def test_without_a_collector_a_trace_goes_on_past_a_service() -> None:
    tracer = Tracer("sessions", Tracing())
    span = tracer.begin("store", SAMPLED, 1.0, {})
    span.end(2.0)
    assert span.traceparent == SAMPLED


def test_a_collector_without_opentelemetry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.spans", None)
    with pytest.raises(BadSetting, match=r"livevideo-services\[tracing\]"):
        Tracer("control", Tracing("http://127.0.0.1:4318"))


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://c:x"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    with pytest.raises(BadSetting, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        settings_from_env(Tracing)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(BadSetting, match="TRACE_SAMPLING"):
        Sampling(share)


async def test_spans_that_find_no_room_are_dropped_and_counted() -> None:
    with collecting() as collector:
        going_on = collector.holds = Event()
        tracer = Tracer("crowded", Tracing(collector.endpoint), most_waiting=8)
        dropped = telemetry.SPANS_DROPPED.labels("crowded")._value
        began_s = time.perf_counter()
        for number in range(1000):
            tracer.record("step", SAMPLED, 1.0, 2.0, {"index": number})
        took_s = time.perf_counter() - began_s
        assert dropped.get() >= 1000 - 8
        going_on.set()
        await collector.until(lambda: len(collector.collected) + dropped.get() == 1000)
        assert len(collector.collected) >= 1
        assert took_s < DEADLINE_S  # the collector, which answers nobody for so long, was not waited for
        await tracer.stop()


async def test_spans_that_are_refused_are_counted() -> None:
    with collecting() as collector:
        collector.answers = 400
        tracer = Tracer("refused", Tracing(collector.endpoint))
        tracer.record("step", SAMPLED, 1.0, 2.0, {})
        dropped = telemetry.SPANS_DROPPED.labels("refused")._value
        await Collector().until(lambda: dropped.get() == 1)
        await tracer.stop()
        assert dropped.get() == 1


async def test_what_waits_is_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
    with collecting() as collector:
        tracer = Tracer("control", Tracing(collector.endpoint))
        span = tracer.begin("control", None, 1.5, {"session": "road-1", "control_seq": 7})
        span.end(2.5)
        await tracer.stop()
        [found] = collector.collected
        assert (found.service, found.span.name) == ("control", "control")
        assert found.about == {"livevideo.session": "road-1", "livevideo.control_seq": 7}
        assert parsed(span.traceparent) == Trace(
            int(found.span.trace_id.hex(), 16), int(found.span.span_id.hex(), 16)
        )
        assert (found.span.start_time_unix_nano, found.span.end_time_unix_nano) == (15 * 10**8, 25 * 10**8)


async def test_controls_that_share_a_latent_are_linked_to_the_newest() -> None:
    mailbox = Mailbox(KEYS)
    others = [f"00-{digit * 32}-{digit * 16}-01" for digit in "456"]
    for seq, traceparent in enumerate([others[0], "", others[1]], 1):
        event = ControlEvent(seq=seq, keys=Keys(down=["left"]), traceparent=traceparent)
        mailbox.put(event, received_at_s=10.0 * seq, path_s=1.0, now_s=0.0)
    turn = mailbox.take()
    assert [(each.seq, each.arrived_at_s) for each in turn.traced] == [(1, 11.0), (3, 31.0)]
    assert mailbox.take().traced == ()
    with collecting() as collector:
        tracer = Tracer("engine", Tracing(collector.endpoint))
        made = Made(5, None, None, turn, 0.1, 0.5, 40.0, sessions=3)  # type: ignore[arg-type]
        goes_on = record_latent(tracer, Session(session_id="road-1"), made)
        await tracer.stop()
        latents = {
            each.about["livevideo.control_seq"]: each.span
            for each in collector.collected
            if each.span.name == "latent"
        }
        assert goes_on.split("-")[1:3] == [latents[3].trace_id.hex(), latents[3].span_id.hex()]
        assert latents[3].trace_id.hex() == "5" * 32
        assert not latents[3].links
        [link] = latents[1].links
        assert link.span_id == latents[3].span_id
        steps = [each for each in collector.collected if each.span.name == "step"]
        assert [each.about["livevideo.sessions"] for each in steps] == [3, 3]
        assert {each.span.start_time_unix_nano for each in steps} == {395 * 10**8}


async def test_a_call_s_lines_say_what_it_concerns(caplog: pytest.LogCaptureFixture) -> None:
    """In a task, as calls are: what it begins does not outlive it."""
    telemetry.concerns(session="nobody's")  # outside of a call
    log = telemetry.logger("control")
    with caplog.at_level("INFO", "services.control"):
        log.info("one")
        telemetry.begin_call()
        telemetry.concerns(session="road-1", epoch=1)
        telemetry.concerns(epoch=2)
        log.info("two", slot=3)
        log.info("three", session="road-2")
        telemetry.begin_call()
        telemetry.concerns(session=1_000_000 * "x")
        log.info("four")
    said = [record.fields for record in caplog.records]  # type: ignore[attr-defined]
    of_session = {"session": "road-1", "epoch": 2}
    assert said == [{}, {**of_session, "slot": 3}, {"session": "road-2", "epoch": 2}, {"session": 200 * "x"}]
