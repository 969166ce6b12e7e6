"""`verify --live`: the proof of the system that runs at a site, and the file that says what came of it."""

from __future__ import annotations

import json
from pathlib import Path

from mxinstall.cluster import Cluster
from mxinstall.proof import ProofReport, context_of, run
from mxinstall.site import Site
from sitebundle.events import Sink


def verify_live(
    cluster: Cluster, site: Site, sink: Sink, *, faults: bool = False, report_path: Path | None = None
) -> ProofReport:
    """Prove the running system; `faults` deletes pods on purpose. Writes `{"proof": […]}` to `report_path`.

    Raises ReleaseNotReady where nothing is installed; a step that fails is in the report, not raised.
    """
    report = run(context_of(cluster, site), sink, faults=faults)
    if report_path is not None:
        report_path.write_text(json.dumps({"proof": report.as_json()}, indent=1) + "\n")
    return report


def told(report: ProofReport) -> str:
    """The report for people: one line per step."""
    lines = [f"{one.verdict:<12}{one.id:<22}{one.detail}" for one in report.results]
    return "\n".join(lines)
