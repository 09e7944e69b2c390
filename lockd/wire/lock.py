"""The lock program: its eight procedures and their arguments.

Nearly all calls to the daemon are acquires and releases. So their arguments are decoded without xdrlib3, and
a test compares the results with those of xdrlib3.
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
"""Maximum length of a string, in bytes."""

ARGUMENTS_MAX: Final = 2 * (4 + STRING_MAX) + 4
"""Maximum size of the arguments of a call, in bytes: a path and a name, each with its length, and flags."""

_UINT32: Final = Struct(">I")
_UUID_BYTES: Final = 16


class Procedure(IntEnum):
    """The procedures of the lock program, by libvirt's numbers."""

    REGISTER = 1
    RESTRICT = 2
    NEW = 3
    CREATE_RESOURCE = 4
    DELETE_RESOURCE = 5
    ACQUIRE_RESOURCE = 6
    RELEASE_RESOURCE = 7
    CREATE_LOCKSPACE = 8


class AcquireFlags(IntFlag):
    """Flags of ACQUIRE_RESOURCE."""

    SHARED = 1
    AUTOCREATE = 2


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that locks are held for, usually a guest, as libvirt describes it.

    :ivar uuid: the UUID of the guest.
    :ivar name: the name of the guest.
    :ivar id: libvirt's number of the running guest; 0 is refused.
    :ivar pid: the process that writes to the disks. A release has to come from an owner with the same pid.
    """

    uuid: UUID
    name: str
    id: int
    pid: int


class LockspaceArguments(NamedTuple):
    """The arguments of NEW. CREATE_LOCKSPACE takes only the path.

    :ivar lockspace: the path of the lockspace.
    :ivar flags: the flags; none are defined.
    """

    lockspace: str
    flags: int


def decode_register(payload: bytes) -> tuple[Owner, int]:
    """Decode the arguments of a REGISTER call.

    :param payload: the payload of the call.
    :returns: the owner and the flags.
    :raises DecodeError: the payload does not hold these arguments.
    """
    decoder = Decoder(payload)
    uuid = UUID(bytes=decoder.opaque(_UUID_BYTES))
    return Owner(uuid, decoder.string(STRING_MAX), decoder.uint32(), decoder.uint32()), decoder.uint32()


def decode_flags(payload: bytes) -> int:
    """Decode the argument of a RESTRICT call.

    :param payload: the payload of the call.
    :returns: the flags.
    :raises DecodeError: the payload does not hold these arguments.
    """
    return Decoder(payload).uint32()


def decode_lockspace(payload: bytes) -> LockspaceArguments:
    """Decode the arguments of a NEW call.

    :param payload: the payload of the call.
    :returns: the arguments.
    :raises DecodeError: the payload does not hold these arguments.
    """
    decoder = Decoder(payload)
    return LockspaceArguments(decoder.string(STRING_MAX), decoder.uint32())


def decode_create_lockspace(payload: bytes) -> str:
    """Decode the argument of a CREATE_LOCKSPACE call.

    :param payload: the payload of the call.
    :returns: the path of the lockspace.
    :raises DecodeError: the payload does not hold these arguments.
    """
    return Decoder(payload).string(STRING_MAX)


def decode_resource(payload: bytes) -> tuple[str, str, int]:
    """Decode the arguments of a call for a resource.

    :param payload: the payload of the call.
    :returns: the path of the lockspace (empty for the direct lockspace), the name of the resource, and the
        flags.
    :raises DecodeError: the payload does not hold these arguments.
    """
    try:
        lockspace_end = 4 + uint32(payload, 0)
        name_start = (lockspace_end + 3 & -4) + 4  # after the padding, and the length of the name
        name_end = name_start + uint32(payload, name_start - 4)
        flags = uint32(payload, name_end + 3 & -4)
    except IndexError as error:
        raise DecodeError("the payload ends early") from error
    if lockspace_end > 4 + STRING_MAX or name_end > name_start + STRING_MAX:
        raise DecodeError(f"a string of more than {STRING_MAX} bytes")
    return text(payload[4:lockspace_end]), text(payload[name_start:name_end]), flags


def encode_register(owner: Owner, flags: int = 0) -> bytes:
    """Encode the arguments of a REGISTER call.

    :param owner: the owner.
    :param flags: the flags; none are defined.
    :returns: the payload of the call.
    """
    encoder = Encoder()
    encoder.opaque(owner.uuid.bytes)
    encoder.string(owner.name)
    encoder.uint32(owner.id)
    encoder.uint32(owner.pid)
    encoder.uint32(flags)
    return encoder.payload()


def encode_flags(flags: int = 0) -> bytes:
    """Encode the argument of a RESTRICT call.

    :param flags: the flags; none are defined.
    :returns: the payload of the call.
    """
    return _UINT32.pack(flags)


def encode_lockspace(lockspace: str, flags: int = 0) -> bytes:
    """Encode the arguments of a NEW call.

    :param lockspace: the path of the lockspace.
    :param flags: the flags; none are defined.
    :returns: the payload of the call.
    """
    return encode_string(lockspace) + _UINT32.pack(flags)


def encode_create_lockspace(lockspace: str) -> bytes:
    """Encode the argument of a CREATE_LOCKSPACE call.

    :param lockspace: the path of the lockspace.
    :returns: the payload of the call.
    """
    return encode_string(lockspace)


def encode_resource(lockspace: str, name: str, flags: int = 0) -> bytes:
    """Encode the arguments of a call for a resource.

    :param lockspace: the path of the lockspace; empty for the direct lockspace.
    :param name: the name of the resource in the lockspace.
    :param flags: the flags: for ACQUIRE_RESOURCE, those of ``AcquireFlags``; for other calls, none are
        defined.
    :returns: the payload of the call.
    """
    return encode_string(lockspace) + encode_string(name) + _UINT32.pack(flags)
