"""The status program: lockd's own, read-only but for one call, on the admin socket.

libvirt's clients do not know it. Its replies are JSON in one XDR string, so that a newer daemon may tell an
older ``lockctl`` more than it asks for. A list comes in pages, so that no reply of many locks holds up others.
"""

import json
from enum import IntEnum
from typing import Any

from lockd.wire.xdr import Decoder, Encoder

PROGRAM = 0x6C6F636B
"""ASCII "lock"; libvirt's own numbers are far from it."""

VERSION = 1
DOCUMENT_MAX = 16 * 1024 * 1024


class Procedure(IntEnum):
    """What can be asked of the status program; each takes and returns one document.

    LOCKS: a page of the locks, those after the one whose number is ``after``. FIND: the lock on a resource
    (``lockspace``, ``resource``) or on a file (``device``, ``inode``). RELEASE: end the holdings of owners that
    are gone, on a resource.
    """

    LOCKS = 1
    DAEMON = 2
    RELEASE = 3
    FIND = 4


def encode_document(document: dict[str, Any]) -> bytes:
    """Return the payload that carries ``document``. Text that is not UTF-8 is escaped as JSON can."""
    encoder = Encoder()
    encoder.string(json.dumps(document, separators=(",", ":")))
    return encoder.payload()


def decode_document(payload: bytes) -> dict[str, Any]:
    """Return the document of a payload.

    :raises ValueError: there is none (DecodeError, JSONDecodeError).
    """
    try:
        document = json.loads(Decoder(payload).string(DOCUMENT_MAX))
    except RecursionError:
        raise ValueError("a document is not nested that deeply") from None
    if not isinstance(document, dict):
        raise ValueError("a document is an object")
    return document
