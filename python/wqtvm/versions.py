"""The installed versions of wqtvm and of what its compiled code depends on."""

from __future__ import annotations

from importlib import metadata

PACKAGES = {"wqtvm": "wqtvm", "tvm": "apache-tvm", "tvm_ffi": "apache-tvm-ffi"}
ABSENT = "not installed"  # also of wqtvm, where it is run from its sources


def versions() -> dict[str, str]:
    """Return the installed version of each of ``PACKAGES``."""
    return {name: version(package) or ABSENT for name, package in PACKAGES.items()}


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
