"""`Engines`: how they start, drain, fail and are replaced, and how *sessions* hears of it."""

from collections.abc import Callable

import numpy as np

from livevideo.v1.session_pb2 import AnnounceRequest, Model
from services.sessions import scripts
from services.sessions.store import SessionStore
from services.simulate.agenda import Agenda
from services.simulate.fleet import Fleet, Replica, State
from services.simulate.policies import SLACK
from services.simulate.scaling import SYNC_S, Autoscaler
from services.simulate.scenario import Outcome, Scenario
from services.simulate.virtual import VirtualRedis, done

_LEAVE_S = 20.0  # longest drain of an engine, by default


class Engines:
    """Of one deployment.

    on_drained: its sessions shall move. on_lost: it is gone, and whoever plays there has lost it.
    on_look: called whenever the rule of scaling is asked, each 15 s.
    """

    def __init__(
        self,
        scenario: Scenario,
        outcome: Outcome,
        agenda: Agenda,
        redis: VirtualRedis,
        store: SessionStore,
        model: Model,
        rng: np.random.Generator,
        *,
        on_drained: Callable[[Replica], None],
        on_lost: Callable[[Replica], None],
        on_look: Callable[[], None],
    ) -> None:
        self._scenario = scenario
        self._outcome = outcome
        self._agenda = agenda
        self._redis = redis
        self._store = store
        self._model = model
        self._rng = rng
        self._on_drained = on_drained
        self._on_lost = on_lost
        self._on_look = on_look
        self._replicas_key, _, self._seats_key, _, self._taken_key = scripts.placing_keys(model.name)
        self.fleet = Fleet(
            scenario.cost,
            outcome.latents,
            rng,
            node_gpus=scenario.node_gpus,
            speed_spread=scenario.speed_spread,
        )
        self._autoscaler = Autoscaler(scenario.scaling)
        self._missing = 0  # engines that failed and are not started again yet
        self._upgrading: list[Replica] = []
        self._upgrade_began_s = 0.0
        self._slack_ms: dict[str, int] = {}  # as engines told it

    def begin(self) -> None:
        """As many as the rule would have for those who will soon be there; and what is to come."""
        scenario, demand = self._scenario, self._scenario.demand
        soon = round(demand.rate_per_s(0) * demand.plays_s)
        wanted = scenario.scaling.wanted(soon, 0, soon / scenario.cost.seats(1.0))
        low, high = scenario.scaling.min_replicas, scenario.scaling.max_replicas
        for _ in range(min(max(low, round(wanted)), high)):
            self._serve(self.fleet.start(0.0))
        self._agenda.at(SYNC_S, self._scale)
        for hour in scenario.fails_at_h:
            self._agenda.at(3600 * (hour - demand.from_hour), self._fail_machine)
        if scenario.node_mtbf_h:
            self._agenda.at(self._until_failure_s(), self._fail_by_chance)
        if scenario.upgrade_at_h is not None:
            self._agenda.at(3600 * (scenario.upgrade_at_h - demand.from_hour), self._upgrade)

    def announce(self) -> None:
        """Those that serve, once more: Redis forgets what it has not heard of for a day."""
        for replica in self.fleet.of(State.SERVING):
            self._announce(replica, replica.seats)

    def end(self) -> None:
        """Their GPUs are paid until now."""
        for replica in list(self.fleet.replicas.values()):
            self.fleet.remove(replica, self._agenda.now_s)

    def tell_slack(self) -> None:
        """As engines would with each announcement, where the policy asks for it."""
        if self._scenario.policy != SLACK:
            return
        for replica in self.fleet.of(State.SERVING):
            slack_ms = round(1000 * replica.slack_s(self._agenda.now_s))
            if self._slack_ms.get(replica.name) != slack_ms:
                self._slack_ms[replica.name] = slack_ms
                self._redis.ask("HSET", f"{self._taken_key}:slack", replica.name, slack_ms)

    def _serve(self, replica: Replica) -> None:
        if replica.state is not State.STARTING:
            return
        replica.state, replica.ready_s = State.SERVING, self._agenda.now_s
        self._announce(replica, replica.seats)
        self._go_on_upgrading()

    def _announce(self, replica: Replica, slots: int) -> None:
        done(
            self._store.announce(
                AnnounceRequest(replica=replica.name, address=replica.address, model=self._model, slots=slots)
            )
        )

    def _start(self) -> None:
        self._agenda.after(self._scenario.start_s, self._serve, self.fleet.start(self._agenda.now_s))

    def _drain(self, replica: Replica) -> None:
        if replica.state is State.STARTING:
            self.fleet.remove(replica, self._agenda.now_s)
            return
        replica.state = State.DRAINING
        self._announce(replica, 0)
        self._on_drained(replica)
        self._agenda.after(_LEAVE_S, self._leave, replica)
        self.leave_if_empty(replica)

    def leave_if_empty(self, replica: Replica) -> None:
        if replica.state is State.DRAINING and not replica.sessions:
            self._leave(replica)

    def _leave(self, replica: Replica) -> None:
        if replica.state is not State.GONE:
            self.fleet.remove(replica, self._agenda.now_s)
            self._abandon(replica)
            self._go_on_upgrading()

    def _abandon(self, replica: Replica) -> None:
        """It is gone, with what is left of leases and seats that were renewed each second."""
        left_ms = round(self._redis.now_ms + 1000 * (2 + self._rng.random()))
        self._redis.ask("ZADD", self._replicas_key, left_ms, replica.name)
        for session_id in list(replica.sessions):
            self._redis.ask("ZADD", self._seats_key, left_ms, session_id)
        self._on_lost(replica)

    def _until_failure_s(self) -> float:
        nodes = -(-self._scenario.scaling.max_replicas // self._scenario.node_gpus)
        return self._agenda.now_s + float(self._rng.exponential(3600 * self._scenario.node_mtbf_h / nodes))

    def _fail_by_chance(self) -> None:
        self._fail_machine()
        self._agenda.at(self._until_failure_s(), self._fail_by_chance)

    def _fail_machine(self) -> None:
        """Everything on it is gone at once."""
        nodes = -(-self._scenario.scaling.max_replicas // self._scenario.node_gpus)
        node = int(self._rng.integers(nodes))
        there = [replica for replica in self.fleet.replicas.values() if replica.node == node]
        self._outcome.machines_failed += bool(there)
        for replica in there:
            was_leaving = replica.state is State.DRAINING
            self.fleet.remove(replica, self._agenda.now_s)
            self._abandon(replica)
            if not was_leaving:
                self._missing += 1
                self._agenda.after(self._scenario.repair_s, self._replace)
        self._go_on_upgrading()

    def _replace(self) -> None:
        if self._missing:  # or fewer are wanted by now
            self._missing -= 1
            self._start()

    def _scale(self) -> None:
        fleet, scaling = self.fleet, self._scenario.scaling
        serving = list(fleet.of(State.SERVING))
        playing = sum(len(replica.sessions) for replica in fleet.of(State.SERVING, State.DRAINING))
        seats = sum(replica.seats for replica in serving)
        free = sum(max(0, replica.seats - len(replica.sessions)) for replica in serving)
        current = len(serving) + fleet.count(State.STARTING) + self._missing
        self._outcome.seats.append((self._agenda.now_s, len(serving), seats))
        wanted = scaling.wanted(playing, free, len(serving)) if serving else float(current)
        shall = self._autoscaler.replicas(self._agenda.now_s, current, wanted)
        for _ in range(shall - current):
            self._start()
        for _ in range(current - shall):
            if self._missing:
                self._missing -= 1
            else:
                self._drain(fleet.first_to_go(self._agenda.now_s))
        self._on_look()
        self._agenda.after(SYNC_S, self._scale)

    def _upgrade(self) -> None:
        """Every engine that serves now is replaced; its GPU is needed for the one that comes after it."""
        self._upgrading = list(self.fleet.of(State.SERVING))
        self._upgrade_began_s = self._agenda.now_s
        self._go_on_upgrading()

    def _go_on_upgrading(self) -> None:
        while self._upgrading:
            away = self.fleet.count(State.STARTING, State.DRAINING)
            if away >= self._scenario.upgrade_at_once:
                return
            old = self._upgrading.pop()
            if old.state is State.SERVING:
                self._start()
                self._drain(old)
            serves_s = self._agenda.now_s + self._scenario.start_s
            self._outcome.upgrade_s = serves_s - self._upgrade_began_s
