"""The Lua scripts of the tier in Redis: each is one indivisible step of the protocol. They decide nothing else.

KEYS are always the entry, its lease, its tags. What may fail for lack of memory comes before a lease is taken or after it
was let go, so that a script which fails half-way leaves nobody waiting.
"""

from __future__ import annotations

from hashlib import sha1


class Script:
    """The source of a script and the name Redis knows it by."""

    def __init__(self, source: str) -> None:
        self.source = source.strip().encode()
        self.sha = sha1(self.source, usedforsecurity=False).hexdigest()


# Where a lease stands there may be this instead, which is no token: the origin failed a moment ago. It holds up nobody but
# those who have a copy to answer with.
HOLD = b"hold"

# ARGV: token, lease in ms, time to live of new tags in ms, "replace" to replace another's lease, "copy" where a hold counts as
# one, the head of the entry that the caller has read and would refresh, a new generation for each tag.
# Answers {0}: held by another; {1, false, generations…}: granted; {2, entry, generations…}: filled since the caller read.
LEASE = Script("""
local found = ARGV[4] ~= 'replace' and redis.call('GET', KEYS[1])
if found and ARGV[5] ~= '' and string.sub(found, 1, #ARGV[5]) == ARGV[5] then
  found = false
end
local held = redis.call('GET', KEYS[2])
if held and not found and ARGV[4] ~= 'replace' and (held ~= 'hold' or ARGV[4] == 'copy') then
  return {0}
end
local reply = {found and 2 or 1, found}
for i = 3, #KEYS do
  local generation = redis.call('GET', KEYS[i])
  if not found then
    if not generation then
      generation = ARGV[i + 3]
      redis.call('SET', KEYS[i], generation, 'PX', 2 * ARGV[3])
    elseif redis.call('PTTL', KEYS[i]) < tonumber(ARGV[3]) then
      redis.call('PEXPIRE', KEYS[i], 2 * ARGV[3])
    end
  end
  reply[i] = generation
end
if not found then
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return reply
""")

# ARGV: token, the entry (empty: only let the lease go), its time to live in ms (of a hold, where there is no entry), the
# generations that the lease gave.
# Answers 1 if the lease was still this one and no generation has changed, else 0; 2 for a foreign value, left alone.
FILL = Script("""
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('UNLINK', KEYS[2])
for i = 3, #KEYS do
  if redis.call('GET', KEYS[i]) ~= ARGV[i + 1] then
    return 0
  end
  if ARGV[2] ~= '' and redis.call('PTTL', KEYS[i]) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', KEYS[i], 2 * ARGV[3])
  end
end
if ARGV[2] ~= '' then
  local format = redis.call('GETRANGE', KEYS[1], 0, 0)
  if format ~= '' and format ~= string.sub(ARGV[2], 1, 1) then
    return 2
  end
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif ARGV[3] ~= '0' then
  redis.call('SET', KEYS[2], 'hold', 'PX', ARGV[3])
end
return 1
""")

# Whether a script may run, and read its key.
PROBE = Script("return redis.call('GET', KEYS[1])")

# ARGV: the format byte, where in the entry its freshness stands, what to write there.
EXPIRE = Script("""
redis.call('UNLINK', KEYS[2])
if redis.call('GETRANGE', KEYS[1], 0, 0) == ARGV[1] then
  redis.call('SETRANGE', KEYS[1], ARGV[2], ARGV[3])
end
return 1
""")
