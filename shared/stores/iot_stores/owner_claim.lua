-- Mark Redis as an installation's, unless it is marked.
-- KEYS: the mark; the mark of its keyring; the counters of the backlog, which a Redis Cluster refuses beside the others.
-- ARGV: id of the installation; empty: it is not known.
-- Returns the id and the keyring that Redis is marked with.
local held = redis.call('GET', KEYS[1])
if not held and ARGV[1] ~= '' then
  -- A Redis that is full lets a script that has written go on to its end. Without the mark no
  -- writer would drain it.
  redis.call('HDEL', KEYS[1], 'none')
  redis.call('SET', KEYS[1], ARGV[1])
  held = ARGV[1]
end
return {held or '', redis.call('GET', KEYS[2]) or ''}
