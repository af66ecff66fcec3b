-- Reads the records of the nodes from Redis twice a second, in one worker process, and probes nodes that failed.

local cjson = require "cjson.safe"
local redis = require "nginx.redis"
local names = require "uttera_stt.names"
local probe = require "uttera_stt.probe"
local shared = require "uttera_stt.shared"
local view = require "uttera_stt.view"

local reader = {}

-- Pause between two readings, in seconds: that in which nodes renew their records.
local INTERVAL = 0.5
-- Time limit of each step with Redis, in milliseconds.
local LIMIT_MILLIS = 1000
-- How long a connection is kept for the next reading, in milliseconds.
local KEEP_MILLIS = 10000
-- Keys that Redis looks at for one SCAN, and the most SCANs of one reading.
local KEYS_PER_SCAN = 1000
local MOST_SCANS = 200

local reading = false

local function connect(settings)
    local connection = redis:new()
    connection:set_timeout(LIMIT_MILLIS)
    local ok, reason
    if settings.path then
        ok, reason = connection:connect("unix:" .. settings.path, { pool = "uttera_stt" })
    else
        local address
        address, reason = names.address(settings.host, ngx.now())
        if not address then
            return nil, "its host has no address: " .. tostring(reason)
        end
        if address:find(":", 1, true) then
            address = "[" .. address .. "]"
        end
        ok, reason = connection:connect(address, settings.port, { pool = "uttera_stt" })
    end
    if not ok then
        return nil, reason
    end
    if connection:get_reused_times() > 0 then
        return connection
    end
    if settings.tls then
        -- The library for Redis has no call for this, and the one below it raises an error for some failures.
        local socket = rawget(connection, "_sock")
        local called, session, why = pcall(socket.sslhandshake, socket, nil, settings.host, true)
        if not called or not session then
            why = called and why or "is its certificate trusted (lua_ssl_trusted_certificate)?"
            return nil, "the TLS handshake failed: " .. tostring(why)
        end
    end
    if settings.user then
        ok, reason = connection:auth(settings.user, settings.password or "")
    elseif settings.password then
        ok, reason = connection:auth(settings.password)
    end
    if ok and settings.database ~= 0 then
        ok, reason = connection:select(settings.database)
    end
    if not ok then
        -- The answer to AUTH may repeat the password.
        return nil, "it rejected the login or the number of the database", reason
    end
    return connection
end

-- All keys of nodes.
local function keys(connection)
    local found, seen, cursor = {}, {}, "0"
    for _ = 1, MOST_SCANS do
        local answer, reason = connection:scan(cursor, "MATCH", view.PREFIX .. "*", "COUNT", KEYS_PER_SCAN)
        if type(answer) ~= "table" then
            return nil, reason
        end
        cursor = answer[1]
        for _, key in ipairs(answer[2]) do
            if not seen[key] and #found < view.MOST_NODES then
                seen[key] = true
                table.insert(found, key)
            end
        end
        if cursor == "0" or #found >= view.MOST_NODES then
            break
        end
    end
    return found
end

local function nodes(connection)
    local found, reason = keys(connection)
    if not found then
        return nil, reason
    end
    if #found == 0 then
        return {}
    end
    local values
    values, reason = connection:mget(unpack(found))
    if type(values) ~= "table" then
        return nil, reason
    end
    local list = {}
    for index, key in ipairs(found) do
        local value = values[index]
        if type(value) == "string" and #value <= view.MOST_BYTES then
            local node = view.node(key, (cjson.decode(value)))
            local why = "its record cannot be read"
            if node then
                node.address, why = names.address(node.host, ngx.now())
            end
            if node and node.address then
                table.insert(list, node)
            else
                ngx.log(ngx.WARN, "the node of ", key, " is left out: ", why)
            end
        end
    end
    return list
end

local function read(settings)
    local connection, reason = connect(settings)
    if not connection then
        return nil, reason
    end
    local list
    list, reason = nodes(connection)
    if not list then
        connection:close()
        return nil, reason
    end
    connection:set_keepalive(KEEP_MILLIS, 2)
    return list
end

local function check(premature, node)
    if premature then
        return
    end
    local answer, reason = probe.ask(node)
    if not answer then
        if shared.mark_down(node.id, ngx.now()) then
            ngx.log(ngx.WARN, "node ", node.id, " cannot be reached: ", reason)
        end
        return
    end
    if shared.mark_up(node.id) then
        ngx.log(ngx.WARN, "node ", node.id, " answers again")
    end
    if answer == "rejects" then
        shared.mark_busy(node.id)
    end
end

local function tick(premature, settings)
    -- A reading that takes longer than the pause is not overtaken by the next.
    if premature or reading then
        return
    end
    reading = true
    local called, list, reason = pcall(read, settings)
    reading = false
    ngx.update_time()
    local now = ngx.now()
    if not called then
        list, reason = nil, list
    end
    if list then
        shared.set_view(view.after(shared.view(), list, now))
        reason = nil
    else
        reason = tostring(reason)
    end
    if shared.set_redis_error(reason) then
        ngx.log(ngx.WARN, reason and "Redis cannot be read: " .. reason or "Redis can be read")
    end
    local current = shared.view()
    local is_current = view.is_current(current, now)
    for _, node in ipairs(current.nodes) do
        if shared.is_probe_due(node.id, now) or (not is_current and shared.is_check_due(node.id)) then
            ngx.timer.at(0, check, node)
        end
    end
end

-- Starts reading (init_worker_by_lua).
function reader.start(settings)
    if ngx.worker.id() ~= 0 then
        return
    end
    ngx.timer.at(0, tick, settings)
    ngx.timer.every(INTERVAL, tick, settings)
end

return reader
