-- What the router knows of the nodes: their records in Redis, and how old that knowledge is. Plain Lua without nginx and
-- clocks of its own, so that it is tested alone.
--
-- A view:  { at = when Redis was last read, nodes = { node, … } }, nodes sorted by id.
-- A node:  { id, host, port, load (nil: unknown), accepts, version, ts,
--            changed = when its record was first seen as it is, gap = seconds between its last two records (nil: unknown) }
-- Times are those of this machine, in seconds: the clocks of the nodes may differ.

local view = {}

-- The prefix of the keys of nodes.
view.PREFIX = "stt:nodes:"
-- How long the last view is believed, in seconds, while Redis is away.
view.TRUST_SECONDS = 30
-- The most nodes.
view.MOST_NODES = 200
-- Longer keys and values are of no node, in bytes.
view.MOST_BYTES = 4096
-- A record that was not renewed for this many of its usual gaps, and half a second, is stale.
local GAPS = 2
local GRACE_SECONDS = 0.5

local function is_number(value)
    -- Not a number is unequal to itself.
    return type(value) == "number" and value == value
end

-- The node of a key and its decoded value; nil if the value is no record.
function view.node(key, record)
    if type(key) ~= "string" or key:sub(1, #view.PREFIX) ~= view.PREFIX or #key > view.MOST_BYTES then
        return nil
    end
    local id = key:sub(#view.PREFIX + 1)
    -- The id goes into a header.
    if id == "" or id:find("[%c\127-\255]") then
        return nil
    end
    if type(record) ~= "table" then
        return nil
    end
    local host, port = record.host, record.port
    -- Nodes write IPv6 addresses in brackets.
    host = type(host) == "string" and (host:match("^%[(.+)%]$") or host)
    if not host or not host:find("^[%w%.%-_:]+$") then
        return nil
    end
    if not is_number(port) or port < 1 or port > 65535 or port % 1 ~= 0 then
        return nil
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
        version = type(record.version) == "string" and record.version or nil,
        ts = is_number(record.ts) and record.ts or nil,
    }
end

-- The view after Redis was read. `previous` may be nil; `nodes` comes from view.node.
function view.after(previous, nodes, now)
    if #nodes == 0 and previous and #previous.nodes > 0 and now - previous.at <= view.TRUST_SECONDS then
        -- A Redis that was restarted is empty until the nodes write again: the same as one that is away.
        return previous
    end
    local earlier = {}
    for _, node in ipairs(previous and previous.nodes or {}) do
        earlier[node.id] = node
    end
    for _, node in ipairs(nodes) do
        local before = earlier[node.id]
        node.changed = now
        if before and before.ts == node.ts then
            node.changed, node.gap = before.changed, before.gap
        elseif before then
            node.gap = now - before.changed
        end
    end
    table.sort(nodes, function(a, b)
        return a.id < b.id
    end)
    return { at = now, nodes = nodes }
end

-- Whether the records still tell the load of the nodes and which of them accept requests.
function view.is_current(nodes, now)
    return now - nodes.at <= view.TRUST_SECONDS
end

-- Whether a node has not renewed its record as usual: it may be stopped, or cut off. Records expire only some seconds
-- later.
function view.is_stale(node, nodes)
    if not node.gap then
        return false
    end
    return nodes.at - node.changed > GAPS * node.gap + GRACE_SECONDS
end

return view
