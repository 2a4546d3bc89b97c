"""Recovery: how an attempt of a request ends, what is lost with a replica or a link, and what is opened again. Pure.

It alone decides the one terminal event. Slots return, and a replay begins, when every replica of the Route has forgotten the
attempt, or died: nothing of an attempt is left anywhere when the next one begins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from omni_graph.admission import WaitingLine
from omni_graph.errors import REPLAYED, Code, request_error
from omni_graph.frames import GATEWAY, Close, LinkId, Report, Reset, Side
from omni_graph.gateway_mail import GatewayMail
from omni_graph.gateway_request import Ended, GatewayRequest, Released
from omni_graph.router import Router
from omni_graph.wedge import WedgeWatch

PROBATION_S = 1.0  # a poisonous request kills its replica by then, or is found by its retries
DEATHS = frozenset({Code.REPLICA_DIED, Code.STUCK})


@dataclass(frozen=True, slots=True)
class Loss:
    """Why an attempt cannot go on. ``ends``: both ends of a lost link, by name. ``counts``: it uses up a retry."""

    code: Code
    message: str
    stage: str
    ends: tuple[str, ...] = ()
    counts: bool = True

    def peer_of(self, name: str) -> str:
        """The other end of the lost link, where ``name`` is one; else empty."""
        return next((end for end in self.ends if end != name), "") if name in self.ends else ""


class Recovery:
    """``requests``: all that are not over, by name. ``old_links``: the Gateway's own, to be dropped at once."""

    def __init__(
        self,
        requests: dict[str, GatewayRequest],
        line: WaitingLine,
        router: Router,
        wedges: WedgeWatch,
        mail: GatewayMail,
    ) -> None:
        self.counts = {"completed": 0, "failed": 0, "cancelled": 0}
        self.old_links: list[LinkId] = []
        self._requests = requests
        self._line = line
        self._router = router
        self._wedges = wedges
        self._mail = mail

    # ---- ends

    def complete_if_done(self, one: GatewayRequest, now: float) -> None:
        """It has completed when every output was read or dropped."""
        if one.state == "open" and one.outputs.all_read:
            self.counts["completed"] += 1
            self._finish(one, Close(one.request, one.attempt), Ended(None, now - one.accepted_at), now)

    def end(self, one: GatewayRequest, code: Code, message: str, stage: str, now: float) -> None:
        """It ends now, whatever it was doing. Harmless after its end."""
        if one.state == "closing":
            return
        if one.state == "waiting":
            self._line.leave(one)
        self.counts["cancelled" if code is Code.CANCELLED else "failed"] += 1
        error = request_error(one.request, code, message, stage)
        reset = Reset(one.request, one.attempt, code, stage, message[:500])
        self._finish(one, reset, Ended(error, now - one.accepted_at), now)

    def _finish(self, one: GatewayRequest, word: Close | Reset, ended: Ended, now: float) -> None:
        """The one terminal event, and the word to every replica of the Route that has not heard it yet."""
        self._mail.tell(one.request, ended)
        if one.state != "resetting":
            one.closing = one.members
            for name in sorted(one.closing):
                self._mail.emit(LinkId(name, Side.CONTROL), word)
        one.state = "closing"
        one.forget_streams()
        self._release_if_closed(one, now)

    def closed(self, one: GatewayRequest, replica: str, now: float) -> None:
        """A replica has forgotten the attempt that ended."""
        one.closing.discard(replica)
        self._release_if_closed(one, now)

    def _release_if_closed(self, one: GatewayRequest, now: float) -> None:
        """Nobody holds anything of it any more: its slots are free. Whoever called goes on to admit."""
        over = self._requests.get(one.request) is not one
        if over or one.closing or one.state not in ("closing", "resetting"):
            return
        self._router.release(one.request)
        self._wedges.forget(one.request)
        if one.state == "resetting" and one.may_follow:
            one.faults += one.loss_counts
            one.state, one.route = "waiting", {}
            self._line.join(one)
            return
        if one.state == "resetting":
            self.counts["failed"] += 1
            self._mail.tell(one.request, Ended(one.failure, now - one.accepted_at))
        del self._requests[one.request]
        self._mail.tell(one.request, Released(one.timings, one.retries))

    # ---- losses

    def lose(self, one: GatewayRequest, loss: Loss, now: float) -> None:
        """Its attempt is lost: reset it everywhere. Once all have forgotten it, it is replayed while it has retries, and
        fails else: only then is it known whether a lost link was a death, and whose fault that was. What no other replica
        can mend ends it at once."""
        self._lose(one, loss, now)
        self._release_if_closed(one, now)

    def _lose(self, one: GatewayRequest, loss: Loss, now: float) -> None:
        if one.state != "open":
            self._know_better(one, loss)
        elif loss.code not in REPLAYED:
            self.end(one, loss.code, loss.message, loss.stage, now)
        else:
            self._reset(one, loss)

    def _know_better(self, one: GatewayRequest, loss: Loss) -> None:
        """The link was lost because a replica died."""
        if one.state == "resetting" and one.failure and one.failure.code is Code.LINK_LOST and loss.code in DEATHS:
            self._remember(one, loss)

    def _remember(self, one: GatewayRequest, loss: Loss) -> None:
        one.failure = request_error(one.request, loss.code, loss.message, loss.stage)
        one.loss_counts = loss.counts

    def _reset(self, one: GatewayRequest, loss: Loss) -> None:
        self._remember(one, loss)
        one.final = not one.may_move
        one.state = "resetting"
        one.closing = one.members
        for name in sorted(one.closing):
            word = Reset(one.request, one.attempt, Code.LINK_LOST, loss.stage, loss.message[:500], loss.peer_of(name))
            self._mail.emit(LinkId(name, Side.CONTROL), word)
        if one.final:
            one.forget_streams()
        else:
            one.rewind()

    def lose_link(self, link: LinkId, code: Code, reason: str, now: float) -> None:
        """A link of the Gateway's with a replica has ended."""
        self.old_links += self._lose_links([link], code, reason, now)[1:]

    def report(self, one: GatewayRequest, replica: str, told: Report, now: float) -> None:
        """One of its replicas has failed it, or lost a link: where that led to us, all that it had begun on with us goes."""
        stage = told.stage or stage_of(replica)
        if told.code is not Code.LINK_LOST:
            self.end(one, told.code, told.message, stage, now)
            return
        with_us = one.links_with(replica) if told.peer == GATEWAY else []
        message = f"link to {told.peer} lost: {told.message}"
        self.lose(one, Loss(told.code, message, stage, (replica, told.peer)), now)
        self.old_links += self._lose_links(with_us, Code.LINK_LOST, told.message, now)

    def _lose_links(self, first: Iterable[LinkId], code: Code, reason: str, now: float) -> list[LinkId]:
        """Whoever had begun on these links is lost; all links that are gone now: as in a replica (WorkerCore), those that
        such a request had begun on with the same peer go too."""
        gone = list(first)
        for link in gone:
            self._mail.forget(link)
            peer = link.peer
            loss = Loss(code, f"link to {peer} lost: {reason}", stage_of(peer), (GATEWAY, peer))
            for one in tuple(self._requests.values()):
                if one.state == "open" and link in one.links():
                    gone += [other for other in one.links_with(peer) if code in REPLAYED and other not in gone]
                    self.lose(one, loss, now)
                else:
                    one.outputs.unlink(link)
        return gone

    def lose_replica(self, name: str, code: Code, message: str, now: float) -> None:
        """A replica died, is stuck, or has left. Who held it to itself as a suspect has killed it, and not its company."""
        host, alone = stage_of(name), self._router.load_of(name)
        suspect = self._router.on_probation(name)
        for request in self._router.remove(name):
            one = self._requests[request]
            guilty = code in DEATHS and suspect in ("", request)
            held = one.state == "open" or name in one.closing
            one.route = {at: address for at, address in one.route.items() if address.name != name}
            one.closing.discard(name)
            self._lose(one, Loss(code, message, host, counts=guilty), now)
            if held and guilty:
                self._suspect(one, name, message, by_itself=suspect == request or alone == (request,))
            self._release_if_closed(one, now)

    def _suspect(self, one: GatewayRequest, name: str, message: str, *, by_itself: bool) -> None:
        """The second replica of one stage that died with it: from now on it is opened there on probation, with nobody else
        let in for a while. One that has killed the second by itself is poison."""
        host = stage_of(name)
        one.deaths[host] += 1
        if one.state != "resetting" or one.deaths[host] < 2:
            return
        one.probation.add(host)
        if by_itself:
            one.failure = request_error(one.request, Code.POISON, f"took down {name} by itself: {message}", host)
            one.final = True

    def acquit(self, one: GatewayRequest, now: float) -> None:
        """A suspect whose replica still lives after its probation is none."""
        if one.probation and one.state == "open" and now >= one.opened_at + PROBATION_S:
            one.probation.clear()
            self._router.share(one.request)


def stage_of(replica: str) -> str:
    """``thinker`` of ``thinker/0.2``."""
    return replica.partition("/")[0]
