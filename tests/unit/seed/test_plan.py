"""What is pushed where, and how bytes are counted: pure parts of seeding."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from mxinstall.seed import plan_seed, threads
from mxinstall.seed.plan import probe_repository
from mxinstall.seed.record import SeedRecord, forget_seed_record, read_seed_record, write_seed_record
from mxinstall.seed.tally import Tally
from mxinstall.seed.threads import Stopped, together
from seedable import Content, two_images

from sitebundle.archive import BundleReader
from sitebundle.digest import Digest
from sitebundle.event_order import in_order
from sitebundle.events import Event, Progress, StageStarted
from sitebundle.manifest import BundleManifest
from sitebundle.reference import retention_tag


def manifest_of(content: Content, folder: Path) -> BundleManifest:
    with BundleReader.open(content.write(folder / "site.tar.zst")) as reader:
        return reader.manifest


def test_a_shared_layer_is_one_task_with_both_repositories(tmp_path: Path) -> None:
    content = two_images(1000)
    plan = plan_seed(manifest_of(content, tmp_path), "mx")
    shared = content.images[0].carried[0].layers[0]
    (task,) = [task for task in plan.blobs if task.digest == shared]
    assert task.repositories == ("mx/docker.io/library/two", "mx/ghcr.io/example/one")
    assert len({task.digest for task in plan.blobs}) == len(plan.blobs)
    sizes = [task.size for task in plan.blobs]
    assert sizes == sorted(sizes, reverse=True)


def test_children_come_before_the_index_that_lists_them(tmp_path: Path) -> None:
    content = two_images(1000)
    plan = plan_seed(manifest_of(content, tmp_path), "mx")
    indexed, plain = content.images
    order = [task.digest for task in plan.manifests]
    assert order.index(indexed.carried[0].digest) < order.index(indexed.digest)
    assert order.count(plain.digest) == 1
    tags = {task.digest: task.tags for task in plan.manifests}
    assert set(tags[indexed.digest]) == {"1.0", retention_tag(indexed.digest)}
    assert tags[indexed.carried[0].digest] == (retention_tag(indexed.carried[0].digest),)


def test_two_tags_of_one_image_are_one_manifest_with_both(tmp_path: Path) -> None:
    content = Content()
    layer = content.layer(1, 10)
    first = content.image("ghcr.io/example/one:1.0", [layer])
    content.images.append(first.model_copy(update={"reference": "ghcr.io/example/one:1"}))
    (top,) = plan_seed(manifest_of(content, tmp_path), "").tops
    assert top.repository == "ghcr.io/example/one"
    assert {"1", "1.0"} < set(top.tags)


def test_total_counts_each_byte_once(tmp_path: Path) -> None:
    content = two_images(1000)
    plan = plan_seed(manifest_of(content, tmp_path), "mx")
    assert plan.total_bytes == sum(map(len, content.layers.values())) + sum(map(len, content.small.values()))


@pytest.mark.parametrize(
    ("repository", "prefix", "expected"),
    [
        ("mx/ghcr.io/a/b", "mx", "mx/mx-preflight/ghcr.io/a/b"),
        ("a/b/ghcr.io/a/b", "a/b", "a/b/mx-preflight/ghcr.io/a/b"),
        ("ghcr.io/a/b", "", "mx-preflight/ghcr.io/a/b"),
    ],
)
def test_the_probe_image_has_a_place_of_its_own(repository: str, prefix: str, expected: str) -> None:
    assert probe_repository(repository, prefix) == expected


def test_progress_never_goes_backwards_or_beyond_whoever_reports() -> None:
    seen: list[Event] = []
    sink = in_order(seen.append)
    sink(StageStarted("seed", "Seed", 800))
    tally = Tally(sink, "seed", 800)
    digests = [Digest.of(bytes([number])) for number in range(8)]

    def report(digest: Digest) -> None:
        for _ in range(50):
            tally.add(digest, 7, 100)
        tally.complete(digest, 100)

    threads = [threading.Thread(target=report, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    last = seen[-1]
    assert isinstance(last, Progress)
    assert last.done_bytes == 800


def test_the_first_fault_ends_all_and_is_the_one_that_is_raised() -> None:
    stop, done = threading.Event(), []

    def work(number: int) -> int:
        if number == 1:
            raise KeyError(number)
        if number > 1 and stop.wait(10):
            raise Stopped
        done.append(number)
        return number

    with pytest.raises(KeyError):
        together(work, list(range(50)), 4, stop)
    assert done == [0]


def test_answers_come_in_the_order_of_the_things() -> None:
    assert together(lambda number: number * 2, [3, 1, 2], 3) == [6, 2, 4]
    assert together(lambda number: number * 2, list(range(500)), 8) == list(range(0, 1000, 2))
    assert together(lambda number: number * 2, [], 3) == []


def test_one_that_hangs_does_not_keep_the_fault_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "NOTICE_SECONDS", 0.1)
    held = threading.Event()

    def work(thing: str) -> None:
        if thing == "hangs":
            held.wait(60)
        raise KeyError(thing)

    began = time.monotonic()
    with pytest.raises(KeyError, match="fails"):
        together(work, ["hangs", "fails"], 2)
    assert time.monotonic() - began < 10
    held.set()


def test_a_record_is_forgotten_while_seeding_and_nothing_unreadable_counts(tmp_path: Path) -> None:
    record = SeedRecord("127.0.0.1:5000", "run-1", Digest.of(b"manifest"), 1.0)
    assert read_seed_record(tmp_path) is None
    write_seed_record(tmp_path, record)
    assert read_seed_record(tmp_path) == record
    (tmp_path / "seeded.json").write_text('{"registry": 1}')
    assert read_seed_record(tmp_path) is None
    forget_seed_record(tmp_path)
    forget_seed_record(tmp_path)
    assert not (tmp_path / "seeded.json").exists()
