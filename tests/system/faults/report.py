"""The report: a table of the faults, the counts of readings, and the verdict."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from system.faults.account import Judgement, Request
from system.faults.kinds import KINDS
from system.faults.recovery import LIMIT_SECONDS, Recovery

_ALLOWED = {201, 429, 503, 0}
"""Statuses of responses; 0: no response. On a slow machine, so many of the devices, which share one
address, may wait for a scrypt that one of them is answered 429 (`MAX_WAITING_PER_CLIENT`).
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a run."""

    planned: int
    recoveries: Sequence[Recovery]
    requests: Sequence[Request]
    judgement: Judgement
    left_over: dict[str, int]
    drained_seconds: float
    failures: Sequence[str]
    """Failures of the harness."""
    alerts: Sequence[str] = ()
    """Alerts that fired in Prometheus when a fault had to make them fire."""

    def problems(self) -> list[str]:
        """Return the reasons why the run failed, empty if it passed."""
        found = list(self.failures)
        for what, count in (*self.judgement.faults().items(), *self.left_over.items()):
            if count:
                found.append(f"{what}: {count:,}")
        found += self.judgement.examples
        for status, count in sorted(Counter(each.status for each in self.requests).items()):
            if status not in _ALLOWED:
                found.append(f"answers with status {status}: {count}")
        if len(self.recoveries) != self.planned:
            found.append(f"{self.planned} faults were planned, {len(self.recoveries)} were done")
        found += [_late(each) for each in self.recoveries if not each.in_time]
        return found


def show(outcome: Outcome) -> None:
    """Print the table."""
    _show_recoveries(outcome.recoveries)
    print()
    _show_requests(outcome.requests)
    _show_silence(outcome.requests, outcome.recoveries)
    judgement = outcome.judgement
    print(
        f"readings: {judgement.sent:,} sent, {judgement.acknowledged:,} acknowledged, "
        f"{judgement.stored:,} stored\n         "
        + ", ".join(f"{count:,} {what}" for what, count in judgement.faults().items())
        + f"\nbacklog empty {outcome.drained_seconds:.1f} s after the last request; "
        + ", ".join(f"{count:,} {what}" for what, count in outcome.left_over.items())
        + f"\nalerts that fired: {', '.join(outcome.alerts) or 'none'}"
    )


def _show_recoveries(recoveries: Sequence[Recovery]) -> None:
    print("Seconds from a fault's end until ...")
    print(f"{'':38}{'':>7}{'first 201':>16}{'first commit':>16}{'every shard':>16}")
    print(f"{'fault':38}{'number':>7}" + f"{'p50':>9}{'max':>7}" * 3)
    for kind in KINDS:
        of_kind = [each for each in recoveries if each.done.kind is kind]
        if of_kind:
            print(f"{kind.name:38}{_figures(of_kind)}")
    if recoveries:
        print(f"{'all':38}{_figures(recoveries)}")
        longest = max(each.longest for each in recoveries)
        print(f"(without the time of other faults; the longest with that time is {longest:.1f} s)")


def _figures(recoveries: Sequence[Recovery]) -> str:
    columns = (
        [each.acknowledged for each in recoveries],
        [each.committed for each in recoveries],
        [each.every_shard for each in recoveries],
    )
    return f"{len(recoveries):7}" + "".join(
        f"{statistics.median(column):9.2f}{max(column):7.2f}" for column in columns
    )


def _show_requests(requests: Sequence[Request]) -> None:
    statuses = Counter(each.status for each in requests)
    unanswered = statuses.pop(0, 0)
    repeated = sum(each.attempts - 1 for each in requests)
    said = [f"{count:,} answered {status}" for status, count in sorted(statuses.items())]
    print(
        f"requests: {len(requests):,}: {', '.join(said)}, {unanswered:,} without an answer", end=""
    )
    print(f", {repeated:,} repeats" if repeated else "")
    slowest = max((each.answered_at - each.sent_at for each in requests), default=0.0)
    print(f"          slowest answer or repeated answer {slowest:.1f} s")


def _show_silence(requests: Sequence[Request], recoveries: Sequence[Recovery]) -> None:
    """Print the longest time without a 201, and the faults of that time."""
    moments = sorted(each.answered_at for each in requests if each.acknowledged)
    gaps = ((later - one, one, later) for one, later in pairwise(moments))
    seconds, begin, end = max(gaps, default=(0.0, 0.0, 0.0))
    faults = [each.done for each in recoveries]
    meanwhile = [
        f"{each.kind.name} for {each.ended - each.began:.1f} s"
        for each in sorted(faults, key=lambda each: each.began)
        if each.began < end and each.ended > begin - 1
    ]
    print(f"          longest time without a 201 {seconds:.1f} s; then: {', '.join(meanwhile)}")


def _late(recovery: Recovery) -> str:
    done = recovery.done
    return (
        f"fault {done.number} ({done.kind.name}): recovery over {LIMIT_SECONDS:g} s: "
        f"first 201 {recovery.acknowledged:.1f}, first commit {recovery.committed:.1f}, "
        f"every shard {recovery.every_shard:.1f}"
    )
