"""Whose tile is next: fair between principals, between their groups, and never a starved one."""

import random
from collections import Counter, deque
from itertools import pairwise

import pytest

from lingshu_model.contracts import ArmRequest
from lingshu_model.engine.scheduler import SHORT_TURNS, TileScheduler
from lingshu_model.engine.work import Work

ARM = ArmRequest(checkpoint="toy", checkpoint_digest="", context={}, seed=0, n_cells=1, steps=1)


def work(tiles: int) -> Work:
    return Work(0, "", ARM, 8, deque(range(tiles)))


class Queue:
    """A scheduler, and the name of every arm in the order of its tiles."""

    def __init__(self) -> None:
        self.scheduler, self.names = TileScheduler(), dict[Work, str]()

    def add(self, name: str, tiles: int, principal: str = "me", group: str | None = None) -> Work:
        created = work(tiles)
        self.names[created] = name
        self.scheduler.add(principal, group or name, created)
        return created

    def take(self, count: int = 1_000_000) -> list[str]:
        taken: list[str] = []
        while len(taken) < count and (task := self.scheduler.take()):
            taken.append(self.names[task.work])
        return taken


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_every_tile_is_handed_out_once(queue: Queue):
    rng = random.Random(5)
    sizes = {f"arm{i}": rng.randint(1, 9) for i in range(60)}
    for name, size in sizes.items():
        queue.add(name, size, principal=rng.choice("abc"), group=rng.choice("xyz"))
    assert Counter(queue.take()) == sizes
    assert queue.take() == []


def test_a_few_cells_go_before_the_next_tile_of_a_large_job(queue: Queue):
    queue.add("large", 1563)  # 100,000 cells in tiles of 64
    assert queue.take(7) == ["large"] * 7
    queue.add("control", 1, group="small")
    queue.add("perturbed", 1, group="small")
    assert queue.take(3) == ["control", "perturbed", "large"]


def test_it_does_not_matter_after_how_many_tiles_they_come(queue: Queue):
    queue.add("large", 1000)
    for before in range(1, 12):
        queue.take(before)
        queue.add("small", 2)
        assert queue.take(2) == ["small", "small"]


def test_forty_small_requests_are_finished_one_by_one_and_the_large_one_goes_on(queue: Queue):
    queue.add("large", 1000)
    queue.take(1)
    for i in range(40):
        queue.add(f"small{i}", 4)
    order = queue.take(220)
    last = {name: i for i, name in enumerate(order)}
    ends = [last[f"small{i}"] for i in range(40)]
    assert ends == sorted(ends)
    assert ends[0] <= 6
    # The large one and those that came last have a quarter of the turns between them.
    assert ends[-1] <= 160 * (1 + 1 / SHORT_TURNS) + 2
    assert order[: ends[-1]].count("large") >= 1


def test_small_requests_without_end_do_not_stop_a_large_one(queue: Queue):
    queue.add("large", 1000)
    order: list[str] = []
    for i in range(400):
        if order[-1:] != ["large"]:
            queue.add(f"small{i}", 1)
        order += queue.take(1)
    turns = [i for i, name in enumerate(order) if name == "large"]
    assert all(later - earlier == SHORT_TURNS + 1 for earlier, later in pairwise(turns))
    assert len(turns) == 400 // (SHORT_TURNS + 1)


def test_every_waiting_request_gets_a_tile_in_turn(queue: Queue):
    for i in range(8):
        queue.add(f"large{i}", 500 + i)
    order = queue.take(8 * (SHORT_TURNS + 1))
    assert set(order) == {f"large{i}" for i in range(8)}


def test_principals_have_equal_shares_however_much_they_ask_for(queue: Queue):
    for i in range(50):
        queue.add(f"mine{i}", 20, principal="me")
    queue.add("yours", 300, principal="you")
    shares = Counter(name.rstrip("0123456789") for name in queue.take(600))
    assert shares == {"mine": 300, "yours": 300}


def test_coming_back_again_and_again_gives_a_principal_no_more_than_its_share(queue: Queue):
    queue.add("mine", 1000, principal="me")
    order: list[str] = []
    for i in range(100):
        queue.add(f"yours{i}", 1, principal="you")
        order += queue.take(1)
    assert order.count("mine") == 50


def test_a_new_principal_has_the_next_turn(queue: Queue):
    for name in ("a", "b", "c"):
        queue.add(name, 100, principal=name)
    queue.take(10)
    queue.add("new", 1, principal="new")
    assert queue.take(1) == ["new"]


def test_the_arms_of_a_screen_are_finished_in_the_order_they_came(queue: Queue):
    for i in range(26):
        queue.add(f"arm{i:02}", 4, group="screen")
    order = queue.take()
    assert order == sorted(order)


def test_an_arm_that_two_groups_want_is_computed_once_with_the_first_that_has_a_turn(queue: Queue):
    shared = queue.add("shared", 3, group="screen")
    queue.add("other", 300, group="screen")
    queue.scheduler.add("you", "alone", shared)
    assert Counter(queue.take())["shared"] == 3


def test_an_arm_behind_a_long_line_is_done_soon_for_whoever_wants_it_alone(queue: Queue):
    for i in range(100):
        queue.add(f"arm{i}", 10, group="screen")
    shared = queue.add("shared", 2, group="screen")
    queue.take(5)
    queue.scheduler.add("me", "alone", shared)
    assert queue.take(2) == ["shared", "shared"]


def test_an_arm_taken_out_of_one_group_stays_in_another(queue: Queue):
    shared = queue.add("shared", 2, group="a")
    queue.scheduler.add("me", "b", shared)
    queue.scheduler.discard("me", "a", shared)
    queue.scheduler.discard("me", "nobody", shared)
    queue.scheduler.discard("nobody", "a", shared)
    assert queue.take() == ["shared", "shared"]
    gone = queue.add("gone", 2, group="a")
    queue.scheduler.discard("me", "a", gone)
    assert queue.take() == []
