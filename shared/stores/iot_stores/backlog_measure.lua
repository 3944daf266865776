-- Find how many of the oldest entries of a stream have a given number of sealed bytes together.
-- KEYS: stream. ARGV: number of bytes, maximum number of entries.
-- Returns {id of the last of these entries, their number, their sealed bytes}. Fewer bytes: the stream has no more, or
-- the maximum number of entries is reached. The id is '-' if the stream is empty.
local max_bytes, max_entries = tonumber(ARGV[1]), tonumber(ARGV[2])
local PAGE = 16 -- entries that Redis copies at once: each may have megabytes
local last, entries, bytes = '-', 0, 0
repeat
  local from = entries > 0 and '(' .. last or '-'
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', PAGE)
  for _, entry in ipairs(page) do
    last, entries = entry[1], entries + 1
    for i = 1, #entry[2], 2 do
      bytes = bytes + (entry[2][i] == 'e' and #entry[2][i + 1] or 0)
    end
    if bytes >= max_bytes or entries >= max_entries then
      return {last, entries, bytes}
    end
  end
until #page < PAGE
return {last, entries, bytes}
