#!/usr/bin/env bash
# Sends a recording to a transcription server and prints the text. Replaces the script of the same name in OpenClaw's
# skill openai-whisper-api; see docs/clients/openclaw.md. Needs curl, coreutils and bash 3.2 or newer (the version of
# macOS), and neither jq nor Python.
set -euo pipefail
# Work on bytes: lengths and patterns must not depend on the user's locale.
export LC_ALL=C

readonly exit_failed=1 exit_usage=2 exit_unreadable=3 exit_unreachable=4 exit_rejected=5 exit_timeout=6 exit_no_transcript=7

usage() {
    cat <<'USAGE'
usage: transcribe.sh FILE [options]

Transcribes FILE and prints the text.

  --language LANG   the spoken language, such as "en"; detected if not given
  --prompt TEXT     names and words that may occur
  --model NAME      model name in the request (whisper-1)
  --json            print the server's JSON unchanged
  --out FILE        write the text to FILE, and print the name of FILE instead of the text
  --timeout SECONDS time limit (WHISPER_API_TIMEOUT, else 600)
  --remove          remove the recording after success (WHISPER_REMOVE_INPUT=1); otherwise it is kept
  -h, --help        print this text

WHISPER_API_URL   the server or a full endpoint; if not set, http://127.0.0.1:9005/v1/audio/transcriptions
WHISPER_API_KEY   the server's key; if not set, OPENAI_API_KEY. If set but empty, no key is sent

Exit status: 0 success; 1 failure on this machine (curl is missing, a file cannot be written); 2 wrong usage;
3 FILE cannot be read; 4 the server is unreachable, or the connection broke off; 5 the server returned an error;
6 the time limit was exceeded; 7 the answer is not a transcript.
USAGE
}

fail() { # exit status, message
    printf 'transcribe.sh: %s\n' "$2" >&2
    exit "$1"
}

misused() {
    printf 'transcribe.sh: %s; see --help\n' "$1" >&2
    exit "$exit_usage"
}

temporary=
curl_process=

cleanup() {
    [[ -z $curl_process ]] || kill "$curl_process" 2>/dev/null || true
    [[ -z $temporary ]] || rm -rf -- "$temporary"
}

# A path that no program mistakes for an option, and curl not for standard input.
plain_path() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf './%s' "$1" ;;
    esac
}

# Puts a value into double quotes for curl's options and its configuration file. No pattern substitution, because old and
# new versions of bash treat backslashes in it differently.
quoted() {
    local rest=$1 before
    printf '"'
    while [[ $rest == *[\"\\]* ]]; do
        before=${rest%%[\"\\]*}
        rest=${rest:${#before}}
        printf '%s\\%s' "$before" "${rest:0:1}"
        rest=${rest:1}
    done
    printf '%s"' "$rest"
}

# The endpoint: a full endpoint stays unchanged, a server address gets the usual path.
endpoint() {
    local url=$1
    case $url in
        http://* | https://*) ;;
        *://*) misused "WHISPER_API_URL must begin with http or https" ;;
        *) url=http://$url ;;
    esac
    case $url in
        *\?* | */transcriptions | */translations | */inference) ;;
        *)
            while [[ $url == */ ]]; do url=${url%/}; done
            case $url in
                */transcriptions | */translations | */inference) ;;
                */v1) url=$url/audio/transcriptions ;;
                *) url=$url/v1/audio/transcriptions ;;
            esac
            ;;
    esac
    printf '%s' "$url"
}

# Prints a code point in UTF-8.
print_code_point() {
    local code=$1 format
    if ((code < 0x80)); then
        printf -v format '\\%03o' "$code"
    elif ((code < 0x800)); then
        printf -v format '\\%03o\\%03o' $((0xC0 | code >> 6)) $((0x80 | code & 0x3F))
    elif ((code < 0x10000)); then
        printf -v format '\\%03o\\%03o\\%03o' $((0xE0 | code >> 12)) $((0x80 | code >> 6 & 0x3F)) $((0x80 | code & 0x3F))
    else
        printf -v format '\\%03o\\%03o\\%03o\\%03o' $((0xF0 | code >> 18)) $((0x80 | code >> 12 & 0x3F)) \
            $((0x80 | code >> 6 & 0x3F)) $((0x80 | code & 0x3F))
    fi
    # shellcheck disable=SC2059 # the text is the format, the only way to print a zero byte
    printf "$format"
}

readonly replacement=0xFFFD

# Prints the content of a JSON string with its escapes decoded; fails at an invalid escape. It reads the string from one
# backslash to the next, because searching from the beginning each time would take minutes for the text of several hours.
# Half a surrogate pair becomes U+FFFD.
print_unescaped() {
    local fragment code ended=0 escaped=0 high=''
    while ((!ended)); do
        IFS= read -r -d $'\\' fragment || {
            ended=1
            fragment=${fragment%$'\n'} # added by the here-string
        }
        if ((!escaped)); then
            printf '%s' "$fragment"
            escaped=1
            continue
        fi
        if [[ $fragment != u* && -n $high ]]; then
            print_code_point "$replacement"
            high=
        fi
        case $fragment in
            u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
                code=$((16#${fragment:1:4}))
                fragment=${fragment:5}
                print_utf_16_unit
                ;;
            '"'* | /*) printf '%s' "$fragment" ;;
            n*) printf '\n%s' "${fragment:1}" ;;
            t*) printf '\t%s' "${fragment:1}" ;;
            r*) printf '\r%s' "${fragment:1}" ;;
            b*) printf '\b%s' "${fragment:1}" ;;
            f*) printf '\f%s' "${fragment:1}" ;;
            '')
                # An escaped backslash; the next part is plain text.
                ((!ended)) || return 1
                printf '%s' $'\\'
                escaped=0
                ;;
            *) return 1 ;;
        esac
    done <<<"$1"
}

# Part of print_unescaped: handles a UTF-16 unit that stands alone, or is the first or second of a surrogate pair.
print_utf_16_unit() {
    if [[ -n $high ]]; then
        if ((code >= 0xDC00 && code <= 0xDFFF)); then
            code=$((0x10000 + ((high - 0xD800) << 10) + (code - 0xDC00)))
        else
            print_code_point "$replacement"
        fi
        high=
    fi
    if ((code >= 0xD800 && code <= 0xDBFF)); then
        if [[ -z $fragment ]] && ((!ended)); then
            high=$code
            return
        fi
        code=$replacement
    elif ((code >= 0xDC00 && code <= 0xDFFF)); then
        code=$replacement
    fi
    print_code_point "$code"
    printf '%s' "$fragment"
}

# Reads the content of the JSON string that begins here into `string`. Fails if the string does not end.
read_string() {
    local part backslashes
    string=
    while IFS= read -r -d '"' part; do
        backslashes=${part##*[!\\]}
        string+=$part
        # After an even number of backslashes, none of them belongs to the quote.
        ((${#backslashes} % 2)) || return 0
        string+='"'
    done
    return 1
}

# Prints the string value of a key in the outermost object of a JSON file (depth 1) or in an object inside it (depth 2), or
# fails. Between strings there are only brackets, colons, commas, numbers and words, so counting brackets gives the depth.
print_value() { # key, file, depth
    local wanted=$1 between opened closed depth=0 key='' string
    while IFS= read -r -d '"' between; do
        opened=${between//[!\{\[]/}
        closed=${between//[!\}\]]/}
        depth=$((depth + ${#opened} - ${#closed}))
        read_string || return 1
        ((depth == $3)) || {
            key=
            continue
        }
        between=${between//[[:space:]]/}
        case $between in
            :)
                if [[ $key == "$wanted" ]]; then
                    print_unescaped "$string"
                    return
                fi
                key=
                ;;
            *[\{,]) key=$string ;;
            *) key= ;;
        esac
    done <"$2"
    return 1
}

input=${1:-}
case $input in
    -h | --help)
        usage
        exit 0
        ;;
    '')
        usage >&2
        exit "$exit_usage"
        ;;
esac
shift

model=whisper-1
language=
prompt=
out=
as_json=0
time_limit=${WHISPER_API_TIMEOUT:-600}
remove=0
case ${WHISPER_REMOVE_INPUT:-} in
    1 | true | yes) remove=1 ;;
esac

while (($#)); do
    case $1 in
        --model | --language | --prompt | --out | --timeout)
            (($# > 1)) || misused "$1 needs a value"
            case $1 in
                --model) model=$2 ;;
                --language) language=$2 ;;
                --prompt) prompt=$2 ;;
                --out) out=$2 ;;
                --timeout) time_limit=$2 ;;
            esac
            shift 2
            ;;
        --json) as_json=1 && shift ;;
        --remove) remove=1 && shift ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) misused "unknown argument '$1'" ;;
    esac
done
[[ $time_limit =~ ^[1-9][0-9]{0,6}$ ]] || misused "--timeout needs a whole number of seconds, not '$time_limit'"
url=$(endpoint "${WHISPER_API_URL:-http://127.0.0.1:9005}") || exit
key=${WHISPER_API_KEY-${OPENAI_API_KEY-}}
[[ $key != *[[:cntrl:]]* ]] || misused "the key contains a control character"

input=$(plain_path "$input"; printf x)
input=${input%x}
[[ -f $input ]] || fail "$exit_unreadable" "the file $input does not exist"
[[ -r $input ]] || fail "$exit_unreadable" "cannot read $input"
out_as_given=$out
if [[ -n $out ]]; then
    out=$(plain_path "$out"; printf x)
    out=${out%x}
    [[ ! -d $out ]] || misused "--out $out is a folder"
    [[ ! $out -ef $input ]] || misused "--out is the recording itself"
fi
command -v curl >/dev/null || fail "$exit_failed" "curl is not installed"

trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
temporary=$(mktemp -d "${TMPDIR:-/tmp}/transcribe.XXXXXX") || fail "$exit_failed" "cannot create a temporary folder"

# curl creates no file for an empty answer.
: >"$temporary/answer"

# The server gets the file's extension only, because some names cannot be sent in a form.
extension=${input##*/}
case $extension in
    *.*) extension=.${extension##*.} ;;
    *) extension= ;;
esac
[[ $extension =~ ^\.[A-Za-z0-9]{1,8}$ ]] || extension=

arguments=(
    --disable --silent --show-error --globoff --proto '=http,https'
    --connect-timeout 10 --max-time "$time_limit"
    --output "$temporary/answer" --write-out '%{http_code} %{content_type}'
    --form "file=@$(quoted "$input");filename=audio$extension"
    --form-string "model=$model"
    --form-string response_format=json
)
[[ -z $language ]] || arguments+=(--form-string "language=$language")
[[ -z $prompt ]] || arguments+=(--form-string "prompt=$prompt")
# No Expect header: a server that sends only 100 Continue must not look like one that returns an error.
arguments+=(--header 'Expect:' --config -)

# The key and the address, which may contain a password, go through a pipe, because every user of the machine can read
# arguments. curl runs in the background, so that a signal does not have to wait for it.
curl "${arguments[@]}" >"$temporary/status" 2>"$temporary/errors" \
    < <(
        printf 'url = %s\n' "$(quoted "$url")"
        [[ -z $key ]] || printf 'header = %s\n' "$(quoted "Authorization: Bearer $key")"
    ) &
curl_process=$!
curl_status=0
wait "$curl_process" || curl_status=$?
curl_process=

# The address without parts that may be secret.
shown_url=${url%%\?*}
[[ $shown_url != *://*@* ]] || shown_url=${shown_url%%://*}://${shown_url#*@}

read -r http_status content_type <"$temporary/status" || true
http_status=${http_status:-000}
complaint=$(head -n 1 -- "$temporary/errors" | cut -c 1-300)

# Prints the server's error message on one line.
server_message() {
    local message
    if ! message=$(print_error "$temporary/answer" 2>/dev/null); then
        message=$(head -c 300 -- "$temporary/answer" 2>/dev/null || true)
    fi
    printf '%s' "$message" | tr '[:cntrl:]' ' '
}

# OpenAI's errors are objects; this server repeats the message as `detail`; other servers send a plain text.
print_error() { # file
    print_value detail "$1" 1 || print_value error "$1" 1 || print_value message "$1" 1 || print_value message "$1" 2
}

if [[ $http_status != 200 && $http_status != 000 && $http_status != 1?? ]]; then
    fail "$exit_rejected" "the server returned an error ($http_status): $(server_message)"
fi
case $curl_status in
    0) ;;
    26) fail "$exit_unreadable" "cannot read $input: $complaint" ;;
    28) fail "$exit_timeout" "no answer from $shown_url within $time_limit s: $complaint" ;;
    *) fail "$exit_unreachable" "no answer from $shown_url: $complaint" ;;
esac

result=$temporary/result
case $content_type in
    *json*)
        if ((as_json)); then
            result=$temporary/answer
        elif ! print_value text "$temporary/answer" 1 >"$result" 2>/dev/null; then
            fail "$exit_no_transcript" "the answer has no text: $(head -c 200 -- "$temporary/answer" | tr '[:cntrl:]' ' ')"
        else
            printf '\n' >>"$result"
        fi
        ;;
    text/plain*)
        # Some servers support one format only.
        ((!as_json)) || fail "$exit_no_transcript" "the answer is not JSON: its content type is $content_type"
        result=$temporary/answer
        ;;
    *) fail "$exit_no_transcript" "the answer is not a transcript: its content type is ${content_type:-missing}" ;;
esac
# End with a line break, as programs expect.
[[ $result == "$temporary/result" || $(tail -c 1 -- "$result"; printf .) == $'\n.' ]] || printf '\n' >>"$result"

if [[ -n $out ]]; then
    folder=$(dirname -- "$out"; printf x)
    if [[ -L $out || (-e $out && ! -f $out) ]]; then
        # Write to a device, a pipe or the target of a link; do not replace it.
        cat -- "$result" >"$out" || fail "$exit_failed" "cannot write $out"
    elif ! mkdir -p -- "${folder%$'\n'x}" || ! mv -f -- "$result" "$out"; then
        fail "$exit_failed" "cannot write $out"
    fi
    printf '%s\n' "$out_as_given"
else
    cat -- "$result" || fail "$exit_failed" "cannot print the text"
fi
((!remove)) || rm -f -- "$input"
