-- Restores the salt ARGV[1] of a store that lost its data, and removes consumers of nodes that ended: without jobs, and
-- silent for ARGV[3] milliseconds. ARGV[2]: the consumer that asks. Returns the salt.
ensure_group()
redis.call('SETNX', P .. 'salt', ARGV[1])
for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', STREAM, GROUP)) do
  local consumer = {}
  for at = 1, #fields, 2 do
    consumer[fields[at]] = fields[at + 1]
  end
  if consumer.pending == 0 and consumer.idle > tonumber(ARGV[3]) and consumer.name ~= ARGV[2] then
    redis.call('XGROUP', 'DELCONSUMER', STREAM, GROUP, consumer.name)
  end
end
return redis.call('GET', P .. 'salt')
