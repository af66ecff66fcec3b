-- Returns how many queued jobs come before each of the jobs ARGV[1...], or -1.
local places = {}
for at, id in ipairs(ARGV) do
  places[at] = redis.call('ZRANK', key('state', 'queued'), id) or -1
end
return places
