-- Copy an entry to the dead letters unless it is there: a drain that is repeated meets it again.
-- KEYS: dead letters, set of the entries there. ARGV: shard, entry id, sealed, reason.
if redis.call('SADD', KEYS[2], ARGV[1] .. ' ' .. ARGV[2]) == 0 then
  return 0
end
redis.call('XADD', KEYS[1], '*', 'shard', ARGV[1], 'id', ARGV[2], 'e', ARGV[3], 'reason', ARGV[4])
return 1
