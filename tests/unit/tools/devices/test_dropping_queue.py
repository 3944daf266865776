"""A batch stays in the queue until the service acknowledges the batch."""

from iot_tools.devices.dropping_queue import Batch, DroppingQueue


def test_batches_stay_in_order_until_removed() -> None:
    queue = DroppingQueue(capacity=100)
    first, second = Batch([{"n": 1}]), Batch([{"n": 2}, {"n": 3}])
    queue.add(first)
    queue.add(second)
    assert (queue.first(), queue.waiting) == (first, 3)
    assert queue.first() is first
    queue.remove_first()
    assert (queue.first(), queue.waiting) == (second, 2)
    queue.remove_first()
    assert (queue.first(), queue.waiting, queue.dropped) == (None, 0, 0)


def test_a_full_outbox_drops_and_counts_the_oldest() -> None:
    queue = DroppingQueue(capacity=3)
    batches = [Batch([{"n": n}, {"n": n}]) for n in range(3)]
    for batch in batches:
        queue.add(batch)
    assert (queue.first(), queue.waiting, queue.dropped) == (batches[2], 2, 4)


def test_each_batch_has_a_unique_key() -> None:
    assert Batch([]).key != Batch([]).key
