"""A batch stays in the outbox until the service acknowledges the batch."""

from iot_tools.devices.outbox import Batch, Outbox


def test_batches_stay_in_order_until_removed() -> None:
    outbox = Outbox(capacity=100)
    first, second = Batch([{"n": 1}]), Batch([{"n": 2}, {"n": 3}])
    outbox.add(first)
    outbox.add(second)
    assert (outbox.first(), outbox.waiting) == (first, 3)
    assert outbox.first() is first
    outbox.remove_first()
    assert (outbox.first(), outbox.waiting) == (second, 2)
    outbox.remove_first()
    assert (outbox.first(), outbox.waiting, outbox.dropped) == (None, 0, 0)


def test_a_full_outbox_drops_and_counts_the_oldest() -> None:
    outbox = Outbox(capacity=3)
    batches = [Batch([{"n": n}, {"n": n}]) for n in range(3)]
    for batch in batches:
        outbox.add(batch)
    assert (outbox.first(), outbox.waiting, outbox.dropped) == (batches[2], 2, 4)


def test_each_batch_has_a_unique_key() -> None:
    assert Batch([]).key != Batch([]).key
