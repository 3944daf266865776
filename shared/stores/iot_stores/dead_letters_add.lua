-- Add an entry to the dead letters, once: a repeated drain reads the same entry again.
-- KEYS: stream of dead letters, set of the entries in that stream. ARGV: shard, entry id, sealed bytes, reason.
-- Returns 1 if the entry was added, 0 if it is a dead letter already.
local name = ARGV[1] .. ' ' .. ARGV[2]
-- SREM first, because it needs no memory: with maxmemory reached, Redis refuses SADD and XADD unless the script
-- has written already. Until the entry is a dead letter, its shard is not drained, which would free memory.
local known = redis.call('SREM', KEYS[2], name)
redis.call('SADD', KEYS[2], name)
if known == 0 then
  redis.call('XADD', KEYS[1], '*', 'shard', ARGV[1], 'id', ARGV[2], 'e', ARGV[3], 'reason', ARGV[4])
end
return 1 - known
