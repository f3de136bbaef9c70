#!/usr/bin/env bash
# The programs that the tests run beside leasehold: a real etcd, kube-apiserver and kubectl, what
# else makes a node, Helm, and client-go's elector, built from the Go modules in this folder and in
# ../clientgo.
#
#   tools.sh [NAME...]    build what is missing; print the folder that holds the programs
#   tools.sh go           print the Go that they are built with
#
# Without names: etcd kube-apiserver kubectl. Others, by name: kubelet, kube-controller-manager,
# kube-scheduler, kube-proxy; bridge, host-local and loopback (CNI plugins); helm; helm-unittest;
# prometheus-operator, kyverno (folders with the definitions of their kinds); clientgo; recorder (an
# app, from ../node). Only folders go to stdout: one line for each of control plane, CNI plugins,
# helm, helm-unittest, prometheus-operator, kyverno, clientgo and recorder that is asked for, in this
# order. Progress goes to stderr.
#
# Found in this order: KUBEBUILDER_ASSETS when it is set (the control plane), the cache, a build.
# The cache is ${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-~/.cache}/leasehold}; its tools/<key> changes
# with the modules, their sums, the flags and Go itself.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}
kubernetes_version=v1.36.3
# Must be able to build what the go.mod files ask for.
go_at_least=1.26

say() { printf 'tools: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# --- Go ---------------------------------------------------------------------------------------

version_of() { GOTOOLCHAIN=local "$1" env GOVERSION 2>/dev/null | sed 's/^go//; s/[^0-9.].*//'; }

new_enough() { [ -n "$1" ] && [ "$(printf '%s\n' "$go_at_least" "$1" | sort -V | head -n 1)" = "$go_at_least" ]; }

# Sets `go`: the machine's own when it is new enough, else the one that go-requirements.txt pins.
find_go() {
    if command -v go >/dev/null && new_enough "$(version_of go)"; then
        go=go
        return
    fi
    local pinned=$here/go-requirements.txt
    local root=$cache/go/$(sha256sum "$pinned" | cut -c1-12)
    go=$root/go/bin/go
    [ ! -x "$go" ] || return 0
    local python
    python=$(command -v python3 || command -v python) \
        || die "no go >= $go_at_least, and no python3 to install one with: install either"
    say "no go >= $go_at_least here: installing the pinned one (70 MB)"
    mkdir -p "$cache/go"
    (
        flock 9
        [ -d "$root" ] && exit 0
        rm -rf "$root.aside"
        PIP_ROOT_USER_ACTION=ignore "$python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
            --target "$root.aside" -r "$pinned" >&2
        mv "$root.aside" "$root"
    ) 9>"$root.lock"
    [ -x "$go" ] || die "the pinned Go package did not bring $go"
}

# --- What is built from what -----------------------------------------------------------------

# Sets kind (what shares a folder), module, package and usually for a tool's name.
recipe() {
    kind=control-plane
    case $1 in
        etcd) module=$here/etcd package=go.etcd.io/etcd/server/v3 usually='20 s' ;;
        kube-apiserver) module=$here/kubernetes package=k8s.io/kubernetes/cmd/$1 usually='3 min' ;;
        kubectl | kubelet | kube-controller-manager | kube-scheduler | kube-proxy)
            module=$here/kubernetes package=k8s.io/kubernetes/cmd/$1 usually='1 min, the later ones less' ;;
        bridge | loopback)
            kind=cni module=$here/cni package=github.com/containernetworking/plugins/plugins/main/$1 usually='3 s' ;;
        host-local)
            kind=cni module=$here/cni package=github.com/containernetworking/plugins/plugins/ipam/$1 usually='3 s' ;;
        helm) kind=helm module=$here/helm package=helm.sh/helm/v4/cmd/helm usually='1 min' ;;
        helm-unittest)
            kind=$1 module=$here/$1 package=github.com/helm-unittest/helm-unittest/cmd/helm-unittest usually='30 s' ;;
        prometheus-operator)
            kind=$1 module=$here/$1 package=github.com/prometheus-operator/prometheus-operator usually='5 s' ;;
        kyverno) kind=$1 module=$here/$1 package=github.com/kyverno/kyverno usually='5 s' ;;
        clientgo) kind=clientgo module=$here/../clientgo package=. usually='30 s, 10 s after kubectl' ;;
        recorder) kind=recorder module=$here/../node/apps/recorder package=. usually='10 s' ;;
        *) die "no tool is called $1: see the head of $0" ;;
    esac
}

version_package=k8s.io/component-base/version
ldflags="-s -w -X $version_package.gitVersion=$kubernetes_version -X $version_package.gitMajor=1 -X $version_package.gitMinor=36"

# The cache folder of a kind; its key changes with what the kind is built from.
folder_for() {
    local kind=$1 key
    case $kind in
        control-plane) set -- "$here"/{etcd,kubernetes}/go.{mod,sum} ;;
        clientgo) set -- "$here"/../clientgo/*.go "$here"/../clientgo/go.{mod,sum} ;;
        recorder) set -- "$here"/../node/apps/recorder/* ;;
        *) set -- "$here/$kind"/go.{mod,sum} ;;
    esac
    key=$({ cat "$@"; echo "$kind $ldflags $("$go" env GOVERSION GOOS GOARCH)"; } | sha256sum | cut -c1-12)
    echo "$cache/tools/$key"
}

# --- Building --------------------------------------------------------------------------------

# Builds $package of $module.
make_aside() {
    cd "$module"
    case $name in
        prometheus-operator) copy_aside example/prometheus-operator-crd _podmonitors.yaml _prometheusrules.yaml ;;
        kyverno) copy_aside config/crds/policies.kyverno.io .io_mutatingpolicies.yaml .io_validatingpolicies.yaml ;;
        # Never a version control stamp: the sources are modules, not this repository.
        *) CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$folder/.$name.aside" "$package" ;;
    esac
}

# Copies from the module $package, of which nothing is built: FOLDER ENDING...
copy_aside() {
    local source ending
    "$go" mod download "$package"
    source=$("$go" list -m -f '{{.Dir}}' "$package")/$1
    shift
    mkdir "$folder/.$name.aside"
    for ending; do cp "$source"/*"$ending" "$folder/.$name.aside"; done
}

# Builds into the folder those of the named tools that it has not: FOLDER NAME...
ensure() {
    local folder=$1 name missing=()
    shift
    for name; do [ -x "$folder/$name" ] || missing+=("$name"); done
    [ ${#missing[@]} -gt 0 ] || return 0
    mkdir -p "$folder"
    (
        flock -n 9 || { say "another build is at work in $folder: waiting for it"; flock 9; }
        for name in "${missing[@]}"; do
            [ -x "$folder/$name" ] && continue
            recipe "$name"
            say "building $name (usually $usually on two cores)"
            began=$SECONDS
            rm -rf "$folder/.$name.aside"
            make_aside >&2 || die "$name could not be built"
            mv "$folder/.$name.aside" "$folder/$name"
            say "built $name in $((SECONDS - began)) s"
        done
    ) 9>"$folder/.lock"
}

# --- The call --------------------------------------------------------------------------------

[ $# -gt 0 ] || set -- etcd kube-apiserver kubectl
# Not built, but chosen: the Go that these modules are built with.
if [ "$*" = go ]; then
    find_go
    command -v "$go"
    exit
fi
declare -A asked=()
for name; do
    recipe "$name"
    asked[$kind]+=" $name"
done

# The tests run on pinned modules and this Go, whatever a workspace or the environment says.
export GOTOOLCHAIN=local GOWORK=off
go=
for kind in control-plane cni helm helm-unittest prometheus-operator kyverno clientgo recorder; do
    read -ra names <<<"${asked[$kind]:-}"
    [ ${#names[@]} -gt 0 ] || continue
    if [ "$kind" = control-plane ] && [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
        for name in "${names[@]}"; do
            [ -x "$KUBEBUILDER_ASSETS/$name" ] \
                || die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS holds no $name: add it, or unset the variable to have it built"
        done
        echo "$KUBEBUILDER_ASSETS"
        continue
    fi
    [ -n "$go" ] || find_go
    folder=$(folder_for "$kind")
    ensure "$folder" "${names[@]}"
    echo "$folder"
done
