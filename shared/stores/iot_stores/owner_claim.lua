-- Mark Redis with the id of an installation, unless Redis has a mark.
-- KEYS: the mark; the keyring's mark; the counters of the backlog, so that a Redis Cluster refuses the call (CROSSSLOT).
-- ARGV: id of the installation; empty if it is unknown.
-- Returns the marks in Redis: the id of the installation, and the keyring's mark; '' for a missing mark.
local mark = redis.call('GET', KEYS[1])
if not mark and ARGV[1] ~= '' then
  -- With maxmemory reached, Redis refuses SET unless the script has written already. Without the mark, no
  -- writer would drain this Redis. HDEL needs no memory, and there is nothing to delete.
  redis.call('HDEL', KEYS[1], 'none')
  redis.call('SET', KEYS[1], ARGV[1])
  mark = ARGV[1]
end
return {mark or '', redis.call('GET', KEYS[2]) or ''}
