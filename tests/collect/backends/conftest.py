"""Servers for what talks to endpoints."""

from collections.abc import Callable, Iterator

import pytest

from tests.collect.odd_server import Handler, odd_servers


@pytest.fixture
def odd_server() -> Iterator[Callable[[Handler], str]]:
    """Start a server that answers chats with a function of the request's body and headers."""
    with odd_servers() as start:
        yield start
