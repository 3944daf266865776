-- Add an entry to the dead letters, once: a repeated drain reads the same entry again.
-- KEYS: stream of dead letters, set of the entries in that stream. ARGV: shard, entry id, sealed bytes, reason.
-- Returns 1 if the entry was added, 0 if it is a dead letter already.
if redis.call('SADD', KEYS[2], ARGV[1] .. ' ' .. ARGV[2]) == 0 then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'shard', ARGV[1], 'id', ARGV[2], 'e', ARGV[3], 'reason', ARGV[4])
return 1
