-- Takes callbacks that are due at the time ARGV[1], at most ARGV[3]: until ARGV[2], they are due for no other node.
-- Returns the time of the next one (may be empty), and the jobs.
local ids = redis.call('ZRANGEBYSCORE', P .. 'callbacks', '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  redis.call('ZADD', P .. 'callbacks', ARGV[2], id)
end
local found = jobs(ids)
local next = redis.call('ZRANGE', P .. 'callbacks', 0, 0, 'WITHSCORES')
table.insert(found, 1, next[2] or '')
return found
