"""The random frames include those that have once ended the daemon, and a seed determines them."""

import itertools
from collections.abc import Callable, Iterator
from random import Random

from lockd.wire import admin, keepalive, lock, status
from lockd.wire.frames import HEADER, FrameType, encode
from tests.fuzz.frames import Frames, Fuzzed, closed_client, may_end_daemon, registered_pid


def frames(seed: int, *, to_admin: bool) -> Iterator[Fuzzed]:
    maker = Frames(Random(seed))
    while True:
        yield maker.frame(to_admin=to_admin)


def test_a_release_of_a_name_that_is_no_text_is_among_them() -> None:
    """This one frame ended the daemon: its error reply and the log could not be encoded."""
    payload = b'\x00\x00\x00${"lockspace":"","resource":"\\ud800"}'
    wanted = encode(status.PROGRAM, 1, status.Procedure.RELEASE, FrameType.CALL, 0, payload=payload)
    found = (_without_serial(frame.data) == wanted for frame in frames(1, to_admin=True))
    assert any(itertools.islice(found, 20_000))


def _without_serial(data: bytes) -> bytes:
    return data[:20] + bytes(4) + data[24:]


def test_all_programs_and_procedures_are_called() -> None:
    called = set()
    for to_admin in (False, True):
        for frame in itertools.islice(frames(1, to_admin=to_admin), 20_000):
            if len(frame.data) >= HEADER.size and frame.leads_on:
                _, program, version, procedure, kind, _, state = HEADER.unpack_from(frame.data)
                if (version, state) == (1, 0) and kind in (FrameType.CALL, FrameType.MESSAGE):
                    called.add((program, procedure))
    for program, procedures in (
        (lock.PROGRAM, lock.Procedure),
        (admin.PROGRAM, set(admin.Procedure) - {admin.Procedure.CONNECT_CLOSE}),
        (status.PROGRAM, status.Procedure),
        (keepalive.PROGRAM, keepalive.Procedure),
    ):
        assert {(program, procedure) for procedure in procedures} <= called


def test_a_seed_determines_them() -> None:
    first, second, third = (list(itertools.islice(frames(seed, to_admin=True), 1000)) for seed in (7, 7, 8))
    assert first == second
    assert first != third


def test_frames_with_effects_are_recognized_with_mistakes_too() -> None:
    """If the type of a call says that descriptors come along, their number is before the arguments."""
    recognizers: list[Callable[[bytes], object]] = [may_end_daemon, closed_client, registered_pid]
    found: list[set[int]] = [set() for _ in recognizers]
    for to_admin in (False, True):
        for frame in itertools.islice(frames(2, to_admin=to_admin), 50_000):
            for recognize, kinds in zip(recognizers, found, strict=True):
                if recognize(frame.data):
                    kinds.add(HEADER.unpack_from(frame.data)[4])
    for kinds in found:
        assert {FrameType.CALL, FrameType.CALL_WITH_FDS} <= kinds
