#!/bin/sh
# Installs uttera-stt for the user who runs this script. See `./install.sh --help`.
set -eu

usage() {
    cat <<'END'
usage: ./install.sh [--prefix DIR] [--no-start] [--uninstall]

Installs the program, its man page and completions below ~/.local, a systemd service of your user, and settings in
~/.config/uttera-stt.env. It needs no root. Run it again to upgrade: your settings stay.

  --prefix DIR  install below DIR instead of ~/.local
  --no-start    neither enable nor start the service
  --uninstall   stop the service and remove what was installed, with the same --prefix; settings and models stay
END
}

say() { printf '%s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

prefix=${HOME:?HOME is not set}/.local
start=true
uninstall=false
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h)
            usage
            exit 0
            ;;
        --prefix)
            [ $# -gt 1 ] || die '--prefix needs a folder'
            prefix=$2
            shift
            ;;
        --prefix=*) prefix=${1#--prefix=} ;;
        --no-start) start=false ;;
        --uninstall) uninstall=true ;;
        *) die "unknown option $1; ./install.sh --help lists the options" ;;
    esac
    shift
done
case $prefix in
    # The unit names the program, and systemd gives some characters a meaning of their own.
    *[!A-Za-z0-9/._+@-]*) die "--prefix $prefix: use only letters, digits and /._+@-" ;;
    /*) ;;
    *) die "--prefix $prefix: give the whole path, beginning with /" ;;
esac
archive=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
program=$prefix/bin/uttera-stt
unit=${XDG_DATA_HOME:-$HOME/.local/share}/systemd/user/uttera-stt.service
settings=${XDG_CONFIG_HOME:-$HOME/.config}/uttera-stt.env
man_page=share/man/man1/uttera-stt.1
bash_completions=share/bash-completion/completions/uttera-stt
zsh_completions=share/zsh/site-functions/_uttera-stt
fish_completions=share/fish/vendor_completions.d/uttera-stt.fish

# Whether systemd runs services of this user, as in a login session.
user_services() { systemctl --user show-environment >/dev/null 2>&1; }

remove() {
    if user_services && [ -e "$unit" ]; then systemctl --user disable --now --quiet uttera-stt.service || true; fi
    rm -f -- "$program" "$unit" "$prefix/$man_page" "$prefix/$bash_completions" "$prefix/$zsh_completions" \
        "$prefix/$fish_completions"
    if user_services; then systemctl --user daemon-reload; fi
    say "removed uttera-stt from $prefix"
    [ ! -e "$settings" ] || say "kept: $settings (settings)"
    models=${XDG_CACHE_HOME:-$HOME/.cache}/whisper
    [ ! -d "$models" ] || say "kept: $models (models; other programs may use them too)"
}

# Stops before anything is installed if the program cannot run here.
check_program() {
    [ "$(uname -m)" = x86_64 ] || die "this archive is for x86-64 processors, and this is $(uname -m): build from source"
    # This subcommand checks the processor as well.
    if ! message=$("$archive/bin/uttera-stt" models list 2>&1 >/dev/null); then
        case $message in
            *libgomp*) die "the library libgomp is missing: install the package libgomp1 (Debian, Ubuntu, openSUSE), libgomp (Fedora) or gcc-libs (Arch)" ;;
            *GLIBC*) die "this system's C library is too old for this archive (Debian 12 or newer is enough): $message" ;;
            *) die "the program does not run here: $message" ;;
        esac
    fi
}

check_ffmpeg() {
    command -v ffmpeg >/dev/null && return
    say 'ffmpeg is missing. Without it, the server reads only WAV, FLAC and MP3. Install it as root:'
    for choice in 'apt-get|apt-get install ffmpeg' 'dnf|dnf install ffmpeg-free' 'pacman|pacman -S ffmpeg' \
        'zypper|zypper install ffmpeg'; do
        if command -v "${choice%%|*}" >/dev/null; then
            say "  ${choice#*|}"
            return
        fi
    done
    say '  with the package manager of this system'
}

put() { # mode, file in the archive, target
    mkdir -p -- "$(dirname -- "$3")"
    # Another name first, because a running program cannot be overwritten.
    cp -- "$archive/$2" "$3.new"
    chmod "$1" "$3.new"
    mv -f -- "$3.new" "$3"
}

install_files() {
    put 755 bin/uttera-stt "$program"
    for file in "$man_page" "$bash_completions" "$zsh_completions" "$fish_completions"; do
        put 644 "$file" "$prefix/$file"
    done
    mkdir -p -- "$(dirname -- "$unit")"
    sed "s|%h/.local/bin/uttera-stt|$program|" "$archive/systemd/uttera-stt.service" >"$unit.new"
    mv -f -- "$unit.new" "$unit"
    # Settings may contain keys: other users do not read them.
    [ -e "$settings" ] || put 600 config/uttera-stt.env "$settings"
}

start_service() {
    if ! user_services; then
        say 'systemd runs no services of your user here. In a login session, start it with:'
        say '  systemctl --user daemon-reload && systemctl --user enable --now uttera-stt'
        say "or start the program itself: $program serve"
        return
    fi
    systemctl --user daemon-reload
    $start || return 0
    systemctl --user --quiet enable uttera-stt.service
    # The first start downloads the model; it goes on in the background. A running service gets the new program.
    systemctl --user --no-block restart uttera-stt.service
    say 'started; when it is ready: curl http://127.0.0.1:9005/readyz. Log: journalctl --user -u uttera-stt -f'
    say 'To keep it running while you are logged out: loginctl enable-linger'
}

if $uninstall; then
    remove
    exit 0
fi
check_program
check_ffmpeg
install_files
say "installed: $("$program" --version) in $program; settings: $settings"
case :$PATH: in
    *":$prefix/bin:"*) ;;
    *) say "$prefix/bin is not in PATH: add it, or call $program by its whole name" ;;
esac
start_service
