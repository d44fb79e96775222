"""The two version numbers: shardd's own, and that of the nats-server whose behaviour it has.

Clients read the second one in INFO and switch features by it, so it is a plain release number.
"""

from typing import Final

SHARDD_VERSION: Final = "0.1.0"  # pyproject.toml says the same; a test compares them
NATS_VERSION: Final = "2.15.1"
