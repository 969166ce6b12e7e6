"""`python -m darksite.images [NAME…]`: builds the images that are missing and prints what there is."""

import sys
import time

from darksite.images import all_contracts, build, is_built


def main(names: list[str]) -> None:
    """Builds the images called `names`, or all."""
    for contract in all_contracts():
        if names and contract.name not in names:
            continue
        cached = is_built(contract)
        started = time.monotonic()
        built = build(contract)
        spent = "cached" if cached else f"{time.monotonic() - started:.1f} s"
        for reference, digest in built.digests().items():
            print(f"{reference:70} {digest} {built.stored_bytes() / 1e6:7.1f} MB  {spent}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
