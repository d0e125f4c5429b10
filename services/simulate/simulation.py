"""`Simulation`: one deployment, hour by hour. What the stores decide is decided by their own Lua."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from livevideo.v1.admin_pb2 import Quotas
from livevideo.v1.session_pb2 import Model, Session
from services.errors import EngineFull, NoEngine, Preempted, QueueFull, QuotaExceeded, SessionClosed
from services.sessions import scripts
from services.sessions.store import StoreLimits
from services.sessions.tenancy import Entrant
from services.sessions.tenants import TenantStore
from services.sessions.waiting import ALIVE_S, next_look_s
from services.simulate.agenda import Agenda
from services.simulate.demand import Clients, Player, players
from services.simulate.engines import Engines
from services.simulate.fleet import Replica, State
from services.simulate.oracle import least_gpu_hours
from services.simulate.policies import POLICIES
from services.simulate.scenario import Outcome, Scenario
from services.simulate.virtual import VirtualRedis, done, store_in

MODEL = "wan-1.3b"
# What is renewed each second while an engine lives never lapses; `Engines` says when it would have.
_FOREVER_S = 1e9
_NOTICE_S, _LEASE_S = 10.0, 30.0  # of *sessions*, by default
_MOST_WAITING, _MOST_OF_TENANT = 1000, 100
_LOST_AFTER_S = 0.8  # a latent is owed so long before its decoder has the seat moved


@dataclass(eq=False)
class _Stay:
    """A session that plays."""

    id: str
    player: Player
    entrant: Entrant
    replica: Replica
    epoch: int
    ends_s: float
    is_played: bool = True  # false while it looks for another engine


class Simulation:
    """`run` plays the scenario to its end; the same seed has the same outcome, to the last number."""

    def __init__(
        self, scenario: Scenario, seed: int, on_look: Callable[[list[Replica]], None] = lambda engines: None
    ) -> None:
        """on_look: called with all engines whenever the rule of scaling is asked, each 15 s."""
        self._scenario = scenario
        self._players_rng, self._rng = np.random.default_rng(seed).spawn(2)
        self._redis = VirtualRedis(POLICIES[scenario.policy])
        self._agenda = Agenda(self._redis)
        limits = StoreLimits(live_seat_s=_FOREVER_S, lease_s=_FOREVER_S, idle_s=_FOREVER_S)
        self._store = store_in(self._redis, limits)
        self._tenants = TenantStore(self._store)
        self._model = Model(name=MODEL, width_px=832, height_px=480, frames_per_second=24)
        self._outcome = Outcome()
        self._engines = Engines(
            scenario,
            self._outcome,
            self._agenda,
            self._redis,
            self._store,
            self._model,
            self._rng,
            on_drained=self._move_all,
            on_lost=self._resume_all,
            on_look=lambda: on_look([*self._engines.fleet.replicas.values()]),
        )
        self._entrants = [self._entrant(clients) for clients in scenario.demand.clients]
        self._ids = itertools.count()
        self._stays: dict[str, _Stay] = {}
        self._asking = 0
        self._told: set[bytes] = set()  # victims that have heard of their notice

    def run(self, on_hour: Callable[[], object] = lambda: None) -> Outcome:
        """on_hour: called after each hour that was simulated."""
        demand = self._scenario.demand
        for player in players(demand, self._players_rng):
            self._agenda.at(player.at_s, self._arrive, player, player.comebacks)
        self._engines.begin()
        self._agenda.at(3600.0, self._hour, on_hour)
        self._agenda.run(demand.ends_s)
        return self._finished()

    def _arrive(self, player: Player, comebacks: int) -> None:
        if comebacks == player.comebacks:
            self._outcome.came += 1
            self._asking += 1
        entrant = self._entrants[player.tenant]
        session_id = self._new_id()
        try:
            self._open(session_id, player, entrant)
        except (EngineFull, NoEngine, QuotaExceeded) as refusal:
            self._outcome.refused[refusal.reason] += 1
            if player.waits and isinstance(refusal, EngineFull):
                self._wait(
                    session_id, player, entrant, self._agenda.now_s, self._agenda.now_s + player.patience_s
                )
            elif comebacks:
                again_s = self._agenda.now_s + (refusal.retry_after_s or 5.0)
                self._agenda.at(again_s, self._arrive, player, comebacks - 1)
            else:
                self._give_up()

    def _wait(
        self, session_id: str, player: Player, entrant: Entrant, since_s: float, until_s: float
    ) -> None:
        """One look at the place in the queue, as `services.sessions.waiting` takes them."""
        if self._agenda.now_s >= until_s:
            done(self._tenants.quit(session_id, entrant))
            self._give_up()
            return
        try:
            position, _ = done(
                self._tenants.wait(
                    session_id, entrant, alive_s=ALIVE_S, most=_MOST_WAITING, most_of_tenant=_MOST_OF_TENANT
                )
            )
            if position == 0:
                try:
                    self._open(session_id, player, entrant)
                except (EngineFull, NoEngine):
                    pass
                else:
                    self._outcome.waited += 1
                    self._outcome.waited_s += self._agenda.now_s - since_s
                    return
        except (QueueFull, QuotaExceeded) as refusal:
            self._outcome.refused[refusal.reason] += 1
            self._give_up()
            return
        self._tell_victims()
        look_s = min(self._agenda.now_s + next_look_s(position), until_s)
        self._agenda.at(look_s, self._wait, session_id, player, entrant, since_s, until_s)

    def _give_up(self) -> None:
        self._outcome.gave_up += 1
        self._asking -= 1

    def _open(self, session_id: str, player: Player, entrant: Entrant) -> None:
        """Seats a player, who watches at once. Raises what *sessions* refuses it with."""
        self._engines.tell_slack()
        session = done(self._store.open(Session(model=self._model), entrant, session_id))
        replica = self._engines.fleet.known[session.replica]
        self._asking -= 1
        self._outcome.seated += 1
        stay = _Stay(session_id, player, entrant, replica, 0, self._agenda.now_s + player.plays_s)
        self._stays[session_id] = stay
        self._agenda.at(stay.ends_s, self._end, stay)
        if replica.state is State.GONE:  # its lease lives a little longer than it did
            stay.is_played = False
            self._count()
            self._agenda.after(_LOST_AFTER_S, self._resume, stay, replica, self._agenda.now_s)
            return
        self._claim(stay, replica, self._scenario.cost.opening_s)

    def _claim(self, stay: _Stay, replica: Replica, work_s: float) -> None:
        after = stay.epoch if stay.epoch else None
        stay.epoch = done(self._store.claim(stay.id, replica.name, after_epoch=after)).epoch
        self._tell_usage(stay, keep_s=_FOREVER_S)
        if stay.id not in self._stays:
            return
        replica.hold_up(work_s, self._agenda.now_s)
        replica.join(stay.id, self._agenda.now_s)
        stay.replica, stay.is_played = replica, True
        self._count()

    def _tell_usage(self, stay: _Stay, *, keep_s: float) -> None:
        """Where the tenant's quotas, or its rank, end the session, it is over."""
        try:
            done(
                self._tenants.meter(
                    stay.id, stay.entrant.tenant, stay.epoch, 0, keep_s=keep_s, notice_s=_NOTICE_S
                )
            )
        except (SessionClosed, QuotaExceeded) as end:
            self._outcome.preempted += isinstance(end, Preempted)
            self._depart(stay)

    def _tell_victims(self) -> None:
        """Who must give up its seat hears of it within a second, and goes when its notice has run out."""
        notices = f"{scripts.TAG}:model:{MODEL}:notices"
        if not self._redis.ask("HLEN", notices):
            self._told.clear()
            return
        told = self._redis.ask("HGETALL", notices)
        victims = set(told[::2])
        for victim in sorted(victims - self._told):
            stay = self._stays.get(victim.decode())
            if stay and stay.is_played:
                self._agenda.after(1.0, self._meter, stay)
                self._agenda.after(2.0 + _NOTICE_S, self._meter, stay)
        self._told = victims

    def _meter(self, stay: _Stay) -> None:
        if self._stays.get(stay.id) is stay and stay.is_played:
            self._tell_usage(stay, keep_s=_FOREVER_S)

    def _end(self, stay: _Stay) -> None:
        if self._stays.get(stay.id) is not stay:
            return
        if stay.player.vanishes and stay.is_played:
            self._tell_usage(stay, keep_s=_LEASE_S)
            done(self._store.release(stay.id, stay.epoch, _LEASE_S))
        else:
            done(self._store.end(stay.id, stay.entrant.tenant))
        if stay.id in self._stays:
            self._outcome.ended += 1
            self._depart(stay)

    def _depart(self, stay: _Stay) -> None:
        """It plays no more, for whatever reason."""
        if self._stays.pop(stay.id, None) is None:
            return
        if stay.id in stay.replica.sessions:
            stay.replica.leave(stay.id, self._agenda.now_s)
        self._engines.leave_if_empty(stay.replica)
        self._count()

    def _resume(self, stay: _Stay, lost: Replica, since_s: float) -> None:
        """Its engine is gone: the decoder asks for another, each second, until the lease is over."""
        if self._stays.get(stay.id) is not stay:
            return
        replica = self._place(stay, lost, is_planned=False)
        paused = (self._agenda.now_s - since_s) / self._scenario.cost.period_s
        if replica is not None:
            self._outcome.resumed += 1
            self._outcome.latents.due += paused
            self._outcome.latents.late += paused
            self._claim(stay, replica, self._scenario.cost.resuming_s if stay.epoch else 0.0)
        elif self._agenda.now_s - since_s < _LEASE_S:
            self._agenda.after(1.0, self._resume, stay, lost, since_s)
        else:
            self._outcome.lost += 1
            self._outcome.latents.due += paused
            self._outcome.latents.late += paused
            done(self._store.end(stay.id, stay.entrant.tenant))
            self._depart(stay)

    def _move_all(self, drained: Replica) -> None:
        for session_id in drained.sessions:
            self._agenda.after(self._rng.random(), self._move, self._stays[session_id], drained)

    def _resume_all(self, lost: Replica) -> None:
        for session_id in list(lost.sessions):
            stay = self._stays[session_id]
            lost.leave(session_id, self._agenda.now_s)
            stay.is_played = False
            after_s = _LOST_AFTER_S + 0.2 * self._rng.random()
            self._agenda.after(after_s, self._resume, stay, lost, self._agenda.now_s)
        self._count()

    def _move(self, stay: _Stay, drained: Replica) -> None:
        """Its engine drains: it is built up elsewhere first, and pauses for nothing."""
        if self._stays.get(stay.id) is not stay or stay.replica is not drained:
            return
        if drained.state is State.GONE:
            return
        replica = self._place(stay, drained, is_planned=True)
        if replica is None:
            self._agenda.after(1.0, self._move, stay, drained)
            return
        self._outcome.moved += 1
        drained.leave(stay.id, self._agenda.now_s)
        self._claim(stay, replica, self._scenario.cost.resuming_s)
        self._engines.leave_if_empty(drained)

    def _place(self, stay: _Stay, without: Replica, *, is_planned: bool) -> Replica | None:
        """Another engine for a session; None where there is no room."""
        self._engines.tell_slack()
        try:
            placed = done(
                self._store.place(stay.id, lost_epoch=stay.epoch, without=without.name, is_planned=is_planned)
            )
        except (EngineFull, NoEngine):
            return None
        return self._engines.fleet.replicas.get(placed.replica) if placed.replica != without.name else None

    def _hour(self, on_hour: Callable[[], object]) -> None:
        self._engines.announce()
        self._redis.sweep()
        on_hour()
        self._agenda.after(3600.0, self._hour, on_hour)

    def _count(self) -> None:
        playing = len(self._stays)
        self._outcome.highest_playing = max(self._outcome.highest_playing, playing)
        self._outcome.playing.append((self._agenda.now_s, playing))

    def _finished(self) -> Outcome:
        outcome, scenario = self._outcome, self._scenario
        outcome.still_asking, outcome.still_playing = self._asking, len(self._stays)
        self._engines.end()
        outcome.gpu_hours = self._engines.fleet.gpu_hours
        outcome.least_gpu_hours = least_gpu_hours(
            outcome.playing,
            seats=scenario.cost.seats(1.0),
            start_s=scenario.start_s,
            ends_s=scenario.demand.ends_s,
        )
        return outcome

    def _entrant(self, clients: Clients) -> Entrant:
        quotas = Quotas(priority=clients.priority, sessions=clients.sessions)
        made = done(self._tenants.add(clients.name, quotas, 0.0))
        return Entrant(clients.name, made.about.key_id, quotas)

    def _new_id(self) -> str:
        return f"{MODEL}-{next(self._ids):032x}"
