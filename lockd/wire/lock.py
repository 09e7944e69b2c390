"""The lock program: its eight procedures and their arguments.

Its calls are a daemon's whole load, so their arguments are decoded by hand; a test holds that against xdrlib3.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final, NamedTuple
from uuid import UUID

from lockd.wire.frames import uint32
from lockd.wire.text import text
from lockd.wire.xdr import DecodeError, Decoder, Encoder, encode_string

PROGRAM: Final = 0x0EA7BEEF
VERSION: Final = 1
STRING_MAX: Final = 65536
ARGUMENTS_MAX: Final = 2 * (4 + STRING_MAX) + 4
"""Bytes of the largest arguments: those of the procedures that take a path, a name and flags."""

_UINT32: Final = Struct(">I")
_UUID_BYTES: Final = 16


class Procedure(IntEnum):
    """What can be asked of the lock program."""

    REGISTER = 1
    RESTRICT = 2
    NEW = 3
    CREATE_RESOURCE = 4
    DELETE_RESOURCE = 5
    ACQUIRE_RESOURCE = 6
    RELEASE_RESOURCE = 7
    CREATE_LOCKSPACE = 8


class AcquireFlags(IntFlag):
    """How a resource is acquired."""

    SHARED = 1
    AUTOCREATE = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom locks are held for: a guest, as libvirt describes it.

    :ivar id: libvirt's number of the running guest; 0 is refused.
    :ivar pid: the process that writes to the disks; releases are matched by it.
    """

    uuid: UUID
    name: str
    id: int
    pid: int


class LockspaceArguments(NamedTuple):
    """The arguments of NEW; CREATE_LOCKSPACE takes the path alone."""

    lockspace: str
    flags: int


def decode_register(payload: bytes) -> tuple[Owner, int]:
    """Return the owner and the flags of a REGISTER call.

    :raises DecodeError: the payload holds no such arguments.
    """
    decoder = Decoder(payload)
    uuid = UUID(bytes=decoder.opaque(_UUID_BYTES))
    return Owner(uuid, decoder.string(STRING_MAX), decoder.uint32(), decoder.uint32()), decoder.uint32()


def decode_flags(payload: bytes) -> int:
    """Return the argument of a RESTRICT call.

    :raises DecodeError: the payload holds no such argument.
    """
    return Decoder(payload).uint32()


def decode_lockspace(payload: bytes) -> LockspaceArguments:
    """Return the arguments of a NEW call.

    :raises DecodeError: the payload holds no such arguments.
    """
    decoder = Decoder(payload)
    return LockspaceArguments(decoder.string(STRING_MAX), decoder.uint32())


def decode_create_lockspace(payload: bytes) -> str:
    """Return the argument of a CREATE_LOCKSPACE call.

    :raises DecodeError: the payload holds no such argument.
    """
    return Decoder(payload).string(STRING_MAX)


def decode_resource(payload: bytes) -> tuple[str, str, int]:
    """Return the arguments of a call on a resource: the lockspace's path, empty for the direct one, name, flags.

    :raises DecodeError: the payload holds no such arguments.
    """
    try:
        lockspace_end = 4 + uint32(payload, 0)
        name_start = (lockspace_end + 3 & -4) + 4  # behind the padding, and the name's own length
        name_end = name_start + uint32(payload, name_start - 4)
        flags = uint32(payload, name_end + 3 & -4)
    except IndexError as error:
        raise DecodeError("the payload ends early") from error
    if lockspace_end > 4 + STRING_MAX or name_end > name_start + STRING_MAX:
        raise DecodeError(f"a string of more than {STRING_MAX} bytes")
    return text(payload[4:lockspace_end]), text(payload[name_start:name_end]), flags


def encode_register(owner: Owner, flags: int = 0) -> bytes:
    """Return the payload of a REGISTER call."""
    encoder = Encoder()
    encoder.opaque(owner.uuid.bytes)
    encoder.string(owner.name)
    encoder.uint32(owner.id)
    encoder.uint32(owner.pid)
    encoder.uint32(flags)
    return encoder.payload()


def encode_flags(flags: int = 0) -> bytes:
    """Return the payload of a RESTRICT call."""
    return _UINT32.pack(flags)


def encode_lockspace(lockspace: str, flags: int = 0) -> bytes:
    """Return the payload of a NEW call."""
    return encode_string(lockspace) + _UINT32.pack(flags)


def encode_create_lockspace(lockspace: str) -> bytes:
    """Return the payload of a CREATE_LOCKSPACE call."""
    return encode_string(lockspace)


def encode_resource(lockspace: str, name: str, flags: int = 0) -> bytes:
    """Return the payload of a call on a resource."""
    return encode_string(lockspace) + encode_string(name) + _UINT32.pack(flags)
