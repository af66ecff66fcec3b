-- Returns the jobs that are not over.
local ids = redis.call('ZRANGE', key('state', 'queued'), 0, -1)
for _, id in ipairs(redis.call('ZRANGE', key('state', 'running'), 0, -1)) do
  ids[#ids + 1] = id
end
return jobs(ids)
