-- Returns the numbers of jobs by state, those of the client ARGV[1], and the bytes of audio.
local counts = {}
for place, state in ipairs({'queued', 'running', 'done', 'failed'}) do
  counts[place] = redis.call('ZCARD', key('state', state))
end
counts[5] = redis.call('SCARD', key('client', ARGV[1]))
counts[6] = math.max(tonumber(redis.call('GET', P .. 'bytes') or 0), 0)
return counts
