-- Let the cover of a shard begin, if nothing came between: it still ends at the same position.
-- KEYS: the shard's cover. ARGV: that position, the begin.
if redis.call('HGET', KEYS[1], 'position') == ARGV[1] then
  redis.call('HSETNX', KEYS[1], 'since', ARGV[2])
end
return 1
