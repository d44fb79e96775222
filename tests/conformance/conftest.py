"""The limit on open files is raised once, for the test process and the servers it starts."""

import resource


def pytest_sessionstart() -> None:
    """Ask for as many descriptors as the operator allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
