"""Which release of fedvox this is."""

import importlib.metadata


def release() -> str:
    """Return the version of the installed package."""
    return importlib.metadata.version("fedvox")
