"""
What values cost: our codecs against json, pickle and django-redis's serializers, and entries against bare JSON in Redis.

Usage: python -m benchmarks.codecs [--rounds N] [--calls N]. Starts a server of its own on a free loopback port.
"""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

from benchmarks.rounds import Subject, measure, repeat, table
from benchmarks.setting import configure, describe, find_peer
from demo_project.server import start_server

KEY = "bench:value:7"
# What a fill does; a hit does not verify.
VERIFIED = "ours, pickle, signed and verified"
START = datetime(2024, 5, 1, 12, tzinfo=UTC)
MIXED: dict[str, Any] = {
    **{f"number{step}": step * 7919 for step in range(6)},
    **{f"text{step}": f"a text of number {step}" for step in range(6)},
    "price": Decimal("19.99"),
    "cost": Decimal("7.5"),
    "created": START,
    "day": date(2024, 5, 1),
    "uuid": UUID(int=2**127 + 7),
    "ratio": 0.25,
    "in_stock": True,
    "parent": None,
}
WORDS = [
    "caches",
    "make",
    "sites",
    "fast",
    "and",
    "one",
    "that",
    "is",
    "down",
    "or",
    "slow",
    "or",
    "stampeded",
    "takes",
    "the",
    "whole",
    "site",
    "with",
    "it",
]
VALUES: dict[str, Any] = {
    "a dict of 20 keys, mixed types": MIXED,
    "100 rows of 2 Decimals, 2 datetimes, 4 others": [
        {
            "id": number,
            "name": f"Product {number}",
            "slug": f"product-{number}",
            "price": Decimal(number * 37) / 100,
            "cost": Decimal(number * 17) / 100,
            "created": START + timedelta(minutes=number),
            "changed": START + timedelta(days=number, microseconds=number),
            "in_stock": number % 3 == 0,
        }
        for number in range(100)
    ],
    "5 kB of text": " ".join(Random(1).choices(WORDS, k=1300))[:5000],
}


class Pair(NamedTuple):
    """How a codec encodes a value, and how it decodes what came of it."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


def peers() -> dict[str, Pair]:
    """The first one is what all are compared with. Those with json bring back text for Decimals, dates and UUIDs."""
    from django.core.serializers.json import DjangoJSONEncoder

    found = {
        "json, DjangoJSONEncoder, types lost": Pair(
            lambda value: json.dumps(value, cls=DjangoJSONEncoder).encode(), json.loads
        ),
        "pickle": Pair(lambda value: pickle.dumps(value, 5), pickle.loads),
    }
    names = {"json": "JSONSerializer", "pickle": "PickleSerializer", "msgpack": "MSGPackSerializer"}
    for name, kind in names.items():
        module = find_peer(f"django_redis.serializers.{name}")
        if module is not None:
            serializer = getattr(module, kind)(options={})
            note = ", types lost" if name == "json" else ""
            found[f"django-redis, {name}{note}"] = Pair(serializer.dumps, serializer.loads)
    return found


def ours() -> dict[str, Pair]:
    from redis_integration.caching import verify
    from redis_integration.codecs import json_codec
    from redis_integration.compression import compress, expand
    from redis_integration.pickles import pickle_codec

    def encode_verified(value: Any) -> bytes:
        payload = pickle_codec.encode(value, KEY)
        verify(pickle_codec, value, payload, KEY)
        return payload

    def encode_compressed(value: Any) -> bytes:
        pressed, flags = compress(json_codec.encode(value), "zlib")
        return bytes([flags]) + pressed

    def decode_compressed(stored: bytes) -> Any:
        return json_codec.decode(expand(stored[1:], stored[0], 1_000_000) if stored[0] else stored[1:])

    return {
        "ours, json": Pair(json_codec.encode, json_codec.decode),
        "ours, json, compressed by zlib": Pair(encode_compressed, decode_compressed),
        VERIFIED: Pair(encode_verified, lambda stored: pickle_codec.decode(stored, KEY)),
        "ours, pickle, signed": Pair(
            lambda value: pickle_codec.encode(value, KEY), lambda stored: pickle_codec.decode(stored, KEY)
        ),
    }


def checks(value: Any) -> Mapping[str, Subject]:
    """What the guarantee costs alone: the walk of the json codec, and reading back what was pickled."""
    from redis_integration.caching import verify
    from redis_integration.codecs import _lower
    from redis_integration.pickles import pickle_codec

    payload = pickle_codec.encode(value, KEY)
    return {
        "the json codec's walk over the types": lambda: _lower(value, ()),
        "the pickle codec's verification": lambda: verify(pickle_codec, value, payload, KEY),
    }


def memory(url: str) -> str:
    """A Markdown table of what Redis holds for one value: bare JSON, and our entries, with tags; the text is compressed."""
    import redis

    from redis_integration import cache_aside

    client = redis.Redis.from_url(url)
    value = {f"field{number}": number for number in range(20)}
    text = VALUES["5 kB of text"]
    rows = ["| stored | bytes | above the JSON | MEMORY USAGE |", "|---|---:|---:|---:|"]

    def add(name: str, key: str, bare: int) -> None:
        length = client.strlen(key)
        rows.append(f"| {name} | {length:,} | {length - bare:+,} | {client.memory_usage(key):,} |")

    for title, each in (("dict of 20 numbers", value), ("5 kB of text", text)):
        bare = json.dumps(each, separators=(",", ":")).encode()
        # As long as the keys that it is compared with.
        client.set(f"bench:memory:{len(bare)}:x", bare, ex=600)
        add(f"{title}: JSON", f"bench:memory:{len(bare)}:x", len(bare))
        for count in (0, 1, 5):
            tags = [f"tag{number}" for number in range(count)]
            load = cache_aside(ttl=600, key="memory:{size}:{count}", tags=tags)(lambda size, count, each=each: each)
            load(len(bare), count)
            add(f"{title}: entry with {count} tags", load.key_for(len(bare), count), len(bare))
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=20)
    options = vars(parser.parse_args())
    with start_server() as server:
        configure(server.url)
        print(describe(server.name))
        print("What values cost: {rounds} rounds of {calls} calls, interleaved.\n".format(**options))
        pairs = {**peers(), **ours()}
        for title, value in VALUES.items():
            stored = {name: pair.encode(value) for name, pair in pairs.items()}
            writing = {name: partial(pair.encode, value) for name, pair in pairs.items()}
            reading = {name: partial(pair.decode, stored[name]) for name, pair in pairs.items() if name != VERIFIED}
            for verb, subjects in (("encode", writing), ("decode", reading), ("the guarantee:", checks(value))):
                print(table(f"{verb} {title}", measure(repeat(subjects), **options)), end="\n\n", flush=True)
            print(f"Bytes of {title}: {'; '.join(f'{name} {len(each):,}' for name, each in stored.items())}.\n")
        print(memory(server.url), flush=True)


if __name__ == "__main__":
    main()
