-- Stores the state of a callback. ARGV: id, job as JSON, time of the next attempt (empty: none).
local id, json, at = unpack(ARGV)
if redis.call('EXISTS', key('job', id)) == 0 then
  return 0
end
redis.call('SET', key('job', id), json)
if at == '' then
  redis.call('ZREM', P .. 'callbacks', id)
else
  redis.call('ZADD', P .. 'callbacks', at, id)
end
return 1
