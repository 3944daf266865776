"""The clock of Redis was set back. The ids of a stream do not decrease, so all times of receipt are
ahead of the clock until it has caught up.
"""

from redis import Redis

from integration.writer.sending import Sender
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS

PASSWORD = b"p"


def test_the_window_keeps_no_segments_that_are_ahead_of_the_clock(
    writer: Writer, sender: Sender, redis: "Redis"
) -> None:
    """Otherwise, the index of a vault would grow until the clock has caught up."""
    shard = sender.shard(PASSWORD)
    cover, index = KEYS.hot_cover(shard), KEYS.hot_index(sender.vault(PASSWORD).vault_id.bytes)
    sender.send(PASSWORD)
    drain_all(writer)
    ahead = sender.backlog.now() + 3_600_000
    for number in range(2):
        sender.send_received(PASSWORD, ahead + number)
        drain_all(writer)
    assert redis.zcard(index) == 1
    assert not redis.exists(cover), "an outdated cover would be replaced again and again"
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1", "2"], "reads use Postgres"
    # A failover to a server whose clock was never ahead: later ids are lower.
    redis.delete(KEYS.stream(shard))
    sender.send(PASSWORD)
    drain_all(writer)
    assert redis.zcard(index) == 2
    assert redis.hget(cover, "since") == b"%d" % (ahead + 2)
