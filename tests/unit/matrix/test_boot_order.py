"""The order in which a site is started is by chance, and its seed tells it again."""

from __future__ import annotations

import random

from tests.matrix.failures import BOOT_SECONDS, boot_delays

NAMES = ["cp", "n1", "n2", "n3", "registry"]


def test_a_seed_tells_the_order_again_whatever_the_order_of_names() -> None:
    first = boot_delays(random.Random(7), NAMES)
    assert boot_delays(random.Random(7), NAMES[::-1]) == first
    assert sorted(first) == NAMES
    assert sorted(first.values()) == [BOOT_SECONDS * place for place in range(5)]


def test_other_seeds_start_other_machines_first() -> None:
    starts = [boot_delays(random.Random(seed), NAMES) for seed in range(60)]
    assert {min(delays, key=delays.__getitem__) for delays in starts} == set(NAMES)
