#!/usr/bin/env bash
# Sends a recording to a transcription server and prints the text. Takes the place of the script of that name in
# OpenClaw's skill openai-whisper-api; docs/openclaw.md says how. Needs curl, coreutils and bash 3.2 or newer, as
# macOS has it: neither jq nor Python.
set -euo pipefail
# Bytes in, bytes out: lengths and patterns must not depend on the user's language.
export LC_ALL=C

readonly exit_failed=1 exit_usage=2 exit_unreadable=3 exit_unreachable=4 exit_refused=5 exit_timeout=6 exit_no_transcript=7

usage() {
    cat <<'USAGE'
usage: transcribe.sh FILE [options]

Prints what is said in FILE.

  --language LANG   the spoken language, as in "en"; detected if not given
  --prompt TEXT     names and words that may occur
  --model NAME      the model to ask for (whisper-1)
  --json            print the server's JSON as it is
  --out FILE        write into FILE, and print its name in place of the text
  --timeout SECONDS give up after so long (WHISPER_API_TIMEOUT, else 600)
  --remove          remove the recording once its text is there (WHISPER_REMOVE_INPUT=1); otherwise it is kept
  -h, --help        this

WHISPER_API_URL   the server, or its endpoint: http://127.0.0.1:9005/v1/audio/transcriptions if not set
WHISPER_API_KEY   the key that the server wants; OPENAI_API_KEY if not set. Set but empty: no key is sent

Exit status: 0 the text is there; 1 something here failed (a folder, a missing curl); 2 wrong usage;
3 FILE cannot be read; 4 the server cannot be reached, or broke off; 5 the server refused;
6 it took too long; 7 the answer is no transcript.
USAGE
}

fail() { # exit status, message
    printf 'transcribe.sh: %s\n' "$2" >&2
    exit "$1"
}

misused() {
    printf 'transcribe.sh: %s; --help tells the usage\n' "$1" >&2
    exit "$exit_usage"
}

temporary=
curl_process=

cleanup() {
    [[ -z $curl_process ]] || kill "$curl_process" 2>/dev/null || true
    [[ -z $temporary ]] || rm -rf -- "$temporary"
}

# A path that no program takes for an option, nor curl for its input.
plain_path() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf './%s' "$1" ;;
    esac
}

# Within double quotes, for curl's options and its file of options. Old and new bash disagree on backslashes in
# substitutions, so there is none.
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

# The address that is asked: an endpoint is one already, a server's gets the usual path.
endpoint() {
    local url=$1
    case $url in
        http://* | https://*) ;;
        *://*) misused "WHISPER_API_URL is neither http nor https" ;;
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

# The bytes of a code point in UTF-8.
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
    # shellcheck disable=SC2059 # the format is the text: the one way to print a zero byte
    printf "$format"
}

readonly replacement=0xFFFD

# Prints the inside of a JSON string with its escapes resolved; fails at one that JSON does not have. It is read
# piece by piece from one backslash to the next, since searching it from its beginning each time would take
# minutes for the text of hours. Half a surrogate pair becomes U+FFFD.
print_unescaped() {
    local piece code ended=0 escaped=0 high=''
    while ((!ended)); do
        IFS= read -r -d $'\\' piece || {
            ended=1
            piece=${piece%$'\n'} # the here-string's own
        }
        if ((!escaped)); then
            printf '%s' "$piece"
            escaped=1
            continue
        fi
        if [[ $piece != u* && -n $high ]]; then
            print_code_point "$replacement"
            high=
        fi
        case $piece in
            u[0-9a-fA-F][0-9a-fA-F][0-9a-fA-F][0-9a-fA-F]*)
                code=$((16#${piece:1:4}))
                piece=${piece:5}
                print_utf_16_unit
                ;;
            '"'* | /*) printf '%s' "$piece" ;;
            n*) printf '\n%s' "${piece:1}" ;;
            t*) printf '\t%s' "${piece:1}" ;;
            r*) printf '\r%s' "${piece:1}" ;;
            b*) printf '\b%s' "${piece:1}" ;;
            f*) printf '\f%s' "${piece:1}" ;;
            '')
                # A backslash that stands for one; what follows is text.
                ((!ended)) || return 1
                printf '%s' $'\\'
                escaped=0
                ;;
            *) return 1 ;;
        esac
    done <<<"$1"
}

# Of print_unescaped: a unit by itself, or the second of two, or one that waits for its second.
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
        if [[ -z $piece ]] && ((!ended)); then
            high=$code
            return
        fi
        code=$replacement
    elif ((code >= 0xDC00 && code <= 0xDFFF)); then
        code=$replacement
    fi
    print_code_point "$code"
    printf '%s' "$piece"
}

# The inside of the JSON string that begins here, into `string`. Fails where it does not end.
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

# Prints the text of a key of the outermost object of a JSON file (1), or of one inside that (2), or fails. Between
# strings there are only brackets, colons, commas, numbers and words: all that matters is how deep they lead.
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
            (($# > 1)) || misused "$1 wants a value"
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
[[ $time_limit =~ ^[1-9][0-9]{0,6}$ ]] || misused "--timeout wants a whole number of seconds, not '$time_limit'"
url=$(endpoint "${WHISPER_API_URL:-http://127.0.0.1:9005}") || exit
key=${WHISPER_API_KEY-${OPENAI_API_KEY-}}
[[ $key != *[[:cntrl:]]* ]] || misused "the key has a control character"

input=$(plain_path "$input"; printf x)
input=${input%x}
[[ -f $input ]] || fail "$exit_unreadable" "there is no file $input"
[[ -r $input ]] || fail "$exit_unreadable" "$input cannot be read"
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
temporary=$(mktemp -d "${TMPDIR:-/tmp}/transcribe.XXXXXX") || fail "$exit_failed" "there is no room for temporary files"

# curl makes none of an empty answer.
: >"$temporary/answer"

# The server is told the kind of file, and not its name: some names cannot be told.
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
# A server that says "go on" and nothing more is not taken for one that refuses.
arguments+=(--header 'Expect:' --config -)

# The key and the address, which may have a password, go through a pipe: arguments can be read by everybody on the
# machine. curl runs beside, so that a
# signal does not have to wait for it.
curl "${arguments[@]}" >"$temporary/status" 2>"$temporary/errors" \
    < <(
        printf 'url = %s\n' "$(quoted "$url")"
        [[ -z $key ]] || printf 'header = %s\n' "$(quoted "Authorization: Bearer $key")"
    ) &
curl_process=$!
curl_status=0
wait "$curl_process" || curl_status=$?
curl_process=

# Without what may be a secret in it.
shown_url=${url%%\?*}
[[ $shown_url != *://*@* ]] || shown_url=${shown_url%%://*}://${shown_url#*@}

read -r http_status content_type <"$temporary/status" || true
http_status=${http_status:-000}
complaint=$(head -n 1 -- "$temporary/errors" | cut -c 1-300)

# What the server says went wrong, on one line.
refusal() {
    local message
    if ! message=$(print_error "$temporary/answer" 2>/dev/null); then
        message=$(head -c 300 -- "$temporary/answer" 2>/dev/null || true)
    fi
    printf '%s' "$message" | tr '[:cntrl:]' ' '
}

# OpenAI's errors are objects, and this server says their messages once more as `detail`; some have plain texts.
print_error() { # file
    print_value detail "$1" 1 || print_value error "$1" 1 || print_value message "$1" 1 || print_value message "$1" 2
}

if [[ $http_status != 200 && $http_status != 000 && $http_status != 1?? ]]; then
    fail "$exit_refused" "the server refused ($http_status): $(refusal)"
fi
case $curl_status in
    0) ;;
    26) fail "$exit_unreadable" "$input cannot be read: $complaint" ;;
    28) fail "$exit_timeout" "no answer from $shown_url in time: $complaint" ;;
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
        # Some servers know one format only.
        ((!as_json)) || fail "$exit_no_transcript" "the answer is no JSON but $content_type"
        result=$temporary/answer
        ;;
    *) fail "$exit_no_transcript" "the answer is no transcript but ${content_type:-of no type}" ;;
esac
# A line, as programs expect it.
[[ $result == "$temporary/result" || $(tail -c 1 -- "$result"; printf .) == $'\n.' ]] || printf '\n' >>"$result"

if [[ -n $out ]]; then
    folder=$(dirname -- "$out"; printf x)
    if [[ -L $out || (-e $out && ! -f $out) ]]; then
        # Written to, and not replaced: a device, a pipe, what a link names.
        cat -- "$result" >"$out" || fail "$exit_failed" "$out cannot be written"
    elif ! mkdir -p -- "${folder%$'\n'x}" || ! mv -f -- "$result" "$out"; then
        fail "$exit_failed" "$out cannot be written"
    fi
    printf '%s\n' "$out_as_given"
else
    cat -- "$result" || fail "$exit_failed" "the text cannot be printed"
fi
((!remove)) || rm -f -- "$input"
