"""What can go wrong with a dark site, each said in one sentence. Rendered once, in `__main__`."""


class DarkSiteError(RuntimeError):
    """The base of all of them; its text says what was seen and what to do."""


class NotRootError(DarkSiteError):
    """Namespaces, mounts and cgroups need root."""

    def __init__(self) -> None:
        super().__init__("a dark site needs root: it makes namespaces, mounts and cgroups")


class PrerequisiteMissingError(DarkSiteError):
    """Packages are not installed."""

    def __init__(self, names: list[str]) -> None:
        super().__init__(f"not installed: {', '.join(names)}; run: python -m darksite prerequisites")


class MachineStartError(DarkSiteError):
    """A machine, or a daemon of it, did not come up."""


class ClusterStartError(DarkSiteError):
    """The cluster did not become what it should be in time."""


class NotUpError(DarkSiteError):
    """Something was asked of a site that is not there."""

    def __init__(self, site: str) -> None:
        super().__init__(f"site {site} is not up; run: python -m darksite up")


class LeftoverError(DarkSiteError):
    """Something of a site is still there after it was taken down."""

    def __init__(self, site: str, what: list[str]) -> None:
        super().__init__(f"still there of site {site}: {'; '.join(what)}")
