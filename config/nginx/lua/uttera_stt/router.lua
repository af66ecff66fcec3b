-- The phases of a request in nginx: how each gets its node, and what happens when the node fails.
--
-- Uploads of up to SMALL bytes are read first and kept in memory, so that they can go to another node. Larger ones are
-- passed on while they arrive; nginx cannot send those again, so the node is asked beforehand whether it accepts.

local balancer = require "ngx.balancer"
local cjson = require "cjson.safe"
local choice = require "uttera_stt.choice"
local probe = require "uttera_stt.probe"
local shared = require "uttera_stt.shared"

local router = {}

-- The largest upload that is kept in memory, in bytes; client_body_buffer_size must not be smaller.
local SMALL = 2 * 1024 * 1024
-- Attempts for one request after the first.
local MOST_RETRIES = 4
-- Time limits of a connection to a node, in seconds: to connect; to take the next part of the upload; and to send the
-- next part of the reply. A reply that is no stream comes at once when the whole file is transcribed.
local CONNECT_SECONDS, SEND_SECONDS, READ_SECONDS = 1, 120, 14400

-- Bytes of a reply with an ephemeral key, or with the ids of jobs, that are looked at.
local MOST_LEARNED = 65536

-- The reply of a node that has no job of a batch.
local EMPTY_LIST = '{"object":"list","data":[]}'

-- What is known of the requests that this worker process handles, by nginx's own id of each. ngx.ctx would not do: it
-- is lost when nginx turns to the location of an error.
local requests = {}

local function current()
    local id = ngx.var.request_id
    local request = requests[id]
    if not request then
        request = { tried = {}, attempts = 0 }
        requests[id] = request
    end
    return request
end

-- The node for a request; `is_unasked`: it gets the request without being asked before.
local function choose(request, is_unasked)
    ngx.update_time()
    return choice.choose(shared.view(), shared, request.tried, ngx.now(), math.random, request.is_light, is_unasked)
end

-- Gives the request's load back to its node.
local function release(request)
    if request.node then
        shared.add_flight(request.node.id, -request.load)
        request.last, request.node = request.node, nil
    end
end

-- Notes that a connection to a node failed.
local function failed(node, what)
    if shared.mark_down(node.id, ngx.now(), what == probe.SILENT) then
        ngx.log(ngx.WARN, "node ", node.id, " cannot be reached: ", what)
    end
    shared.count("failures", node.id)
end

-- Sets the head of a reply with an error, and returns its body in the format of the API.
local function begin_error(status, code, message, retry_after)
    ngx.status = status
    ngx.header["Content-Type"] = "application/json"
    ngx.header["Retry-After"] = retry_after
    local kind = status == 404 and "invalid_request_error" or "server_error"
    local content = { message = message, type = kind, param = cjson.null, code = code }
    return cjson.encode({ error = content, detail = message })
end

-- Replies with an error.
local function reply(status, code, message, retry_after)
    ngx.print(begin_error(status, code, message, retry_after))
    return ngx.exit(status)
end

local function reject()
    shared.count("rejected")
    local view = shared.view()
    if #view.nodes == 0 then
        return reply(503, "no_node", "no node is registered at the moment", choice.retry_after(math.random))
    end
    return reply(503, "overloaded", "no node accepts requests at the moment", choice.retry_after(math.random))
end

-- Asks nodes until one accepts; nil if none does.
local function ask(request)
    for _ = 0, MOST_RETRIES do
        local node = choose(request)
        if not node then
            return nil
        end
        local answer, reason = probe.ask(node)
        if answer then
            shared.mark_up(node.id)
        else
            failed(node, reason)
        end
        -- A full node takes jobs, which wait, and tells what it knows; the latter also when it drains.
        if answer == "accepts" or (answer == "full" and request.is_light) or (answer and request.is_safe) then
            return node
        end
        request.tried[node.id] = true
        if answer then
            shared.mark_busy(node.id, true)
        end
    end
    return nil
end

-- The ephemeral key in a request; nil if there is none.
local function ephemeral_key()
    local login = ngx.var.http_authorization or ngx.var.http_sec_websocket_protocol or ""
    return login:match("ek_%w+")
end

-- The node that alone knows what the request is about: it made the ephemeral key, or accepted the job. Nil if there is
-- none that can be reached; nodes that share their jobs answer for each other.
local function node_that_knows(request)
    local key = ephemeral_key()
    local id = key and shared.maker(key)
    if request.job then
        id = shared.node_of_job(request.job)
        request.node_of_job = id
    end
    local nodes = shared.view()
    for _, node in ipairs(id and nodes.nodes or {}) do
        if node.id == id and not shared.is_down(id) and not choice.may_hang(node, nodes, shared) then
            return node
        end
    end
    return nil
end

-- Before the upload is read (access_by_lua).
function router.admit()
    local request = current()
    local length = tonumber(ngx.var.http_content_length)
    local is_upgrade = ngx.var.http_upgrade ~= nil
    local kind = choice.kind(ngx.req.get_method(), ngx.var.uri, ngx.var.arg_batch, is_upgrade)
    request.is_safe, request.is_light = kind.is_safe, kind.is_light
    request.takes_jobs, request.job, request.asks_for = kind.takes_jobs, kind.job, kind.asks_for
    -- Over HTTP/2, a body needs no header.
    local has_body = not request.is_light or request.takes_jobs
    if length then
        has_body = length > 0
    elseif is_upgrade then
        has_body = false
    end
    request.bytes = has_body and length or nil
    request.load = choice.request_load(has_body and (length or shared.mean_upload()) or 0)
    if has_body and not (length and length <= SMALL) then
        request.streams = true
        request.asked = ask(request)
        if not request.asked then
            return reject()
        end
        return
    end
    request.asked = node_that_knows(request)
    if not request.asked and not choose(request, true) then
        -- What is left may hang.
        request.asked = ask(request)
        if not request.asked then
            return reject()
        end
    end
    if has_body then
        ngx.req.read_body()
    end
end

-- Whether the last attempt sent a part of the request. nginx has an entry for each attempt that got a node. Its time of
-- connecting would not do: it may be set for refused connections, too.
local function was_sent()
    local sent = "0"
    for entry in (ngx.var.upstream_bytes_sent or ""):gmatch("%d+") do
        sent = entry
    end
    return sent ~= "0"
end

-- Whether the attempt that failed may be followed by another.
local function judge_last(request)
    local node = request.last
    local _, status = balancer.get_last_failure()
    local sent = was_sent()
    -- nginx still has the head of the reply to the last attempt that got one.
    local is_unprocessed = status == 503 and ngx.var.upstream_http_x_not_processed == "1"
    if status == 503 then
        shared.mark_busy(node.id)
        request.retry_after = tonumber(ngx.var.upstream_http_retry_after)
    else
        failed(node, sent and "it closed the connection" or "no connection")
    end
    request.gave_up = status == 503 and not is_unprocessed
    return choice.may_retry(sent, is_unprocessed, request.is_safe)
end

-- Makes the best node that is left the one of the next attempt, and returns it; nil if there is none.
local function aim(request)
    while true do
        local node = request.asked or choose(request, true)
        request.asked = nil
        if not node then
            return nil
        end
        request.tried[node.id] = true
        local address = node.address:find(":", 1, true) and "[" .. node.address .. "]" or node.address
        local called, ok, reason = pcall(balancer.set_current_peer, address, node.port)
        if called and ok then
            return node
        end
        failed(node, "nginx cannot use its address: " .. tostring(reason or ok))
    end
end

-- For each attempt (balancer_by_lua).
function router.balance()
    local request = current()
    if request.attempts > 0 then
        release(request)
        if not judge_last(request) then
            request.lost = true
            -- nginx makes a 500 of this and of the 503 below; `explain` knows better.
            return ngx.exit(502)
        end
        shared.count("retries")
    end
    local node = aim(request)
    if not node then
        request.exhausted = true
        return ngx.exit(503)
    end
    if request.attempts == 0 then
        -- With as many attempts as there are nodes, the last rejection reaches the client as it is.
        local tried, light = request.tried, request.is_light
        local _, others = choice.candidates(shared.view(), shared, tried, ngx.now(), light, true)
        balancer.set_more_tries(math.min(math.max(others, 1), MOST_RETRIES))
    end
    request.attempts = request.attempts + 1
    request.node = node
    shared.add_flight(node.id, request.load)
    shared.count("requests", node.id)
    balancer.set_timeouts(CONNECT_SECONDS, SEND_SECONDS, READ_SECONDS)
end

-- Whether a node says that it does not know the job or the batch.
local function knows_none(request)
    if request.asks_for == "batch" then
        return ngx.status == 200 and tonumber(ngx.header["Content-Length"]) == #EMPTY_LIST
    end
    return request.asks_for == "job" and ngx.status == 404
end

-- Before the reply begins (header_filter_by_lua).
function router.label()
    local request = requests[ngx.var.request_id]
    local node = request and request.node
    if node then
        ngx.header["X-Node"] = node.id
    end
    if ngx.header["X-Request-Id"] == nil then
        ngx.header["X-Request-Id"] = ngx.var.uttera_request_id
    end
    local owner = request and request.node_of_job
    local is_shared = ngx.header["X-Jobs-Shared"] == "1"
    if node and owner and node.id ~= owner and knows_none(request) and not is_shared and shared.may_return(owner) then
        -- The node that has it may come back.
        local message = "the node that has the job cannot be reached at the moment"
        request.instead = begin_error(503, "jobs_unavailable", message, choice.retry_after(math.random))
        ngx.header["Content-Length"], ngx.header["Content-Encoding"] = #request.instead, nil
    end
end

-- The reply's body (body_filter_by_lua), of the paths of jobs and of those that make ephemeral keys: only the node that
-- made them knows them.
function router.learn()
    local request = requests[ngx.var.request_id]
    if request and request.instead then
        ngx.arg[1] = request.instead
        request.instead = ""
        return
    end
    local node = request and request.node
    if not node or ngx.req.get_method() ~= "POST" then
        return
    end
    request.body = (request.body or "") .. (ngx.arg[1] or "")
    if request.takes_jobs then
        for job in request.body:gmatch('"id":"([%w-]+)"') do
            shared.remember_job(job, node.id)
        end
    else
        local key = request.body:match('"(ek_%w+)"')
        if key then
            shared.remember_maker(key, node.id)
        end
    end
    -- What is looked for may be cut in two, but not be further away than this.
    request.body = #request.body > MOST_LEARNED and "" or request.body
end

-- Instead of nginx's own error pages (content_by_lua).
function router.explain()
    local request = current()
    local status = ngx.status
    if request.exhausted or status == 503 then
        return reject()
    elseif request.gave_up then
        local message = "the node could not finish the request, and may have begun to work on it; try again"
        return reply(503, "overloaded", message, request.retry_after or choice.retry_after(math.random))
    elseif request.lost or (request.attempts > 0 and was_sent()) then
        if status == 504 then
            return reply(504, "timeout", "the node gave no answer in time")
        end
        return reply(502, "node_lost", "the node that worked on the request was lost; it may be sent again")
    elseif status == 502 or status == 504 then
        -- No node could be reached, so nothing was begun.
        return reject()
    end
    return reply(500, "internal_error", "an unexpected error occurred; the router's log has the details")
end

-- For paths that each node has for itself (content_by_lua).
function router.not_here()
    return reply(404, "not_found", "the router does not pass " .. ngx.var.uri .. " on: ask the node itself")
end

-- After the request, however it ended (log_by_lua).
function router.finish()
    local id = ngx.var.request_id
    local request = requests[id]
    if not request then
        return
    end
    requests[id] = nil
    local node = request.node
    release(request)
    if request.bytes then
        shared.saw_upload(request.bytes)
    end
    if not node then
        return
    end
    local status = (ngx.var.upstream_status or ""):match("(%d+)%s*$")
    if status == "503" then
        shared.mark_busy(node.id)
    elseif status == "502" or status == "504" then
        if not was_sent() then
            failed(node, "no connection")
        end
    elseif status and shared.mark_up(node.id) then
        ngx.log(ngx.WARN, "node ", node.id, " answers again")
    end
end

return router
