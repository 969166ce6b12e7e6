"""Will this bundle work on this site? Asked before anything changes; each check says what it saw and what to do.

Not here: deploying, or repairing what a check finds.
"""

from mxinstall.preflight.context import Context, context_for
from mxinstall.preflight.model import CHECKS, Check, Finding, PreflightReport, Verdict
from mxinstall.preflight.run import run

__all__ = ["CHECKS", "Check", "Context", "Finding", "PreflightReport", "Verdict", "context_for", "run"]
