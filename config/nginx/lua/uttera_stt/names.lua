-- Addresses of host names: the file of hosts, then the name servers of this machine. nginx connects to addresses only.

local names = {}

-- How long an answer is kept at most, and at least, in seconds.
local MOST_SECONDS = 60
local LEAST_SECONDS = 5
-- Time limit of a question, in milliseconds, and the number of tries.
local LIMIT_MILLIS = 500
local TRIES = 2

-- Whether it is an address already.
function names.is_address(host)
    return host:find("^%d+%.%d+%.%d+%.%d+$") ~= nil or host:find(":", 1, true) ~= nil
end

-- The addresses in the text of a file of hosts, by lower-case name; IPv4 is preferred.
function names.hosts(text)
    local found = {}
    for line in text:gmatch("[^\r\n]+") do
        local address, rest = line:gsub("#.*", ""):match("^%s*(%S+)%s+(.+)$")
        if address then
            for name in rest:gmatch("%S+") do
                name = name:lower()
                if not found[name] or (found[name]:find(":", 1, true) and not address:find(":", 1, true)) then
                    found[name] = address
                end
            end
        end
    end
    return found
end

-- The name servers and search domains in the text of resolv.conf.
function names.resolver(text)
    local servers, domains = {}, {}
    for line in text:gmatch("[^\r\n]+") do
        local server = line:match("^%s*nameserver%s+([^%s%%]+)")
        if server then
            table.insert(servers, server)
        end
        local search = line:match("^%s*search%s+(.+)$") or line:match("^%s*domain%s+(.+)$")
        if search then
            domains = {}
            for domain in search:gmatch("%S+") do
                table.insert(domains, domain)
            end
        end
    end
    return servers, domains
end

-- The names to ask for, in order.
function names.candidates(host, domains)
    local candidates = {}
    if host:find(".", 1, true) then
        table.insert(candidates, host)
    end
    for _, domain in ipairs(domains) do
        table.insert(candidates, host .. "." .. domain)
    end
    if not host:find(".", 1, true) then
        table.insert(candidates, host)
    end
    return candidates
end

local function contents(path)
    local file = io.open(path, "r")
    if not file then
        return ""
    end
    local text = file:read(256 * 1024)
    file:close()
    return text or ""
end

local cache = {}

local function ask(host)
    local resolver = require "nginx.dns.resolver"
    local servers, domains = names.resolver(contents("/etc/resolv.conf"))
    if #servers == 0 then
        return nil, 0, "/etc/resolv.conf names no server"
    end
    local asker, reason = resolver:new({ nameservers = servers, retrans = TRIES, timeout = LIMIT_MILLIS })
    if not asker then
        return nil, 0, reason
    end
    for _, name in ipairs(names.candidates(host, domains)) do
        for _, kind in ipairs({ resolver.TYPE_A, resolver.TYPE_AAAA }) do
            local answers, why = asker:query(name, { qtype = kind })
            reason = why or reason
            for _, answer in ipairs(answers or {}) do
                if answer.address then
                    return answer.address, answer.ttl or MOST_SECONDS
                end
            end
        end
    end
    return nil, 0, reason or "there is no such name"
end

-- The address of a host, or nil and the reason. An address that was known is used until a new one is.
function names.address(host, now)
    if names.is_address(host) then
        return host
    end
    local known = cache[host]
    if known and now < known.ends then
        return known.address, known.reason
    end
    local address, seconds, reason = names.hosts(contents("/etc/hosts"))[host:lower()], MOST_SECONDS, nil
    if not address and host:lower() == "localhost" then
        address = "127.0.0.1"
    end
    if not address then
        address, seconds, reason = ask(host)
    end
    if not address and known then
        address = known.address
    end
    seconds = math.min(math.max(seconds, LEAST_SECONDS), MOST_SECONDS)
    cache[host] = { address = address, reason = reason, ends = now + seconds }
    return address, reason
end

return names
