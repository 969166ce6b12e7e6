"""The summary says on one screen what happens; the details name every object."""

from __future__ import annotations

from mxinstall.deploy.inventory import Deployed
from mxinstall.outlook import FieldChange, ObjectChange, Outlook, Restart, details, summary
from mxinstall.outlook.model import Expectation


def outlook(objects: int = 3) -> Outlook:
    made = tuple(ObjectChange(Deployed("v1", "ConfigMap", "matrix", f"c-{n}"), "create") for n in range(objects))
    changed = ObjectChange(
        Deployed("apps/v1", "StatefulSet", "matrix", "main"), "change", (FieldChange("spec.replicas", "1", "2"),)
    )
    return Outlook(
        generation=8,
        bytes_to_move=12_300_000,
        images_missing=("ghcr.io/a/b:1",),
        images=24,
        objects={"synapse": (*made, changed)},
        restarts=tuple(Restart(f"StatefulSet/matrix/w-{n}", 2, "one after the other") for n in range(objects)),
        durations=(Expectation("seed", 3.0, "10 MB/s"), Expectation("proof", None, "this site has not done it yet")),
        for_good=("generations before 8 are refused at this site from now on",),
        around={"namespaces": (), "secrets": ("matrix/a",)},
    )


def test_a_summary_says_bytes_objects_pods_time_and_what_is_for_good() -> None:
    said = summary(outlook())
    for part in (
        "12.3 MB",
        "1 of 24 images missing",
        "make 3, change 1",
        "6 that run now end",
        "3 s",
        "proof",
        "for good",
    ):
        assert part in said, said


def test_a_summary_of_a_large_change_fits_one_screen() -> None:
    assert len(summary(outlook(500)).splitlines()) < 24


def test_details_name_every_object_and_field_and_where_seconds_come_from() -> None:
    said = details(outlook(500))
    assert "+ ConfigMap/matrix/c-499" in said
    assert "~ spec.replicas: 1 -> 2" in said
    assert "StatefulSet/matrix/w-499" in said
    assert "this site has not done it yet" in said


def test_nothing_to_do_is_one_line() -> None:
    empty = Outlook(8, 0, (), 24, {}, (), (), (), {"secrets": ()})
    assert summary(empty) == "generation 8: nothing to do"
    assert details(empty) == "generation 8: nothing to do"
