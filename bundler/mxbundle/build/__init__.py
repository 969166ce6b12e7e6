"""From images.lock to site.tar.zst: checked, laid out, fetched straight to its place, signed.

`build` is the whole of it, `preview` what it would do; the modules are its steps in order: request, check (fit,
plan), finished, gather, fill, provenance, report.
"""

from mxbundle.build.report import BuildPreview, BuildReport
from mxbundle.build.request import BuildRequest
from mxbundle.build.run import build, preview

__all__ = ["BuildPreview", "BuildReport", "BuildRequest", "build", "preview"]
