"""Frames: read from a stream in any pieces, limited in size, and handed over in the middle of a frame."""

from collections.abc import Iterable
from itertools import pairwise
from time import thread_time_ns
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lockd.wire.frames import (
    LENGTH_MAX,
    LENGTH_MIN,
    Frame,
    FrameError,
    FrameReader,
    FrameType,
    Status,
    encode,
    encode_reply,
    encode_success,
    kind,
    success_template,
    without_descriptors,
)
from tests.wire.strategies import packed, uint32

PAYLOAD_KEPT = 64

Header: TypeAlias = tuple[int, int, int, int, int, int]
Sent: TypeAlias = tuple[Header, bytes]

headers = st.tuples(uint32, uint32, uint32, uint32, uint32, uint32)
payloads = st.binary(max_size=3 * PAYLOAD_KEPT)
frames = st.lists(st.tuples(headers, payloads), max_size=6)


def stream_of(sent: Iterable[Sent]) -> bytes:
    """Encode frames with xdrlib3."""
    return b"".join(
        packed("uuuuuuu", LENGTH_MIN + len(payload), *header) + payload for header, payload in sent
    )


def what_is_kept(sent: Iterable[Sent]) -> list[Sent]:
    return [(header, payload[:PAYLOAD_KEPT]) for header, payload in sent]


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return the data, cut into pieces at the given offsets, each modulo its length + 1."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def header_of(frame: Frame) -> Header:
    return frame.program, frame.version, frame.procedure, frame.type, frame.serial, frame.status


def read(reader: FrameReader) -> list[Sent]:
    """Return all frames that a reader has, without their lengths."""
    found = []
    while (frame := reader.next_frame()) is not None:
        found.append((header_of(frame), frame.payload))
    return found


@given(frames, st.lists(st.integers(0, 2000), max_size=20))
def test_frames_are_the_same_wherever_the_stream_is_cut(sent: list[Sent], cuts: list[int]) -> None:
    reader = FrameReader(PAYLOAD_KEPT)
    received = []
    for piece in pieces(stream_of(sent), cuts):
        reader.feed(piece)
        received += read(reader)
        assert reader.is_empty == (reader.unfinished == (b"", 0))
    assert received == what_is_kept(sent)
    assert reader.unfinished == (b"", 0)


@given(frames)
def test_frames_are_the_same_byte_by_byte_and_all_at_once(
    sent: list[Sent],
) -> None:
    stream = stream_of(sent)
    slow, fast = FrameReader(PAYLOAD_KEPT), FrameReader(PAYLOAD_KEPT)
    byte_by_byte = []
    for number in stream:
        slow.feed(bytes([number]))
        byte_by_byte += read(slow)
    fast.feed(stream)
    assert byte_by_byte == read(fast) == what_is_kept(sent)


oversized = ((1, 2, 3, 4, 5, 6), bytes(range(PAYLOAD_KEPT)) * 3)
small = ((7, 8, 9, 10, 11, 12), b"next")


@given(frames, st.integers(0, 2000), st.booleans())
@example([oversized, small], LENGTH_MIN + PAYLOAD_KEPT, True)
@example([oversized, small], LENGTH_MIN + 3 * PAYLOAD_KEPT - 1, True)
@example([oversized, small], LENGTH_MIN + 3 * PAYLOAD_KEPT + 5, False)
def test_another_reader_resumes_where_the_first_one_stopped(
    sent: list[Sent], cut: int, all_read: bool
) -> None:
    """It does not matter whether the first one has already returned its complete frames."""
    before, after = pieces(stream_of(sent), [cut])
    first, second = FrameReader(PAYLOAD_KEPT), FrameReader(PAYLOAD_KEPT)
    first.feed(before)
    received = read(first) if all_read else []
    second.resume(*first.unfinished)
    received += read(second)
    second.feed(after)
    received += read(second)
    assert received == what_is_kept(sent)


@given(st.lists(st.integers(1, 3 * PAYLOAD_KEPT), min_size=1, max_size=3), st.integers(0, 9))
def test_a_reader_is_handed_over_while_it_drops_a_large_frame(ends: list[int], more: int) -> None:
    """There may be several hand-overs, each between two pieces of one frame that is too large to be kept."""
    sent = [(oversized[0], bytes(3 * PAYLOAD_KEPT + more)), small]
    stream = stream_of(sent)
    reader = FrameReader(PAYLOAD_KEPT)
    received = []
    for piece in pieces(stream, [LENGTH_MIN + end for end in ends]):
        reader.feed(piece)
        successor = FrameReader(PAYLOAD_KEPT)
        successor.resume(*reader.unfinished)
        reader = successor
        received += read(reader)
    assert received == what_is_kept(sent)


def test_the_end_of_a_dropped_frame_is_handed_over_with_the_next_frame() -> None:
    """The end of the oversized frame and the next frame came in one piece, and were not read yet."""
    reader, successor = FrameReader(PAYLOAD_KEPT), FrameReader(PAYLOAD_KEPT)
    stream = stream_of([oversized, small])
    reader.feed(stream[: LENGTH_MIN + PAYLOAD_KEPT + 1])
    assert read(reader) == []
    reader.feed(stream[LENGTH_MIN + PAYLOAD_KEPT + 1 :])
    successor.resume(*reader.unfinished)
    assert read(successor) == what_is_kept([oversized, small])


@given(st.integers(0, 3 * PAYLOAD_KEPT), st.integers(1, 3 * PAYLOAD_KEPT), st.integers(0, 4 * PAYLOAD_KEPT))
@example(PAYLOAD_KEPT + 1, PAYLOAD_KEPT, 2 * PAYLOAD_KEPT)
@example(PAYLOAD_KEPT + 1, PAYLOAD_KEPT, PAYLOAD_KEPT // 2)
def test_a_version_that_keeps_more_or_less_resumes_at_the_same_place(
    arrived: int, kept: int, kept_then: int
) -> None:
    """The frame that the first version shortened may stay short; each later frame is whole."""
    stream = stream_of([oversized, small])
    first, second = FrameReader(kept), FrameReader(kept_then)
    first.feed(stream[: LENGTH_MIN + arrived])
    received = read(first)
    second.resume(*first.unfinished)
    received += read(second)
    second.feed(stream[LENGTH_MIN + arrived :])
    received += read(second)
    (header, payload), (small_header, small_payload) = received
    assert header == oversized[0]
    assert payload.startswith(oversized[1][: min(kept, kept_then)])
    assert oversized[1].startswith(payload)
    assert (small_header, small_payload) == (small[0], small[1][:kept_then])


def test_half_a_header_with_bytes_to_drop_cannot_be_resumed() -> None:
    with pytest.raises(FrameError, match="27 bytes"):
        FrameReader(PAYLOAD_KEPT).resume(bytes(LENGTH_MIN - 1), 1)


def time_to_drip(behind: int) -> int:
    """Return how long a reader takes for 1000 single bytes behind the first bytes of a frame, in nanoseconds."""
    reader = FrameReader(LENGTH_MAX)
    assert reader.receive(packed("uuuuuuu", LENGTH_MAX, 1, 2, 3, 0, 5, 0) + bytes(behind)) is None
    byte = bytes(1)
    reader.receive(byte)
    began = thread_time_ns()
    for _ in range(1000):
        reader.receive(byte)
    return thread_time_ns() - began


def test_a_byte_costs_the_same_behind_any_length_of_half_a_frame() -> None:
    """Otherwise a client that drips would cost the others time that grows with the square of what it sends.

    To copy 8 MiB for each byte would take a thousand times as long.
    """
    assert min(time_to_drip(8 * 1024 * 1024) for _ in range(3)) < 30 * min(
        time_to_drip(100) for _ in range(3)
    )


@given(uint32.filter(lambda length: not LENGTH_MIN <= length <= LENGTH_MAX), st.booleans())
@example(LENGTH_MIN - 1, True)
@example(LENGTH_MAX + 1, True)
@example(0, False)
def test_an_impossible_length_is_refused_as_soon_as_it_has_arrived(length: int, alone: bool) -> None:
    reader = FrameReader(PAYLOAD_KEPT)
    data = packed("u", length)
    reader.feed(data[:3])
    assert reader.next_frame() is None
    reader.feed(data[3:] + (b"" if alone else bytes(40)))
    with pytest.raises(FrameError, match=str(length)):
        reader.next_frame()


def test_the_largest_frame_takes_no_more_memory_than_its_kept_part() -> None:
    reader = FrameReader(PAYLOAD_KEPT)
    header = packed("uuuuuuu", LENGTH_MAX, 1, 2, 3, 0, 5, 0)
    reader.feed(header)
    piece = bytes(65536)
    for _ in range(LENGTH_MAX // len(piece) - 1):
        reader.feed(piece)
        assert reader.next_frame() is None
        kept, _ = reader.unfinished
        assert len(kept) <= LENGTH_MIN + PAYLOAD_KEPT
    _, missing = reader.unfinished
    reader.feed(bytes(missing))
    assert read(reader) == [((1, 2, 3, 0, 5, 0), bytes(PAYLOAD_KEPT))]


@given(headers, payloads)
def test_frames_are_encoded_as_xdrlib_does(header: Header, payload: bytes) -> None:
    assert encode(*header, payload=payload) == stream_of([(header, payload)])


@given(headers, payloads, st.sampled_from(Status))
def test_a_reply_repeats_the_header_of_its_call(header: Header, payload: bytes, status: Status) -> None:
    program, version, procedure, _, serial, _ = header
    call = Frame(encode(*header))
    expected = (program, version, procedure, FrameType.REPLY, serial, status)
    assert encode_reply(call, payload, status) == stream_of([(expected, payload)])


@given(headers, st.lists(st.tuples(headers, payloads), max_size=3))
def test_a_reader_is_empty_once_it_has_returned_all_frames(header: Header, sent: list[Sent]) -> None:
    """A caller need not ask an empty reader for a frame."""
    reader = FrameReader(PAYLOAD_KEPT)
    assert reader.is_empty
    reader.feed(stream_of([(header, b""), *sent]))
    for _ in range(len(sent) + 1):
        assert not reader.is_empty
        assert reader.next_frame() is not None
    assert reader.next_frame() is None
    assert reader.is_empty


@given(headers)
def test_frames_of_a_kind_have_their_first_numbers_in_common(header: Header) -> None:
    assert Frame(encode(*header)).kind == kind(*header[:4])


@given(headers, payloads)
def test_shortened_makes_a_whole_frame_of_one_whose_end_was_dropped(header: Header, payload: bytes) -> None:
    sent = encode(*header, payload=payload + b"dropped")
    assert Frame(sent[: LENGTH_MIN + len(payload)]).shortened == encode(*header, payload=payload)


@given(headers)
def test_a_success_is_a_reply_without_payload(header: Header) -> None:
    program, version, procedure, type_, serial, _ = header
    call = Frame(encode(program, version, procedure, type_, serial))
    assert encode_success(success_template(program, version, procedure), call) == encode_reply(call)


@given(headers, payloads)
def test_a_call_without_descriptors_is_a_plain_call(header: Header, payload: bytes) -> None:
    call = Frame(encode(*header, payload=packed("u", 0) + payload))
    plain = without_descriptors(call)
    program, version, procedure, _, serial, status = header
    assert header_of(plain) == (program, version, procedure, FrameType.CALL, serial, status)
    assert plain.payload == payload


@pytest.mark.parametrize("payload", [b"", bytes(3), packed("u", 1), packed("u", 2**32 - 1) + bytes(8)])
def test_a_call_with_descriptors_is_refused(payload: bytes) -> None:
    call = Frame(encode(1, 1, 1, FrameType.CALL_WITH_FDS, 1, 0, payload))
    with pytest.raises(FrameError, match="descriptors"):
        without_descriptors(call)
