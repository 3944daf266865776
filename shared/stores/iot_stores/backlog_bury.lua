-- Copy an entry to the dead letters unless that was done before: a drain that is repeated meets
-- the same entries, in the same order.
-- KEYS: dead letters, id of the shard's last dead letter. ARGV: shard, entry id, sealed, reason.
local function parts(id)
  local milliseconds, sequence = string.match(id, '(%d+)-(%d+)')
  return tonumber(milliseconds), tonumber(sequence)
end
local last = redis.call('GET', KEYS[2])
if last then
  local last_ms, last_seq = parts(last)
  local ms, seq = parts(ARGV[2])
  if ms < last_ms or (ms == last_ms and seq <= last_seq) then
    return 0
  end
end
redis.call('XADD', KEYS[1], '*', 'shard', ARGV[1], 'id', ARGV[2], 'e', ARGV[3], 'reason', ARGV[4])
redis.call('SET', KEYS[2], ARGV[2])
return 1
