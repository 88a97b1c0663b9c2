"""Start the servers of a test session before pytest-django reads the settings, and stop them at its end."""

import signal
from collections.abc import Generator
from contextlib import ExitStack

import pytest

from example.servers import ServicesError
from example.services import Services, services

SERVICES = pytest.StashKey[Services]()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, None, None]:
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # SystemExit in a test would only fail that test
    stack = ExitStack()
    early_config.add_cleanup(stack.close)
    try:
        found = stack.enter_context(services(fsync=False))
    except ServicesError as error:
        raise pytest.UsageError(str(error)) from None
    environment = pytest.MonkeyPatch()
    stack.callback(environment.undo)
    environment.setenv("DATABASE_URL", found.database_url)
    environment.setenv("REDIS_URL", found.redis_url)
    early_config.stash[SERVICES] = found
    return (yield)
