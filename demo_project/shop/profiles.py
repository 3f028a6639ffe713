"""User profiles kept in Redis itself with plain redis-py: a JSON document, and a hash for the flat form. No cache-aside."""

from __future__ import annotations

import json
from random import Random
from typing import Any, NamedTuple

from django.conf import settings

from demo_project.shop.words import AUTHORS, GOODS, MAKERS
from redis_integration import get_redis

PROFILE_TTL = 3600  # seconds


class Kept(NamedTuple):
    """A profile in one of its two forms, as it lies in Redis."""

    key: str
    found: dict[str, Any]
    seconds_left: int
    commands: tuple[str, ...]


def profile_document(name: str) -> Kept:
    """The profile as one JSON text: nested, read and written whole. Created if absent. Raises redis.RedisError."""
    redis = get_redis()
    key = f"{_prefix()}:profile:{name}"
    text = redis.get(key)
    if text is None:
        text = json.dumps(_newcomer(name))
        redis.set(key, text, ex=PROFILE_TTL)  # SETEX by its present name: redis-py 8 calls setex() deprecated
    commands = (f"SET {key} '{{…}}' EX {PROFILE_TTL}", f"GET {key}")
    return Kept(key, json.loads(text), redis.ttl(key), commands)


def profile_hash(name: str) -> Kept:
    """The profile as a hash: flat, each field on its own, so one can be counted up. Raises redis.RedisError."""
    redis = get_redis()
    key = f"{_prefix()}:profile-hash:{name}"
    if not redis.exists(key):
        newcomer = _newcomer(name)
        with redis.pipeline() as pipeline:  # MULTI: a hash without its EXPIRE would stay for ever
            pipeline.hset(
                key, mapping={"name": newcomer["name"], "member_since": newcomer["member_since"], "visits": 0}
            )
            pipeline.expire(key, PROFILE_TTL)
            pipeline.execute()
    redis.hincrby(key, "visits", 1)
    found = {_text(field): _text(value) for field, value in redis.hgetall(key).items()}
    commands = (
        f"HSET {key} name … visits 0",
        f"EXPIRE {key} {PROFILE_TTL}",
        f"HINCRBY {key} visits 1",
        f"HGETALL {key}",
    )
    return Kept(key, found, redis.ttl(key), commands)


def _prefix() -> str:
    return str(settings.REDIS_INTEGRATION["default"]["KEY_PREFIX"])


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _newcomer(name: str) -> dict[str, Any]:
    rng = Random(name)
    return {
        "name": name.replace("-", " ").title(),
        "member_since": rng.randint(2015, 2025),
        "likes": {"categories": rng.sample(sorted(GOODS), 2), "makers": rng.sample(MAKERS, 2)},
        "friends": rng.sample(AUTHORS, 3),
    }
