"""From images.lock to site.tar.zst: checked, laid out, fetched straight to its place, signed.

`build` is the whole of it; the modules are its steps in order: request, fit, plan, gather, fill, provenance.
"""

from mxbundle.build.request import BuildRequest
from mxbundle.build.run import BuildReport, build

__all__ = ["BuildReport", "BuildRequest", "build"]
