"""The servers of one engine: which of them have the weights, and what becomes of one that dies."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from capo_lit.core.errors import EngineError
from capo_lit.engines.http.protocol import AttemptError
from capo_lit.engines.http.servers import Server, lend
from capo_lit.engines.servers.control import computes_with, healthy, load_files
from capo_lit.engines.servers.files import Pushed
from capo_lit.engines.servers.launch import OwnServer

log = logging.getLogger(__name__)

# Between two looks at a server that nobody complains of, and at one that starts; and while nobody is ready, seconds.
_LOOK_S, _START_LOOK_S, _WAIT_S = 2.0, 0.25, 0.05
_MOST_STARTS = 3  # in a row that bring no working server


@dataclass(eq=False, slots=True)
class Member:
    """One server.

    Attributes:
        server: how it is reached.
        own: its processes; None where others started it.
        up: whether it answers, as far as is known; where not, `keep` sees to it.
        ready: whether it has the weights that are wanted, as far as is known.
        doubted: set when somebody has seen it fail.
        failures: starts or pushes in a row that failed.
        error: the last of them.
        busy: held by whoever changes its weights.
        mark: another one after every start.
    """

    server: Server
    own: OwnServer | None = None
    up: bool = False
    ready: bool = False
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0
    error: str = ""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    mark: object = field(default_factory=object)

    @property
    def lost(self) -> bool:
        """Whether it is of no use to wait for it."""
        return self.own is not None and self.failures >= _MOST_STARTS

    def doubt(self) -> None:
        """Lend it no more until it was looked at."""
        self.ready = False
        self.doubted.set()


class Fleet:
    """Servers that are kept at one version of the weights; its coroutines run in the engine's session.

    Args:
        name: for errors.
        members: the servers.
        pushes: whether this process changes weights and starts what is its own; of several trainers, the first.
        slots: requests that one server computes at a time.
        timeout_s: of every wait.
    """

    def __init__(self, name: str, members: Sequence[Member], pushes: bool, slots: int, timeout_s: float) -> None:
        self._name, self.members, self._pushes, self._slots, self._timeout_s = name, members, pushes, slots, timeout_s
        self.weights: Pushed | None = None
        self.starts = 0
        self._homes: dict[tuple[int, ...], Member] = {}

    async def start(self) -> None:
        """Wait until all servers answer, and start those that are ours.

        Raises:
            EngineError: if one does not.
        """
        done = await asyncio.gather(*(self._up(member) for member in self.members), return_exceptions=True)
        for member, outcome in zip(self.members, done, strict=True):
            if isinstance(outcome, AttemptError):
                raise self._error(member, outcome.said)
            if isinstance(outcome, BaseException):
                raise outcome

    async def up(self) -> list[Member]:
        """The servers that answer, after ours that have died were started anew.

        Raises:
            EngineError: if none does.
        """
        done = await asyncio.gather(*(self._up(member) for member in self.members), return_exceptions=True)
        found = [member for member, outcome in zip(self.members, done, strict=True) if outcome is None]
        if not found:
            raise self._error(self.members[0], str(done[0]))
        return found

    async def push(self, weights: Pushed) -> None:
        """Bring all servers that are up to a version; the others get it when they are, while these work.

        Raises:
            EngineError: if no server has it within the deadline.
        """
        self.want(weights)
        await asyncio.gather(*(self._load(member) for member in self.members if member.up))
        await self.ready()

    def want(self, weights: Pushed) -> None:
        """From here on, only servers with these weights are lent."""
        self.weights = weights
        self._homes.clear()
        for member in self.members:
            member.ready, member.failures = False, 0

    async def keep(self, member: Member) -> None:
        """Look at a server for ever, and mend it when it has died."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(member.doubted.wait(), _LOOK_S)
            member.doubted.clear()
            weights = self.weights
            if weights is None or member.busy.locked() or member.lost:
                await asyncio.sleep(_START_LOOK_S)
                continue
            dead = member.own is not None and not member.own.alive
            good = member.up and not dead and await computes_with(member.server, weights.stamp)
            if self.weights is not weights or member.busy.locked():
                continue  # a push has come meanwhile
            member.ready = good
            if good or (member.up and not dead and weights.paths is None):
                continue  # in the latter case only the next push can help
            if self._pushes:
                await self._mend(member)
            else:
                member.up = await healthy(member.server)
                await asyncio.sleep(_START_LOOK_S)

    @contextmanager
    def lend(self, prompt: tuple[int, ...], among: Sequence[Member]) -> Iterator[Member]:
        """A server for one attempt.

        Rollouts of one prompt go to one server, whose cache then holds the prompt: the one with the least to do when
        the first of them comes. They spill over to others while it has no free slot.

        Args:
            prompt: its ids.
            among: servers that are ready.
        """
        home = self._homes.get(prompt)
        if home is not None and home not in among:
            del self._homes[prompt]
        free = home is not None and home in among and home.server.outstanding < self._slots
        by_server = {member.server: member for member in among}
        with lend(list(by_server), home.server if home is not None and free else None) as server:
            member = by_server[server]
            self._homes.setdefault(prompt, member)
            yield member

    async def ready(self) -> list[Member]:
        """The servers that have the weights; waits for one.

        Raises:
            EngineError: if there is none within the deadline.
        """
        end = time.monotonic() + self._timeout_s
        while True:
            if found := [member for member in self.members if member.ready]:
                return found
            if time.monotonic() > end or all(member.lost for member in self.members):
                raise self._error(self.members[0], self.members[0].error or f"none ready in {self._timeout_s:g} s")
            await asyncio.sleep(_WAIT_S)

    def stop(self) -> None:
        """End the servers that are ours."""
        for member in self.members:
            member.ready = False
            if member.own is not None:
                member.own.stop()

    async def _mend(self, member: Member) -> None:
        """One attempt to have a server up and at the wanted weights; what fails is noted, and tried again by `keep`."""
        log.warning("%s: %s has died or lost its weights; mending it", self._name, member.server.url)
        member.up = False  # a push that comes meanwhile leaves it alone
        try:
            await self._up(member)
        except (AttemptError, EngineError) as error:
            self._failed(member, error)
        else:
            await self._load(member)

    async def _load(self, member: Member) -> None:
        """One attempt to bring a server that is up to the wanted weights."""
        async with member.busy:
            weights = self.weights
            assert weights is not None
            try:
                if weights.paths is not None:
                    await load_files(member.server, weights.paths, weights.stamp, self._timeout_s)
                # Without files a server that was started anew has to wait for the next push.
                member.ready = weights.paths is not None or await computes_with(member.server, weights.stamp)
                member.failures, member.error = 0, ""
            except AttemptError as error:
                self._failed(member, error)

    def _failed(self, member: Member, error: AttemptError | EngineError) -> None:
        member.failures += 1
        member.error = error.said if isinstance(error, AttemptError) else str(error)
        member.up = member.ready = False
        member.doubted.set()
        log.warning("%s: %s: %s", self._name, member.server.url, member.error)
        if member.own is not None:
            # Half of its weights may be new: it cannot be mended but by a new start.
            member.own.stop()

    async def _up(self, member: Member) -> None:
        """Start a server that is ours and dead, and wait until it answers.

        Raises:
            AttemptError: if it does not within the deadline, or its processes end.
            EngineError: if it cannot be started.
        """
        own, end, started = member.own, time.monotonic() + self._timeout_s, False
        while True:
            if own is not None and not own.alive:
                if started:
                    raise AttemptError("connection", f"it ended while it started; the end of its log:\n{own.said()}")
                started, member.mark = True, object()
                self.starts += 1
                own.start()
            if await healthy(member.server):
                break
            if time.monotonic() > end:
                raise AttemptError("timeout", f"no healthy answer within {self._timeout_s:g} s")
            await asyncio.sleep(_START_LOOK_S)
        member.up = True

    def _error(self, member: Member, said: str) -> EngineError:
        where = member.own.name if member.own is not None else member.server.url
        change = "the server's log" if member.own is not None else "servers, or start it anew"
        return EngineError(f"no working server: {said}", "one that answers", f"{self._name}, {where}", change)
