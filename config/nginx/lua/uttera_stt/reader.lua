-- Reads the records of the nodes from Redis twice a second, in one worker process, and probes nodes that failed.

local cjson = require "cjson.safe"
local connection = require "uttera_stt.connection"
local names = require "uttera_stt.names"
local probe = require "uttera_stt.probe"
local shared = require "uttera_stt.shared"
local view = require "uttera_stt.view"

local reader = {}

-- Pause between two readings, in seconds: that in which nodes renew their records.
local INTERVAL = 0.5
-- Keys that Redis looks at for one SCAN, and the most SCANs of one reading.
local KEYS_PER_SCAN = 1000
local MOST_SCANS = 200

-- Seconds between two looks for worker processes that are gone.
local LOST_WORKERS_INTERVAL = 2
-- The most bytes of a key in the log.
local LOGGED_BYTES = 100

local reading = false
-- What was last logged of each key that is left out.
local complaints = {}

-- Runs a task beside this one.
local function start(task)
    return ngx.timer.at(0, function(premature)
        if not premature then
            task()
        end
    end)
end

-- All keys of nodes.
local function keys(redis)
    local found, seen, cursor = {}, {}, "0"
    for _ = 1, MOST_SCANS do
        local answer, reason = redis:scan(cursor, "MATCH", view.PREFIX .. "*", "COUNT", KEYS_PER_SCAN)
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
        if cursor == "0" then
            return found
        elseif #found >= view.MOST_NODES then
            return found, "there are more than " .. view.MOST_NODES .. " nodes: the router uses these many"
        end
    end
    return nil, "it has too many other keys: give the nodes a database of their own"
end

-- A key as the log shows it.
local function shown(key)
    local short = key:sub(1, LOGGED_BYTES):gsub("[^ -~]", function(byte)
        return string.format("\\x%02x", byte:byte())
    end)
    return short .. (#key > LOGGED_BYTES and "…" or "")
end

-- Logs why keys are left out, each once as long as the reason stays.
local function complain(reasons)
    for key, reason in pairs(reasons) do
        if complaints[key] ~= reason then
            ngx.log(ngx.WARN, "the node of ", shown(key), " is left out: ", reason)
        end
    end
    complaints = reasons
end

-- The addresses of the nodes that are known, by host. They are there after a reload as well.
local function known_addresses()
    local known = {}
    for _, node in ipairs(shared.view().nodes) do
        known[node.host] = node.address
    end
    return known
end

local function nodes(redis)
    local found, reason = keys(redis)
    if not found then
        return nil, reason
    end
    local values, list, reasons, hosts = {}, {}, {}, {}
    if reason then
        reasons[view.PREFIX .. "*"] = reason
    end
    if #found > 0 then
        values, reason = redis:mget(unpack(found))
        if type(values) ~= "table" then
            return nil, reason
        end
    end
    local known = known_addresses()
    for index, key in ipairs(found) do
        local value = values[index]
        -- Without a value, the record has just expired.
        if type(value) == "string" and #value > view.MOST_BYTES then
            reasons[key] = "its record is too long"
        elseif type(value) == "string" then
            local node, why = view.node(key, (cjson.decode(value)))
            if node then
                hosts[node.host] = true
                node.address, why = names.address(node.host, ngx.now(), start)
                node.address = node.address or known[node.host]
            end
            if node and node.address then
                table.insert(list, node)
            else
                reasons[key] = why
            end
        end
    end
    complain(reasons)
    return list, hosts
end

local function read(settings)
    local redis, reason = connection.open(settings, start)
    if not redis then
        return nil, reason
    end
    local list, hosts = nodes(redis)
    if not list then
        redis:close()
        return nil, hosts
    end
    connection.keep(redis)
    for _, host in ipairs(connection.hosts(settings)) do
        hosts[host] = true
    end
    names.retain(hosts)
    return list
end

local function check(premature, node)
    if premature then
        return
    end
    local answer, reason = probe.ask(node)
    if not answer then
        if shared.mark_down(node.id, ngx.now(), reason == probe.SILENT) then
            ngx.log(ngx.WARN, "node ", node.id, " cannot be reached: ", reason)
        end
        return
    end
    if shared.mark_up(node.id) then
        ngx.log(ngx.WARN, "node ", node.id, " answers again")
    end
    if answer ~= "accepts" then
        shared.mark_busy(node.id, true)
    end
end

-- Reads the records into the view, and probes nodes whose state nothing else tells.
local function look(settings)
    local list, reason = read(settings)
    ngx.update_time()
    local now = ngx.now()
    local is_kept
    if list then
        is_kept, reason = shared.set_view(view.after(shared.view(), list, now))
    end
    local current = shared.view()
    local is_current = view.is_current(current, now)
    for _, node in ipairs(current.nodes) do
        local is_unknown = not is_current or view.is_stale(node, current)
        if shared.is_probe_due(node.id, now) or (is_unknown and shared.is_check_due(node.id)) then
            ngx.timer.at(0, check, node)
        end
    end
    return is_kept, reason
end

local function tick(premature, settings)
    -- A reading that takes longer than the pause is not overtaken by the next.
    if premature or reading then
        return
    end
    reading = true
    -- Whatever happens, the next tick comes, and the status tells what went wrong.
    local called, is_read, reason = pcall(look, settings)
    reading = false
    if not called then
        reason = "the router failed: " .. tostring(is_read)
    elseif not is_read then
        reason = tostring(reason)
    else
        reason = nil
    end
    if shared.set_redis_error(reason) then
        ngx.log(ngx.WARN, reason and "Redis cannot be read: " .. reason or "Redis can be read")
    end
end

local function forget_lost_workers(premature)
    if not premature then
        shared.forget_lost_workers()
    end
end

-- Starts reading (init_worker_by_lua).
function reader.start(settings)
    if ngx.worker.id() ~= 0 then
        return
    end
    ngx.timer.at(0, tick, settings)
    ngx.timer.every(INTERVAL, tick, settings)
    ngx.timer.every(LOST_WORKERS_INTERVAL, forget_lost_workers)
end

return reader
