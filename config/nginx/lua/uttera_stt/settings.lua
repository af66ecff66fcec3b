-- The router's settings: environment variables, or lines NAME=value of a file. The environment comes first. Plain Lua
-- without nginx.

local settings = {}

-- The settings with their defaults.
local KNOWN = {
    REDIS_URL = "redis://127.0.0.1:6379/0",
}

-- The schemes of URLs; "tls": with TLS.
local SCHEMES = {
    unix = "socket",
    redis = "plain",
    valkey = "plain",
    ["redis+sentinel"] = "plain",
    rediss = "tls",
    valkeys = "tls",
    ["rediss+sentinel"] = "tls",
}

local function unescaped(text)
    return (text:gsub("%%(%x%x)", function(digits)
        return string.char(tonumber(digits, 16))
    end))
end

-- The names and values in a file of settings; lines that are empty or begin with # are ignored.
function settings.parse(text)
    local values = {}
    for line in text:gmatch("[^\r\n]+") do
        local name, value = line:match("^%s*([%u_%d]+)%s*=%s*(.-)%s*$")
        if name then
            values[name] = value:match('^"(.*)"$') or value:match("^'(.*)'$") or value
        end
    end
    return values
end

-- The values of a query whose names are known; nil if there is another one.
local function query_values(query, known)
    local values = {}
    for pair in query:gmatch("[^&]+") do
        local name, value = pair:match("^([%l_]+)=(.*)$")
        if not name or not known[name] then
            return nil
        end
        values[name] = unescaped(value)
    end
    return values
end

-- The host and port of an address; nil if it is none.
local function host_and_port(address, usual_port)
    local host, port = address:match("^%[(.-)%](.*)$")
    if not host then
        host, port = address:match("^([%w%.%-_]+)(.*)$")
    end
    if not host or not (port == "" or port:find("^:%d*$")) then
        return nil
    end
    return { host = host, port = tonumber(port:sub(2)) or usual_port }
end

local function of_socket(main, query)
    local values = query_values(query, { db = true, user = true, pass = true, protocol = true })
    if main:sub(1, 1) ~= "/" or not values then
        return nil, "a unix:// URL needs an absolute path, and has db, user and pass behind ?"
    end
    local database = tonumber(values.db or 0)
    if not database then
        return nil, "db is no number"
    end
    return { path = unescaped(main), database = database, user = values.user, password = values.pass }
end

-- The parts of a Redis URL: { host, port, path (of a socket), user, password, database, tls }, or with sentinels
-- { sentinels = { { host, port }, … }, master, sentinel_user, sentinel_password, … } in place of the host; nil and a reason,
-- which repeats no part of the URL, because that may be a password.
function settings.redis(url)
    local scheme, rest = url:match("^([%l+]+)://(.+)$")
    if not scheme or not SCHEMES[scheme] then
        return nil, "it must begin with redis://, rediss://, redis+sentinel://, rediss+sentinel:// or unix://"
    end
    if rest:find("#", 1, true) then
        return nil, "write %23 for # in a user name or password"
    end
    local main, query = rest:match("^([^?]*)%??(.*)$")
    if scheme == "unix" then
        return of_socket(main, query)
    end
    local of_sentinels = scheme:find("+", 1, true) ~= nil
    local known = of_sentinels and { sentinel_user = true, sentinel_password = true } or { protocol = true }
    local values = query_values(query, known)
    if not values then
        return nil, "write %3F for ? in a user name or password"
    end
    local authority, path = main:match("^([^/]*)/?(.*)$")
    local login, addresses = authority:match("^(.*)@([^@]*)$")
    addresses = addresses or authority
    local parts = { tls = SCHEMES[scheme] == "tls" }
    local database = path
    if of_sentinels then
        parts.master, database = path:match("^([^/]+)/?(.*)$")
        if not parts.master then
            return nil, "the name of the master is missing"
        end
        parts.sentinel_user, parts.sentinel_password = values.sentinel_user, values.sentinel_password
        parts.sentinels = {}
        for address in addresses:gmatch("[^,]+") do
            table.insert(parts.sentinels, host_and_port(address, 26379))
        end
        local _, commas = addresses:gsub(",", "")
        if #parts.sentinels == 0 or #parts.sentinels ~= commas + 1 then
            return nil, "a sentinel has no host, or a port that is no number"
        end
    else
        local server = host_and_port(addresses, 6379)
        if not server then
            return nil, "it has no host, or a port that is no number"
        end
        parts.host, parts.port = server.host, server.port
    end
    parts.database = database == "" and 0 or tonumber(database)
    if not parts.database then
        return nil, "the number of the database is none"
    end
    if login then
        local user, password = login:match("^([^:]*):(.*)$")
        parts.user = user and user ~= "" and unescaped(user) or nil
        parts.password = unescaped(password or login)
    end
    return parts
end

-- The settings. `getenv` and `read` (the text of a file, or nil) are those of the system.
function settings.load(path, getenv, read)
    local in_file = settings.parse(read(path) or "")
    local values = {}
    for name, default in pairs(KNOWN) do
        local value = getenv(name)
        if not value or value == "" then
            value = in_file[name]
        end
        if not value or value == "" then
            value = default
        end
        values[name] = value
    end
    local redis, reason = settings.redis(values.REDIS_URL)
    if not redis then
        return nil, "REDIS_URL is invalid: " .. reason
    end
    return { redis = redis }
end

return settings
