-- Gives the consumer ARGV[1] a job whose lease was not renewed for ARGV[2] milliseconds, or the next one. ARGV[3...]: ids of
-- jobs that the consumer works on, may still work on, or leaves alone; it gets none of them that was taken before. Returns
-- the id of a job, the job and its finished parts, or nothing.
ensure_group()
local consumer, lease = ARGV[1], tonumber(ARGV[2])
local left_alone = {}
for at = 3, #ARGV do
  left_alone[ARGV[at]] = true
end

redis.call('ZREMRANGEBYSCORE', P .. 'resting', '-inf', time())
for _, id in ipairs(redis.call('ZRANGE', P .. 'resting', 0, -1)) do
  left_alone[id] = true
end

-- The job of an entry and its parts; nil if the entry has no open job (any more): then it is dropped.
local function open_job(entry, id)
  local json = id and redis.call('GET', key('job', id))
  if json and meta(id, 'entry') == entry and not is_over(meta(id, 'state')) then
    local found = redis.call('LRANGE', key('parts', id), 0, -1)
    table.insert(found, 1, json)
    table.insert(found, 1, id)
    return found
  end
  redis.call('XACK', STREAM, GROUP, entry)
  redis.call('XDEL', STREAM, entry)
end

-- All entries are looked at: those in front may be leased, or the consumer's own.
local from = '-'
while true do
  local idle = redis.call('XPENDING', STREAM, GROUP, 'IDLE', lease, from, '+', 100)
  for _, pending in ipairs(idle) do
    local entry = pending[1]
    local fields = redis.call('XRANGE', STREAM, entry, entry)[1]
    local id = fields and fields[2][2]
    if not (id and left_alone[id]) then
      local found = open_job(entry, id)
      if found then
        redis.call('XCLAIM', STREAM, GROUP, consumer, 0, entry, 'JUSTID')
        return found
      end
    end
    from = '(' .. entry
  end
  if #idle < 100 then
    break
  end
end
while true do
  local new = redis.call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', 1, 'STREAMS', STREAM, '>')
  local entry = new and new[1] and new[1][2][1]
  if not entry then
    return {}
  end
  local found = open_job(entry[1], entry[2][2])
  if found then
    return found
  end
end
