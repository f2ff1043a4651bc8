#!/usr/bin/env bash
# What is handed out, into target/packages:
#
#     docs/packages/build.sh archive     ram-run-TARGET.tar.gz: the static program, manual pages, completions, the unit
#     docs/packages/build.sh image       image/, what the Dockerfile is built in
#     docs/packages/build.sh deb         a Debian package, of the dynamic program; takes cargo-deb (cargo install cargo-deb --locked)
#
# The first two take a C compiler, a glibc with its static library (libc6-dev), and strip.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target} out=target/packages
triple=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

# Manual pages, completions and licences, by a program that was built.
beside() {
    rm -rf "$out/share"
    mkdir -p "$out/share"
    "$1" man --dir "$out/share/man"
    "$1" completions bash >"$out/share/ram-run.bash"
    "$1" completions zsh >"$out/share/_ram-run"
    "$1" completions fish >"$out/share/ram-run.fish"
    { cat LICENSE; printf '\nmodels/tiny-qwen3-moe, which is in the program:\n\n'; cat models/tiny-qwen3-moe/LICENSE.md; } >"$out/share/copyright"
    notices >"$out/share/NOTICES"
}

# Licences of all crates in the program, a text that several have once.
notices() {
    local registry=${CARGO_HOME:-$HOME/.cargo}/registry/src crate crate_version licence file sum
    declare -A owners texts
    echo "ram-run has these crates in it, each under its own licence. Their texts follow."
    echo
    while read -r crate crate_version licence; do
        echo "$crate $crate_version: $licence"
        for file in "$registry"/*/"$crate-${crate_version#v}"/{LICEN[CS]E,COPY,NOTICE,licen[cs]e,UNLICENSE}*; do
            [ -f "$file" ] || continue
            sum=$(sha256sum <"$file")
            texts[$sum]=$file owners[$sum]+=" $crate"
        done
    done < <(cargo tree --locked -p ram-run -e normal --target "$triple" --prefix none --format '{p} {l}' |
        sed 's/ (\*)$//; s/ (proc-macro)//' | grep -v '(/' | sort -u)
    while read -r sum; do
        printf '\n---- %s\n\n' "${owners[$sum]# }"
        cat "${texts[$sum]}"
    done < <(for sum in "${!owners[@]}"; do echo "${owners[$sum]}|$sum"; done | sort | cut -d'|' -f2)
}

static() {
    mkdir -p "$out"
    cc -O2 -c docs/packages/names.c -o "$out/names.o"
    # Random numbers by glibc's function, as everywhere: a static program looks for it in vain otherwise, and wants /dev/random instead.
    RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom"' \
        cargo rustc --release --locked --target "$triple" --bin ram-run -- -C link-arg="$PWD/$out/names.o"
    # Names of functions are a tenth of it. Whoever wants them in backtraces takes what lies in target.
    strip -o "$out/ram-run" "$target/$triple/release/ram-run"
}

archive() {
    static
    beside "$out/ram-run"
    local name=ram-run-$version-$triple
    rm -rf "${out:?}/$name"
    mkdir "$out/$name"
    cp -r "$out/ram-run" "$out/share/." README.md CHANGELOG.md docs/packages/ram-run.service docs/packages/ram-run.default "$out/$name"
    # The same bytes from the same commit.
    tar -C "$out" --sort=name --mtime="@$(git log -1 --format=%ct)" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -c "$name" |
        gzip -9n >"$out/ram-run-$triple.tar.gz"
    rm -r "${out:?}/$name"
    echo "$out/ram-run-$triple.tar.gz"
}

image() {
    static
    mkdir -p "$out/image/data"
    cp "$out/ram-run" docs/packages/Dockerfile "$out/image"
    echo "$out/image"
}

deb() {
    cargo build --release --locked
    beside "$target/release/ram-run"
    cargo deb --locked --no-build -o "$out/"
}

case ${1:-} in
    archive | image | deb) "$1" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
