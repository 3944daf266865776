-- Sends the bodies of a file, one per line, in turn. Prints the result at the end.
-- Arguments: file, method, path, content type, number of wrk's threads.
local threads = 0

function setup(thread)
  thread:set("number", threads)
  threads = threads + 1
end

function init(args)
  requests = {}
  local headers = {["Content-Type"] = args[4]}
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format(args[2], args[3], headers, line)
  end
  -- Each thread begins at another body, so that no two threads send the same body at a time.
  at = math.floor(number * #requests / tonumber(args[5]))
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\nresult {"requests": %d, "seconds": %f, "refused": %d, "broken": %d, "p99_ms": %f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(99) / 1e3))
end
