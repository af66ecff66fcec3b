-- What the router knows of the nodes: their records in Redis, and how old that knowledge is. Plain Lua without nginx and
-- clocks of its own, so that it is tested alone.
--
-- A view:  { at = when Redis was last read, nodes = { node, … } }, nodes sorted by id.
-- A node:  { id, host, port, load (nil: unknown), accepts, version, ts,
--            changed = when its record was first seen as it is, gap = seconds between its last two records (nil: unknown),
--            missing = since when Redis has no record of it (nil: it has one) }
-- Times are those of this machine, in seconds: the clocks of the nodes may differ.

local names = require "uttera_stt.names"

local view = {}

-- The prefix of the keys of nodes.
view.PREFIX = "stt:nodes:"
-- How long the last view is believed, in seconds, while Redis is away.
view.TRUST_SECONDS = 30
-- The most nodes.
view.MOST_NODES = 200
-- Longer keys and values are of no node, in bytes.
view.MOST_BYTES = 4096
-- The longest id of a node, in bytes: it goes into a header.
local MOST_ID_BYTES = 255
-- Later times are none, in seconds since 1970.
local MOST_SECONDS = 1e11
-- The most bytes of a version that are kept.
local VERSION_BYTES = 64
-- How long nodes are kept that vanish from Redis together, in seconds.
local KEPT_SECONDS = 30
-- A record that was not renewed for this many of its usual gaps, and half a second, is stale.
local GAPS = 2
local GRACE_SECONDS = 0.5

local function is_number(value)
    -- Not a number is unequal to itself. JSON has no infinity, but 1e999 becomes one.
    return type(value) == "number" and value == value and math.abs(value) < math.huge
end

-- The node of a key and its decoded value; nil and the reason if the value is no record.
function view.node(key, record)
    if type(key) ~= "string" or key:sub(1, #view.PREFIX) ~= view.PREFIX then
        return nil, "its key has another prefix"
    end
    local id = key:sub(#view.PREFIX + 1)
    if id == "" or #id > MOST_ID_BYTES or id:find("[%c\127-\255]") then
        return nil, "its name cannot be in a header"
    end
    if type(record) ~= "table" then
        return nil, "its record is no JSON object"
    end
    local host, port = record.host, record.port
    -- Nodes write IPv6 addresses in brackets.
    host = type(host) == "string" and (host:match("^%[(.+)%]$") or host)
    if not host or not (names.is_address(host) or names.is_name(host)) then
        return nil, "its host is neither an address nor a name (NODE_HOST)"
    end
    if not is_number(port) or port < 1 or port > 65535 or port % 1 ~= 0 then
        return nil, "its port is no port"
    end
    local load
    if is_number(record.load_score) then
        load = math.min(math.max(record.load_score, 0), 1)
    end
    return {
        id = id,
        host = host,
        port = port,
        load = load,
        accepts = record.accepts_requests ~= false,
        version = type(record.version) == "string" and record.version:sub(1, VERSION_BYTES) or nil,
        -- To the millisecond, because the view is kept as JSON with 14 digits, and must not differ afterwards.
        ts = is_number(record.ts) and math.abs(record.ts) < MOST_SECONDS and math.floor(record.ts * 1000 + 0.5) / 1000
            or nil,
    }
end

-- The nodes of the earlier view that Redis has no record of any more and that are kept nevertheless: a Redis that was
-- restarted has no records until each node writes its own again. A node that leaves by itself is gone at once.
local function kept(earlier, is_there, now)
    local present, vanished, found = 0, {}, {}
    for _, node in ipairs(earlier) do
        if not node.missing then
            present = present + 1
        end
        if not is_there[node.id] then
            if not node.missing then
                table.insert(vanished, node)
            elseif now - node.missing <= KEPT_SECONDS then
                table.insert(found, node)
            end
        end
    end
    if #vanished * 2 >= present then
        for _, node in ipairs(vanished) do
            node.missing = now
            table.insert(found, node)
        end
    end
    return found
end

-- The view after Redis was read. `previous` may be nil; `nodes` comes from view.node.
function view.after(previous, nodes, now)
    local earlier, is_there, list = {}, {}, {}
    for _, node in ipairs(previous and previous.nodes or {}) do
        earlier[node.id] = node
    end
    for _, node in ipairs(nodes) do
        local before = earlier[node.id]
        node.changed = now
        if before and before.ts == node.ts then
            node.changed, node.gap = before.changed, before.gap
        elseif before and before.missing then
            -- The time without records says nothing about the pace of the node.
            node.gap = before.gap
        elseif before then
            node.gap = now - before.changed
        end
        is_there[node.id] = true
        table.insert(list, node)
    end
    for _, node in ipairs(kept(previous and previous.nodes or {}, is_there, now)) do
        table.insert(list, node)
    end
    table.sort(list, function(a, b)
        return a.id < b.id
    end)
    return { at = now, nodes = list }
end

-- Whether the records still tell the load of the nodes and which of them accept requests.
function view.is_current(nodes, now)
    return now - nodes.at <= view.TRUST_SECONDS
end

-- Whether a node has not renewed its record as usual: it may be stopped, or cut off. Records expire only some seconds
-- later.
function view.is_stale(node, nodes)
    if node.missing and nodes.at - node.missing > GRACE_SECONDS then
        return true
    end
    if not node.gap then
        return false
    end
    return nodes.at - node.changed > GAPS * node.gap + GRACE_SECONDS
end

return view
