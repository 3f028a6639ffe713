"""The pickle codec: values of nearly any type, always signed. What this project has not signed is never unpickled."""

from __future__ import annotations

import hmac
import pickle
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Any, ClassVar, Literal

from redis_integration.codecs import type_name
from redis_integration.conf import get_secrets
from redis_integration.exceptions import UnreadableEntry, UnstorableValue

VERSION = 1
_VERSION_BYTE = VERSION.to_bytes()
# Not the interpreter's default, so that all versions of a rolling upgrade read each other's entries.
_PROTOCOL = 5
_SALT = b"redis_integration.pickles"
_SIGNATURE_BYTES = 32
_BODY_AT = 1 + _SIGNATURE_BYTES
# Version, length of the key: so no end of a key can pass for the beginning of a pickle.
_PREAMBLE = Struct(">BI")


@dataclass(frozen=True)
class PickleCodec:
    """A version byte, the HMAC-SHA256 of version, full key and pickle, then the pickle.

    So what was signed for one key is refused at another; an older value of the same key is not. Signed with SECRET_KEY, also
    read with SECRET_KEY_FALLBACKS.
    """

    number: ClassVar[int] = 3
    name: ClassVar[str] = "pickle"
    # Any class may lose something on its way. For 100 rows of 8 fields it adds 0.6 ms to the 0.4 ms of pickling, once per fill.
    verified: ClassVar[Literal["always"]] = "always"

    def encode(self, value: Any, key: str, /) -> bytes:
        """The bytes of `value`, signed for the full `key`. Raises UnstorableValue, which names the type."""
        try:
            body = pickle.dumps(value, _PROTOCOL)
        except Exception as exc:  # __reduce__ and __getstate__ raise what they like
            name = type_name(value)
            raise UnstorableValue(f"The pickle codec cannot store {name}: {type(exc).__name__}: {exc}.", name) from exc
        return _VERSION_BYTE + _sign(get_secrets()[0], key, body) + body

    def decode(self, payload: bytes, key: str, /) -> Any:
        """The value that was signed for `key`. Raises UnreadableEntry, and nothing else, whatever the bytes."""
        if not is_signed(payload, key):
            raise UnreadableEntry("The pickle codec has not signed this payload for this key with this SECRET_KEY.")
        try:
            return pickle.loads(payload[_BODY_AT:])
        except Exception as exc:  # a class that has moved since, or whose __setstate__ raises
            raise UnreadableEntry(f"The pickle codec cannot read this payload ({type(exc).__name__}: {exc}).") from exc


def is_signed(payload: bytes, key: str) -> bool:
    """Whether this payload was signed for this full key, with this SECRET_KEY or one of its fallbacks."""
    body, signature = payload[_BODY_AT:], payload[1:_BODY_AT]
    return payload[:1] == _VERSION_BYTE and any(
        hmac.compare_digest(signature, _sign(secret, key, body)) for secret in get_secrets()
    )


def _sign(secret: str | bytes, key: str, body: bytes) -> bytes:
    name = key.encode("utf-8", "surrogatepass")
    signer = _signer(secret).copy()
    signer.update(_PREAMBLE.pack(VERSION, len(name)) + name)
    signer.update(body)
    return signer.digest()


@lru_cache(maxsize=8)  # so many secrets; to derive its key and to set the HMAC up costs three times a signature
def _signer(secret: str | bytes) -> hmac.HMAC:
    key = sha256(_SALT + (secret.encode() if isinstance(secret, str) else secret)).digest()
    return hmac.new(key, digestmod=sha256)


pickle_codec = PickleCodec()
