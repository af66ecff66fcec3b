# shellcheck shell=bash
# What the scripts here share. Source it: it defines functions and `repository`, and does nothing else.

repository=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
# Where `cargo install` puts tools; not every shell has it in PATH.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# Our own words go to stderr, so that stdout stays free for a result.
say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# What the program needs, as "package|test that it is there|why". dpkg is asked where the test fails or is empty.
# shellcheck disable=SC2034 # used by the scripts that source this file
build_packages=(
    'g++|command -v c++|compiles whisper.cpp'
    'make|command -v make|compiles whisper.cpp'
    'cmake|command -v cmake|configures whisper.cpp'
    'pkg-config|command -v pkg-config|finds system libraries for the build'
    'clang|command -v clang|tells the bindings to whisper.cpp where the C headers are'
    'libclang-dev||reads those headers'
    'ffmpeg|command -v ffmpeg|decodes uploads that are not plain WAV'
    'curl|command -v curl|asks the server whether it is ready'
    'ca-certificates||lets downloads be verified'
    'python3-pip|python3 -m pip --version|fetches a model that is packaged as a Python wheel'
)

# Installs those of the given packages that are missing, and says why each is needed.
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
        die "this script installs packages with apt-get only; please install: ${missing[*]}"
    local -a as_root=(env DEBIAN_FRONTEND=noninteractive)
    if ((EUID != 0)); then
        # sudo may ask for a password only where somebody can type one.
        if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
            as_root=(sudo "${as_root[@]}")
        else
            die "please run this as root, then start again: $line"
        fi
    fi
    say "installing: ${missing[*]}"
    local -a install=("${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300
        install -y -qq --no-install-recommends "${missing[@]}")
    # Package lists that are missing or out of date are the usual reason for a failure here.
    if ! package_lists_exist || ! "${install[@]}" >&2 </dev/null; then
        say 'refreshing the package lists'
        "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq >&2 </dev/null ||
            say 'the package lists could not be refreshed; trying with those on disk'
        "${install[@]}" >&2 </dev/null || die "could not install them; by hand: $line"
    fi
}

package_is_there() { # package, test
    if [[ -n $2 ]] && eval "$2" >/dev/null 2>&1; then return; fi
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

package_lists_exist() {
    compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null
}

# Rust is the one thing that we do not install: which way to get it is the user's choice.
ensure_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
    if ! command -v cargo >/dev/null; then
        die "cargo is missing: install Rust $wanted or newer as on rust-lang.org/tools/install"
    fi
    found=$(cd "$repository" && cargo --version | cut -d ' ' -f 2)
    if [[ $(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) != "$wanted" ]]; then
        die "Rust $found is too old, $wanted or newer is needed: rustup update, or rust-lang.org/tools/install"
    fi
}

# The build of whisper.cpp takes any WHISPER_… variable for an option of its own, and ours begin the same way.
without_whisper_variables() {
    local name
    local -a unset_them=()
    for name in ${!WHISPER_@}; do unset_them+=(-u "$name"); done
    env "${unset_them[@]}" "$@"
}

# The instruction set that fits this machine, as scripts/build knows them.
default_cpu() {
    if [[ $(uname -m) != x86_64 ]]; then
        printf native
    elif grep -qw avx2 /proc/cpuinfo; then
        printf avx2
    else
        printf any
    fi
}

# Settings of whisper.cpp's build for processors without AVX2.
for_any_cpu=(GGML_NATIVE=OFF GGML_AVX=OFF GGML_AVX2=OFF GGML_FMA=OFF GGML_F16C=OFF GGML_BMI2=OFF)

# Builds the program for an instruction set, each in a folder of its own: cargo does not notice when these
# settings change. Sets `program`.
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
        *) die "unknown instruction set '$1': avx2, any or native" ;;
    esac
    without_whisper_variables env "${flags[@]}" \
        cargo build --release --locked --bin uttera-stt --target-dir "$target" >&2
    # shellcheck disable=SC2034 # used by the scripts that source this file
    program=$target/release/uttera-stt
}
