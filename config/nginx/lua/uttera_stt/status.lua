-- The router's own pages: what it knows of the nodes and what it does, as JSON and as HTML; and whether it can serve.

local cjson = require "cjson.safe"
local choice = require "uttera_stt.choice"
local shared = require "uttera_stt.shared"
local view = require "uttera_stt.view"

local status = {}

local function report()
    local now, nodes = ngx.now(), shared.view()
    local list = {}
    for _, node in ipairs(nodes.nodes) do
        table.insert(list, {
            id = node.id,
            address = node.host .. ":" .. node.port,
            version = node.version,
            load_score = node.load,
            accepts_requests = node.accepts,
            in_flight = shared.in_flight(node.id),
            score = choice.score(node, nodes, shared, now),
            stale = view.is_stale(node, nodes),
            unreachable = shared.is_down(node.id),
            requests = shared.counted("requests", node.id),
            failures = shared.counted("failures", node.id),
        })
    end
    return {
        redis = { error = shared.redis_error(), age_seconds = nodes.at > 0 and now - nodes.at or nil },
        records_are_current = view.is_current(nodes, now),
        retries = shared.counted("retries"),
        rejected = shared.counted("rejected"),
        mean_upload_bytes = math.floor(shared.mean_upload()),
        nodes = list,
    }
end

-- The report as JSON.
function status.json()
    ngx.header["Content-Type"] = "application/json"
    -- An empty table is an object to the library.
    ngx.say((cjson.encode(report()):gsub('"nodes":{}', '"nodes":[]')))
end

local function escaped(value)
    return (tostring(value):gsub("[&<>\"']", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }))
end

-- The report as a page.
function status.html()
    local now = report()
    local columns = { "id", "address", "version", "load_score", "in_flight", "score", "accepts_requests", "stale",
        "unreachable", "requests", "failures" }
    local out = { "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2>",
        "<title>Router</title><style>body{font-family:sans-serif}td,th{padding:.2em .8em;text-align:left}</style>",
        "<h1>Router</h1><p>Redis: ", escaped(now.redis.error or "read"),
        now.redis.age_seconds and string.format(", %.1f s ago", now.redis.age_seconds) or "",
        "; retries: ", now.retries, "; rejected: ", now.rejected, "</p><table><tr>" }
    for _, column in ipairs(columns) do
        table.insert(out, "<th>" .. column:gsub("_", " ") .. "</th>")
    end
    table.insert(out, "</tr>")
    for _, node in ipairs(now.nodes) do
        table.insert(out, "<tr>")
        for _, column in ipairs(columns) do
            local value = node[column]
            if column == "in_flight" or column == "score" then
                value = string.format("%.3f", value)
            end
            table.insert(out, "<td>" .. escaped(value == nil and "unknown" or value) .. "</td>")
        end
        table.insert(out, "</tr>")
    end
    table.insert(out, "</table>")
    ngx.header["Content-Type"] = "text/html; charset=utf-8"
    ngx.print(out)
end

-- 200 if a node accepts requests, else 503.
function status.ready()
    -- Candidates are of one class, and nodes that cannot be reached are the last one.
    local first = choice.candidates(shared.view(), shared, {}, ngx.now())[1]
    local can = first ~= nil and not shared.is_down(first.id)
    ngx.status = can and 200 or 503
    ngx.header["Content-Type"] = "application/json"
    ngx.say(can and '{"status":"ready"}' or '{"status":"no node accepts requests"}')
end

return status
