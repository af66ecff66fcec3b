-- The router's settings: environment variables, or lines NAME=value of a file. The environment comes first. Plain Lua
-- without nginx.

local settings = {}

-- The settings with their defaults.
local KNOWN = {
    REDIS_URL = "redis://127.0.0.1:6379/0",
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

-- The parts of a Redis URL: { host, port, path (of a socket), user, password, database, tls }; nil and a reason, which
-- repeats no part of the URL, because that may be a password.
function settings.redis(url)
    local scheme, rest = url:match("^(%l+)://(.+)$")
    if scheme == "unix" then
        local path, query = rest:match("^(/[^?]*)%??(.*)$")
        if not path then
            return nil, "a unix:// URL needs an absolute path"
        end
        local parts = { path = unescaped(path), database = 0 }
        for name, value in query:gmatch("(%l+)=([^&]*)") do
            if name == "db" then
                parts.database = tonumber(value)
            elseif name == "user" then
                parts.user = unescaped(value)
            elseif name == "pass" then
                parts.password = unescaped(value)
            end
        end
        if not parts.database then
            return nil, "db is no number"
        end
        return parts
    end
    if scheme ~= "redis" and scheme ~= "rediss" then
        return nil, "it must begin with redis://, rediss:// or unix://"
    end
    if rest:find("[?#]") then
        return nil, "write %23 for # and %3F for ? in a user name or password"
    end
    local authority, database = rest:match("^([^/]*)/?(.*)$")
    local login, address = authority:match("^(.*)@([^@]*)$")
    address = address or authority
    local host, port = address:match("^%[(.-)%]:?(%d*)$")
    if not host then
        host, port = address:match("^([%w%.%-_]+):?(%d*)$")
    end
    if not host then
        return nil, "it has no host, or a port that is no number"
    end
    local parts = { host = host, port = tonumber(port) or 6379, database = 0, tls = scheme == "rediss" }
    if database ~= "" then
        parts.database = tonumber(database)
        if not parts.database then
            return nil, "what follows the host must be the number of the database"
        end
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
