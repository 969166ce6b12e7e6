"""Images of the dark site that stand in for upstream's: contracts, and builds from Debian, PyPI and Go modules.

Others use `all_contracts`, `build`, `is_built` and what these return. Serving them is `darksite.upstream`.
"""

from darksite.images.contract import Contract, ContractInvalid, all_contracts
from darksite.images.stand_in import Built, build, is_built

__all__ = ["Built", "Contract", "ContractInvalid", "all_contracts", "build", "is_built"]
