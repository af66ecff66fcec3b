-- Asking a node by itself, without a client's request.

local probe = {}

-- Time limit of each step, in milliseconds.
local LIMIT_MILLIS = 1000
-- The most bytes of a reply that are read.
local MOST_BYTES = 65536

-- The reason if a node accepts a connection, and does not answer.
probe.SILENT = "it gave no answer in time"

-- Asks a node whether it accepts requests: "accepts"; "full", when it would only take jobs; "drains", when it takes
-- nothing; or nil and a reason if it gives no usable answer.
function probe.ask(node)
    local socket = ngx.socket.tcp()
    socket:settimeout(LIMIT_MILLIS)
    local address = node.address
    if address:find(":", 1, true) then
        address = "[" .. address .. "]"
    end
    local ok, reason = socket:connect(address, node.port)
    if not ok then
        return nil, reason
    end
    ok, reason = socket:send("GET /health HTTP/1.0\r\nHost: " .. node.host .. "\r\nConnection: close\r\n\r\n")
    if not ok then
        return nil, reason
    end
    local reply, why, partial = socket:receive(MOST_BYTES)
    socket:close()
    reply = reply or partial
    if not reply or reply == "" then
        return nil, why == "timeout" and probe.SILENT or why
    end
    if reply:find("^HTTP/1%.%d 200") and reply:find('"accepts_requests"%s*:%s*true') then
        return "accepts"
    end
    return reply:find('"status"%s*:%s*"draining"') and "drains" or "full"
end

return probe
