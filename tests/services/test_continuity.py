"""A picture that does not move as promised is counted once, and against whose doing it was."""

import asyncio
import contextlib
import math

import grpc
import pytest
from prometheus_client import REGISTRY

from livevideo.v1.session_pb2 import Model, Session
from services import errors, telemetry
from services.decoder.continuity import Continuity
from services.decoder.outcome import outcome, viewing
from services.sessions.brake import Brake
from services.sessions.openings import Openings

PERIOD_S = 1 / 24


def counted(name: str, session: Session, **labels: str) -> float:
    return (
        REGISTRY.get_sample_value(name, {"tenant": session.tenant, "model": session.model.name, **labels})
        or 0.0
    )


@pytest.fixture
def session(request: pytest.FixtureRequest) -> Session:
    """With a tenant of its own, so that its metrics are."""
    return Session(tenant=f"t{abs(hash(request.node.name))}", model=Model(name="road", frames_per_second=24))


def played(session: Session, *, credit_at_s: float = 0.0) -> Continuity:
    """A first frame at 0.5 s and three more in time; latents up to 1 are credited from the start."""
    watched = Continuity(session, asked_at_s=0.0)
    watched.allowed(2, -math.inf)
    watched.allowed(5, credit_at_s)
    for index in range(4):
        watched.sent(index, 0.0, 0.5 + index * PERIOD_S)
    return watched


def test_a_new_session_counts_its_first_frame_and_what_it_plays(session: Session) -> None:
    played(session)
    assert counted("first_frame_seconds_count", session) == 1
    assert counted("first_frame_seconds_sum", session) == pytest.approx(0.5)
    assert counted("frames_total", session, timing="on_time") == 4
    assert counted("played_seconds_total", session) == pytest.approx(4 * PERIOD_S)
    assert counted("stalled_seconds_total", session) == 0


def test_a_session_that_was_played_before_has_no_first_frame(session: Session) -> None:
    session.epoch = 1
    played(session)
    assert counted("first_frame_seconds_count", session) == 0


def test_a_frame_later_than_one_period_is_late_and_the_rest_is_stall(session: Session) -> None:
    watched = played(session)
    watched.sent(4, 0.9 * PERIOD_S, 1.0)
    watched.sent(5, PERIOD_S + 2.0, 3.0)
    assert counted("frames_total", session, timing="late") == 1
    assert counted("stalled_seconds_total", session) == pytest.approx(2.0)


def test_what_comes_late_for_want_of_credit_is_the_viewers(session: Session) -> None:
    watched = played(session, credit_at_s=3.0)
    watched.sent(5, 2.5, 3.2)  # latent 2, due at 0.7 s, let at 3.0 s
    watched.obeyed(5, 2.6, due_s=0.7)
    assert counted("frames_total", session, timing="held_up") == 1
    assert counted("stalled_seconds_total", session) == 0
    assert counted("control_to_frame_seconds_count", session) == 0


def test_a_viewing_that_breaks_off_has_stood_still_since_its_last_frame(session: Session) -> None:
    watched = played(session)
    watched.broken(0.5 + 3 * PERIOD_S + 5.0)
    assert counted("stalled_seconds_total", session) == pytest.approx(5.0 - PERIOD_S)


def test_a_viewer_that_comes_back_has_stood_still_until_its_next_frame(session: Session) -> None:
    session.epoch = 1
    back = Continuity(session, asked_at_s=10.0, from_frame=41)
    back.sent(41, 0.0, 10.5)
    assert counted("stalled_seconds_total", session) == pytest.approx(0.5 - PERIOD_S)
    assert counted("first_frame_seconds_count", session) == 0
    Continuity(session, asked_at_s=20.0, from_frame=42).broken(21.0)
    assert counted("stalled_seconds_total", session) == pytest.approx(1.5 - 2 * PERIOD_S)


def test_a_viewer_that_leaves_while_frames_flow_has_not_stood_still(session: Session) -> None:
    watched = played(session)
    watched.broken(0.5 + 3.5 * PERIOD_S)
    assert counted("stalled_seconds_total", session) == 0


@pytest.mark.parametrize(
    ("error", "became"),
    [
        (None, "ended"),
        (errors.TimeUp("its minutes are used"), "ended"),
        (errors.ServiceStopping("it stops"), "moved"),
        (errors.ViewerGone("no frame was read"), "left"),
        (errors.Superseded("another viewer came"), "left"),
        (asyncio.CancelledError(), "left"),
        (errors.NoEngine("there is none"), "failed"),
        (errors.DecoderFull("no room"), "failed"),
        (RuntimeError("nobody foresaw this"), "failed"),
    ],
)
def test_a_viewing_ends_as_its_player_would_call_it(
    error: BaseException | None, became: str, session: Session
) -> None:
    assert outcome(error) == became
    before = counted("session_outcomes_total", session, outcome=became)
    expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with expected, viewing(session):
        if error is not None:
            raise error
    assert counted("session_outcomes_total", session, outcome=became) == before + 1


async def refused(openings: Openings, model: str, tenant: str, refusal: errors.ServiceError) -> None:
    with contextlib.suppress(errors.ServiceError):
        async with openings.deciding(model) as opening:
            opening.tenant = tenant
            raise refusal


async def test_only_want_of_a_service_is_counted_against_it() -> None:
    openings, session = Openings(Brake(10.0)), Session(tenant="of-openings", model=Model(name="road"))
    async with openings.deciding("") as opening:
        opening.tenant, opening.model = session.tenant, "road"
    for refusal in (errors.NoEngine("there is none"), errors.EngineFull("all seats are taken")):
        await refused(openings, "", session.tenant, refusal)
    assert counted("session_outcomes_total", session, outcome="opened") == 1
    assert counted("session_outcomes_total", session, outcome="not_opened") == 1


async def test_a_service_that_stops_breaks_no_promise_and_is_told_at_once() -> None:
    openings, session = Openings(Brake(0.1)), Session(tenant="of-stops", model=Model(name="road"))
    async with openings.deciding("") as opening:
        opening.tenant, opening.model = session.tenant, "road"
    async with asyncio.timeout(60):  # a brake that tells one in ten seconds would hold back the second one
        for _ in range(50):
            await refused(openings, "", session.tenant, errors.ServiceStopping("it stops"))
    assert counted("session_outcomes_total", session, outcome="not_opened") == 0


async def test_who_does_not_wait_for_the_decision_was_not_opened() -> None:
    def seen(outcome: str) -> float:
        return REGISTRY.get_sample_value("admission_seconds_count", {"outcome": outcome}) or 0.0

    opened, left = seen("opened"), seen("left")
    with contextlib.suppress(asyncio.CancelledError):
        async with Openings(Brake(10.0)).deciding("road"):
            raise asyncio.CancelledError
    assert (seen("opened"), seen("left")) == (opened, left + 1)


async def test_a_model_that_was_never_opened_gets_no_series_of_its_own() -> None:
    await refused(Openings(Brake(10.0)), "made-up", "of-names", errors.NoEngine("there is none"))
    labels = {"tenant": "of-names", "model": "made-up", "outcome": "not_opened"}
    assert REGISTRY.get_sample_value("session_outcomes_total", labels) is None


def test_a_tenant_costs_few_series(session: Session) -> None:
    """A page for a hundred tenants must not take long to write."""
    played(session).obeyed(2, 0.2, due_s=1.0)
    samples = [sample for family in REGISTRY.collect() for sample in family.samples]
    assert 10 < len([sample for sample in samples if sample.labels.get("tenant") == session.tenant]) < 50


def test_beyond_a_hundred_tenants_all_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_tenants", set())
    names = [telemetry.tenant_label(f"tenant-{i}") for i in range(102)]
    assert names[99] == "tenant-99"
    assert names[100:] == ["other", "other"]
    assert telemetry.tenant_label("tenant-7") == "tenant-7"


def test_a_call_that_was_cancelled_elsewhere_was_left() -> None:
    metadata = grpc.aio.Metadata()
    cancelled = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, metadata, metadata)
    assert outcome(cancelled) == "left"
