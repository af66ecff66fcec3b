-- Gives the consumer ARGV[1] a job whose lease was not renewed for ARGV[2] milliseconds, or the next one. Returns the
-- job and its finished parts, or nothing.
ensure_group()
while true do
  local entry
  local idle = redis.call('XAUTOCLAIM', STREAM, GROUP, ARGV[1], ARGV[2], '0-0', 'COUNT', 1)
  if idle[2][1] then
    entry = idle[2][1]
  else
    local new = redis.call('XREADGROUP', 'GROUP', GROUP, ARGV[1], 'COUNT', 1, 'STREAMS', STREAM, '>')
    entry = new and new[1] and new[1][2][1]
  end
  if not entry then
    return {}
  end
  local id = entry[2][2]
  local json = redis.call('GET', key('job', id))
  if json and meta(id, 'entry') == entry[1] and not is_over(meta(id, 'state')) then
    local found = redis.call('LRANGE', key('parts', id), 0, -1)
    table.insert(found, 1, json)
    return found
  end
  -- The job was removed, or is over.
  redis.call('XACK', STREAM, GROUP, entry[1])
  redis.call('XDEL', STREAM, entry[1])
end
