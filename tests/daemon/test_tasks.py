"""Tasks of the daemon: an exception ends neither the daemon nor what has to go on."""

from itertools import pairwise

import pytest
import trio
from trio.testing import MockClock

from lockd.daemon.tasks import Tasks, go_on


def test_what_has_to_go_on_is_started_again_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    began: list[float] = []

    async def fail_twice(word: str) -> None:
        began.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(began) < 3:
            raise MemoryError(word)

    trio.run(go_on, fail_twice, "word", clock=MockClock(autojump_threshold=0))
    assert len(began) == 3
    assert all(later - earlier >= 1 for earlier, later in pairwise(began))
    assert caplog.text.count("MemoryError: word") == 2


def test_what_has_to_go_on_can_be_cancelled() -> None:
    async def main() -> None:
        with trio.move_on_after(1) as scope:
            await go_on(trio.sleep_forever)
        assert scope.cancelled_caught

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_an_exception_in_a_task_is_logged_and_ends_that_task_alone(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []

    async def fail() -> None:
        raise MemoryError

    async def succeed() -> None:
        await trio.sleep(1)
        ended.append("well")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            tasks = Tasks(nursery)
            tasks.start(succeed)
            tasks.start(fail)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert ended == ["well"]
    assert "a task of the daemon failed; the daemon goes on without it" in caplog.text
