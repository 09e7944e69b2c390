"""The status program: lockd's own program on the admin socket, which ``lockctl`` calls.

Its procedures change nothing, except RELEASE. libvirt's clients do not know the program. Its arguments and
results are JSON in one XDR string. So a newer daemon can add keys, and an older ``lockctl`` ignores them.
Lists come in pages, so that a long one does not delay other clients (Invariant 3). A page is bounded by its bytes and
not by its entries alone: an owner's name may have 64 KiB.
"""

import json
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from lockd.wire.text import raw
from lockd.wire.xdr import Decoder, Encoder

PROGRAM = 0x6C6F636B
"""The ASCII codes of "lock". No program of libvirt has this number."""

VERSION = 1
DOCUMENT_MAX = 16 * 1024 * 1024
"""Maximum size of a document, in bytes."""


class Procedure(IntEnum):
    """The procedures of the status program. Each takes one document and returns one.

    LOCKS lists one page of the locks. DAEMON describes the daemon. RELEASE ends the holdings of owners that have
    ended, on one resource. FIND returns the lock on a resource (``lockspace``, ``resource``) or on a file
    (``device``, ``inode``). LOCKSPACES lists one page of the lockspaces.

    A list begins behind ``after`` in the question; ``next`` in the answer is the ``after`` of the next page, whatever
    its type is. A daemon that is older than LOCKSPACES has the lockspaces in its answer to DAEMON, and all owners in
    that to FIND.
    """

    LOCKS = 1
    DAEMON = 2
    RELEASE = 3
    FIND = 4
    LOCKSPACES = 5


def encode_document(document: dict[str, Any]) -> bytes:
    """Encode a document.

    A name in it is carried by its own bytes, and not by escapes for its characters: ``lockctl`` may run in
    another locale than the daemon, and then other characters stand for the same bytes.

    :param document: the document. Its strings are names (``lockd.wire.text``).
    :returns: the payload that carries it.
    """
    encoder = Encoder()
    encoder.string(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
    return encoder.payload()


def decode_document(
    payload: bytes, make_object: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Decode a document.

    JSON's escapes can name characters that no name has, such as half of a surrogate pair. They could not be
    sent on or logged. A document that has any is refused here, before anything is done with it.

    :param payload: the payload of a call or a reply.
    :param make_object: makes the object that the document has in the place of a dict; None for the dict itself.
    :returns: the document.
    :raises ValueError: the payload does not hold a document (``DecodeError``, ``JSONDecodeError``), or a string in
        it is not a name (``UnicodeEncodeError``).
    """
    try:
        source = Decoder(payload).string(DOCUMENT_MAX)
        document = json.loads(source, object_hook=make_object)
        if "\\u" in source:
            raw(json.dumps(document, ensure_ascii=False))
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("the document is not a JSON object")
    return document
