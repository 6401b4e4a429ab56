"""What the ranks of an engine keep in the store that they share."""

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore

from lingshu_model.engine.ranks import STOPS, RankGroup


def test_stopped_works_are_known_and_those_of_long_ago_are_deleted():
    shared = dist.HashStore()
    store = PrefixStore("engine", shared)
    first, other = (RankGroup(rank, 2, None, store) for rank in (0, 1))
    before = shared.num_keys()
    for serial in range(1, STOPS + 51):
        first.stop(serial)
        assert other.stopped(serial)
    assert shared.num_keys() - before == STOPS
    assert not other.stopped(50)
    assert other.stopped(51)
