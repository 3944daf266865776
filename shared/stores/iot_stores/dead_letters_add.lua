-- Add an entry to the dead letters, once: a repeated drain reads the same entry again.
-- KEYS: stream of dead letters, set of the entries in that stream. ARGV: shard, entry id; then sealed bytes, reason
-- and time of receipt. Without these three, only check whether the entry is a dead letter.
-- Returns 1 if the entry was not a dead letter before, else 0.
local name, sealed, reason, received = ARGV[1] .. ' ' .. ARGV[2], unpack(ARGV, 3, 5)
-- SREM first, because it needs no memory: with maxmemory reached, Redis refuses SADD and XADD unless the script
-- has written already. Drains free memory, but the shard is not drained until the entry is a dead letter.
local known = redis.call('SREM', KEYS[2], name)
if known == 1 or sealed then
  redis.call('SADD', KEYS[2], name)
end
if known == 0 and sealed then
  redis.call('XADD', KEYS[1], '*', 'shard', ARGV[1], 'id', ARGV[2], 'e', sealed, 'reason', reason, 'r', received)
end
return 1 - known
