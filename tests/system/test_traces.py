"""A control that is traced is seen on its whole route; one that is not costs nothing, whatever is sent."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from aapt.checkpoint import Model, save
from livevideo.v1.control_pb2 import ControlEvent, Keys
from livevideo.v1.control_pb2_grpc import ControlServiceStub
from livevideo.v1.frame_pb2 import Frame
from livevideo.v1.session_pb2 import CloseRequest, GetRequest, Session
from livevideo.v1.session_pb2_grpc import SessionServiceStub
from services import telemetry, together
from services.traceparent import parsed
from services.tracing import Sampling, Tracing
from tests.services.collector import Collected, Collector, collecting
from tests.services.servers import free_port
from tests.system.conftest import DEADLINE_S, Client, Start

Connect = Callable[[together.Addresses], Client]

PARENTS = {
    "control": "",
    "store": "control",
    "latent": "store",
    "wait": "latent",
    "step": "latent",
    "frame": "latent",
    "decode": "frame",
    "encode": "frame",
    "send": "frame",
}
SERVICES = {"control": "control", "store": "sessions", "latent": "engine", "frame": "decoder"}
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
OWN = "00-" + 16 * "1a" + "-" + 8 * "2b" + "-01"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans are sent, and given up, sooner than they would be."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as started:
        yield started


@pytest.fixture
def checkpoint(model: Model, tmp_path: Path) -> Path:
    save(model, tmp_path / "small", {})
    return tmp_path / "small"


async def undisturbed(player: Client, traceparents: list[str]) -> tuple[Session, list[Frame]]:
    """A session that was played to its end in one seat, and its frames.

    On a busy machine an engine may be given up for hung; what it made and nobody saw is then made again.
    """
    while True:
        session = await player.open()
        first_span = f"{int(session.session_id[-8:], 16) | 1:016x}"  # of another trace each time
        shown = await played(player, [each and own(first_span) for each in traceparents], session)
        found = await SessionServiceStub(player.channel).Get(GetRequest(session_id=session.session_id))
        if found.epoch == 1:
            return session, shown


def own(span_id: str) -> str:
    """A traceparent of the client's."""
    return f"00-{2 * span_id}-{span_id}-01"


async def played(
    player: Client, traceparents: list[str], session: Session | None = None, frames: int = 41
) -> list[Frame]:
    """The frames of a session that is sent a control every 8 of them, with the next of `traceparents`."""
    session, due = session or await player.open(), asyncio.Queue[int]()

    async def events() -> AsyncIterator[ControlEvent]:
        for seq, traceparent in enumerate(traceparents, 1):
            await due.get()
            down = Keys(down=["up"] if seq % 2 else [])
            yield ControlEvent(session_id=session.session_id, seq=seq, keys=down, traceparent=traceparent)
        await asyncio.Event().wait()

    async def send() -> None:
        async for receipt in ControlServiceStub(player.channel).Send(events()):
            player.receipts.append(receipt)

    sending = asyncio.create_task(send())
    shown: list[Frame] = []
    sent = 0
    async with asyncio.timeout(DEADLINE_S), aclosing(player.watch(session)) as watching:
        async for frame in watching:
            shown.append(frame)
            # Each once the last one is obeyed: two that share a latent share what comes behind it.
            if frame.index % 8 == 0 and frame.control_seq == sent < len(traceparents):
                sent += 1
                due.put_nowait(frame.index)
            if frame.index >= frames and frame.control_seq >= len(traceparents):
                break
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return shown


def page(port: int, headers: dict[str, str]) -> str:
    with urlopen(Request(f"http://127.0.0.1:{port}/metrics", headers=headers), timeout=20) as answer:
        return str(answer.read().decode())


def check_route(spans: list[Collected], root_parent: bytes) -> None:
    """One of each, each hung on the right one, at times that can be."""
    by_name = {each.span.name: each for each in spans}
    assert sorted(each.span.name for each in spans) == sorted(PARENTS)
    for name, parent in PARENTS.items():
        found = by_name[name].span
        hung_on = by_name[parent].span.span_id if parent else root_parent
        assert found.parent_span_id == hung_on, name
        assert found.start_time_unix_nano <= found.end_time_unix_nano, name
        if parent:
            assert found.start_time_unix_nano >= by_name[parent].span.start_time_unix_nano, name
    for name, service in SERVICES.items():
        assert by_name[name].service == service
    order = ["control", "store", "wait", "step", "decode", "encode", "send"]
    begins = [by_name[name].span.start_time_unix_nano for name in order]
    assert begins == sorted(begins)
    assert by_name["send"].span.end_time_unix_nano - begins[0] < DEADLINE_S * 1e9


async def test_a_control_is_one_trace_through_all_services(
    start: Start, client: Connect, checkpoint: Path, collector: Collector
) -> None:
    metrics_port = free_port()
    tracing = Tracing(collector.endpoint)
    addresses = await start(
        checkpoint=checkpoint, metrics_port=metrics_port, tracing=tracing, sampling=Sampling(1.0)
    )
    session, shown = await undisturbed(client(addresses), [OWN, "", "", ""])
    traced = [trace for frame in shown if (trace := parsed(frame.traceparent))]
    assert len(traced) == 4
    ids = [f"{trace.trace_id:032x}" for trace in traced]
    assert len(set(ids)) == 4
    await collector.until(lambda: all(len(collector.trace(each)) == len(PARENTS) for each in ids))
    assert ids[0] == 2 * ids[0][:16]  # the client's own
    check_route(collector.trace(ids[0]), bytes.fromhex(ids[0][:16]))
    for seq, each in enumerate(ids[1:], 2):
        spans = collector.trace(each)
        check_route(spans, b"")
        for found in spans:
            about = found.about
            assert about["livevideo.tenant"] == "default"
            assert about["livevideo.control_seq"] == seq
            assert about["livevideo.session"] == session.session_id
            assert about["livevideo.model"] == session.model.name
        of_latent = next(found.about for found in spans if found.span.name == "latent")
        assert of_latent["livevideo.epoch"] == 1
        frame = next(frame for frame in shown if each in frame.traceparent)
        assert of_latent["livevideo.index"] == (frame.index + 3) // 4
    text = await asyncio.to_thread(page, metrics_port, OPENMETRICS)
    known = {
        (family.name, sample.exemplar.labels["trace_id"])
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    }
    for name in ("control_to_frame_seconds", "stage_seconds", "step_seconds"):
        assert any((name, each) in known for each in ids), name
    assert "trace_id" not in await asyncio.to_thread(page, metrics_port, {})


async def test_without_sampling_nothing_is_traced_even_where_a_client_traces(
    start: Start, client: Connect, checkpoint: Path, collector: Collector
) -> None:
    addresses = await start(checkpoint=checkpoint, tracing=Tracing(collector.endpoint))
    shown = await played(client(addresses), [OWN, OWN])
    assert {frame.traceparent for frame in shown} == {""}
    await asyncio.sleep(0.3)
    assert collector.collected == []


async def test_a_hostile_traceparent_does_no_harm(
    start: Start, client: Connect, checkpoint: Path, collector: Collector
) -> None:
    addresses = await start(
        checkpoint=checkpoint, tracing=Tracing(collector.endpoint), sampling=Sampling(1e-12)
    )
    player = client(addresses)
    huge = OWN + 8192 * "-x"
    hostile = [huge, "nonsense", OWN.replace("1a", "00"), OWN[:-1], "\0", OWN.replace("01", "00")]
    shown = await played(player, hostile)
    assert [receipt.seq for receipt in player.receipts if receipt.HasField("accepted")] == [1, 2, 3, 4, 5, 6]
    assert {frame.traceparent for frame in shown} == {""}
    assert collector.collected == []


async def test_a_collector_that_is_away_costs_spans_and_no_frame(
    start: Start, client: Connect, checkpoint: Path
) -> None:
    gone = Tracing(f"http://127.0.0.1:{free_port()}")
    addresses = await start(checkpoint=checkpoint, tracing=gone, sampling=Sampling(1.0))
    player = client(addresses)
    dropped = telemetry.SPANS_DROPPED.labels("engine")._value
    before = dropped.get()
    shown = await played(player, ["", "", ""])
    assert [frame.index for frame in shown] == list(range(len(shown)))
    assert len([frame for frame in shown if frame.traceparent]) >= 3
    await Collector().until(lambda: dropped.get() >= before + 9)


async def test_every_line_about_a_session_says_whose_it_is(
    start: Start, client: Connect, checkpoint: Path, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    addresses = await start(
        checkpoint=checkpoint, tracing=Tracing(collector.endpoint), sampling=Sampling(1.0)
    )
    player = client(addresses)
    session, shown = await undisturbed(player, [""])
    await SessionServiceStub(player.channel).Close(CloseRequest(session_id=session.session_id))

    def lines() -> dict[str, dict[str, Any]]:
        """What is said of this session, by event."""
        said = [(record.message, getattr(record, "fields", {})) for record in caplog.records]
        return {event: fields for event, fields in said if fields.get("session") == session.session_id}

    opened = ("session opened", "session closed")  # by whom no engine is asked, or none has been yet
    seated = ("session claimed", "session seated", "session left", "watch began", "watch ended")
    await collector.until(lambda: {*opened, *seated, "control traced"} <= {*lines()})
    for event in (*opened, *seated, "control traced"):
        assert lines()[event]["tenant"] == "default", event
    for event in ("session claimed", "session seated", "session left", "watch ended"):
        assert lines()[event]["epoch"] == 1, event
    [traceparent] = {frame.traceparent for frame in shown} - {""}
    assert lines()["control traced"]["trace_id"] in traceparent
    assert lines()["control traced"]["seq"] == 1
    of_nobody = [getattr(each, "fields", {}) for each in caplog.records if each.message == "service started"]
    assert of_nobody
    assert not any("session" in fields for fields in of_nobody)
