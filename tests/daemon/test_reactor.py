"""The reactor goes on after any exception, as all locks would end with it. It neither spins nor floods the log."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from lockd.daemon.reactor import READABLE, Flushable, FunctionWatcher, Reactor
from lockd.daemon.server import Limits, Server


@pytest.fixture
def bell() -> Iterator[int]:
    """An eventfd that is readable."""
    fd = os.eventfd(1, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def other_bell() -> Iterator[int]:
    """Another one."""
    fd = os.eventfd(1, os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


def nothing() -> None:
    """Do nothing before serving."""


def fails(*_arguments: object) -> None:
    """Fail as a bug or a lack of memory would."""
    raise MemoryError


class Served:
    """A watcher that tells when it is called."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._event = trio.Event()
        self.watcher = FunctionWatcher(self._on_ready)

    def _on_ready(self, _ready: int) -> None:
        os.eventfd_read(self._fd)
        self._event.set()

    async def wait(self) -> None:
        with trio.fail_after(15):
            await self._event.wait()


def run(reactor: Reactor, play: Callable[[], object], served: Callable[[], Served]) -> None:
    """Have something fail while the reactor runs; a watcher has to be served all the same."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            play()
            await served().wait()
            nursery.cancel_scope.cancel()

    trio.run(main)


@pytest.mark.parametrize("where", ["before serving", "leftover", "flush", "watcher"])
def test_what_fails_in_a_turn_does_not_end_the_reactor(where: str, bell: int, other_bell: int) -> None:
    reactor = Reactor(fails if where == "before serving" else nothing)

    def play() -> None:
        match where:
            case "leftover":
                reactor.again(fails)
            case "flush":
                reactor.flush_later(Flushable())
            case "watcher":
                reactor.watch(bell, READABLE, FunctionWatcher(fails))

    def served() -> Served:
        watcher = Served(other_bell)
        reactor.watch(other_bell, READABLE, watcher.watcher)
        return watcher

    run(reactor, play, served)


def test_a_watcher_that_always_fails_is_called_seldom_and_logged_as_often(
    bell: int, caplog: pytest.LogCaptureFixture
) -> None:
    reactor = Reactor(nothing)
    calls = []

    def fail(_ready: int) -> None:
        calls.append(time.monotonic())
        raise MemoryError

    async def main() -> None:
        reactor.watch(bell, READABLE, FunctionWatcher(fail))
        with trio.move_on_after(0.5):
            await reactor.run()
        assert len(calls) == 1
        with trio.move_on_after(0.6):
            await trio.sleep(0.5)
            reactor.retry()
            await reactor.run()
        # Its pause of one second is over.
        with trio.move_on_after(0.5):
            await trio.sleep(0.1)
            reactor.retry()
            await reactor.run()
        assert len(calls) == 2

    began = time.process_time()
    trio.run(main)
    assert time.process_time() - began < 0.5
    assert len(caplog.records) == 2
    assert f"descriptor {bell} could not be served; it is tried again after 2 s" in caplog.text
    reactor.change(bell, 0)
    reactor.forget(bell)
    with pytest.raises(KeyError):
        reactor.forget(bell)


def test_a_poll_that_fails_does_not_end_the_reactor(bell: int, tmp_path: Path) -> None:
    """The kernel refuses epoll_wait(2), as the descriptor is that of a file, and then serves again."""
    reactor = Reactor(nothing)
    watcher = Served(bell)
    reactor.watch(bell, READABLE, watcher.watcher)
    fd = reactor._epoll.fileno()
    epoll = os.dup(fd)

    async def main() -> None:
        file = os.open(tmp_path, os.O_RDONLY)
        os.dup2(file, fd)
        os.close(file)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reactor.run)
            await trio.sleep(0.1)
            os.dup2(epoll, fd)
            await watcher.wait()
            nursery.cancel_scope.cancel()

    trio.run(main)
    os.close(epoll)


def test_a_client_that_cannot_be_watched_is_closed_and_not_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise it would be neither served nor closed, and its place would be taken for ever."""
    reactor = Reactor(nothing)
    server = Server("virtlockd", reactor, Limits(5, 5), setting="max_clients", payload_kept=64, on_end=fails)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    listener.listen()
    server.listen(listener)
    with listener, (tmp_path / "file").open("wb") as file:
        # The kernel refuses epoll_ctl(2), as the descriptor is that of a file.
        os.dup2(file.fileno(), reactor._epoll.fileno())
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(tmp_path / "socket"))
                reactor._watchers[listener.fileno()].on_ready(READABLE)
                assert client.recv(1) == b""
    assert server.sessions == {}
    assert [record.getMessage() for record in caplog.records] == [
        "a client cannot be served: Invalid argument; see accept(2) and epoll_ctl(2)"
    ]
