-- A connection to the Redis that has the records: the server of REDIS_URL, or the one that its sentinels name.

local redis = require "nginx.redis"
local names = require "uttera_stt.names"

local connection = {}

-- Time limit of each step, in milliseconds.
local LIMIT_MILLIS = 1000
-- How long a connection is kept for the next reading, in milliseconds, and how many to one server are.
local KEEP_MILLIS, KEPT = 10000, 2

-- The number of the sentinel that answered last.
local first_sentinel = 1

-- Tells a new connection who connects. `login` has tls, user, password and database.
local function log_in(opened, host, login)
    if login.tls then
        -- The library for Redis has no call for this, and the one below it raises an error for some failures.
        local socket = rawget(opened, "_sock")
        -- The library compares names only, not addresses: for an address, the authority of the certificate decides alone.
        local name = host
        if names.is_address(host) then
            name = nil
        end
        local called, session, why = pcall(socket.sslhandshake, socket, nil, name, true)
        if not called or not session then
            why = called and why or "is its certificate trusted (lua_ssl_trusted_certificate)?"
            return nil, "the TLS handshake failed: " .. tostring(why)
        end
    end
    local ok = true
    if login.user then
        ok = opened:auth(login.user, login.password or "")
    elseif login.password then
        ok = opened:auth(login.password)
    end
    if ok and login.database and login.database ~= 0 then
        ok = opened:select(login.database)
    end
    if not ok then
        -- The answer to AUTH may repeat the password.
        return nil, "it rejected the login or the number of the database"
    end
    return true
end

-- Connects to a server; `start` runs the look-up of its name.
local function connect(host, port, login, start)
    local opened = redis:new()
    opened:set_timeout(LIMIT_MILLIS)
    local ok, reason
    if login.path then
        ok, reason = opened:connect("unix:" .. login.path)
    else
        local address
        address, reason = names.address(host, ngx.now(), start)
        if not address then
            return nil, host .. " has no address: " .. (reason or "its name is being looked up")
        end
        if address:find(":", 1, true) then
            address = "[" .. address .. "]"
        end
        -- nginx keeps connections for each address and port.
        ok, reason = opened:connect(address, port)
    end
    if ok and opened:get_reused_times() == 0 then
        ok, reason = log_in(opened, host, login)
    end
    if not ok then
        opened:close()
        return nil, tostring(reason)
    end
    return opened
end

-- The host and port of the master that a sentinel names.
local function master(settings, start)
    local login = { tls = settings.tls, user = settings.sentinel_user, password = settings.sentinel_password }
    local reason
    for step = 0, #settings.sentinels - 1 do
        local number = (first_sentinel - 1 + step) % #settings.sentinels + 1
        local sentinel = settings.sentinels[number]
        local asked, answer
        asked, reason = connect(sentinel.host, sentinel.port, login, start)
        if asked then
            answer, reason = asked:sentinel("get-master-addr-by-name", settings.master)
            if type(answer) == "table" and tonumber(answer[2]) then
                connection.keep(asked)
                first_sentinel = number
                return answer[1], tonumber(answer[2])
            end
            asked:close()
            reason = reason or "it knows no master of this name"
        end
    end
    return nil, "no sentinel names the master: " .. tostring(reason)
end

-- A connection to the Redis of these settings (settings.redis), or nil and the reason.
function connection.open(settings, start)
    local host, port = settings.host, settings.port
    if settings.sentinels then
        host, port = master(settings, start)
        if not host then
            return nil, port
        end
    end
    return connect(host, port, settings, start)
end

-- Keeps a connection for the next reading.
function connection.keep(opened)
    opened:set_keepalive(KEEP_MILLIS, KEPT)
end

-- The hosts in these settings.
function connection.hosts(settings)
    local hosts = { settings.host }
    for _, sentinel in ipairs(settings.sentinels or {}) do
        table.insert(hosts, sentinel.host)
    end
    return hosts
end

return connection
