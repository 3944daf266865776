-- Mark Redis with the id of an installation, unless Redis has a mark.
-- KEYS: the mark; the keyring's mark; the counters of the backlog, so that a Redis Cluster refuses the call (CROSSSLOT).
-- ARGV: id of the installation; empty if it is unknown.
-- Returns the marks in Redis: the id of the installation, and the keyring's mark; '' for a missing mark.

-- Return the mark in a key; false if the key is missing, or if another program wrote a value of another type.
local function mark_in(key)
  local mark = redis.pcall('GET', key)
  if type(mark) ~= 'table' then
    return mark
  end
  return not string.find(mark.err, 'WRONGTYPE', 1, true) and redis.call('GET', key) -- raises the error
end

local mark = mark_in(KEYS[1])
if not mark and ARGV[1] ~= '' then
  -- With maxmemory reached, Redis refuses SET unless the script has written already. Without the mark, no
  -- writer would drain this Redis. HDEL needs no memory, and there is nothing to delete.
  redis.pcall('HDEL', KEYS[1], 'none')
  redis.call('SET', KEYS[1], ARGV[1])
  mark = ARGV[1]
end
return {mark or '', mark_in(KEYS[2]) or ''}
