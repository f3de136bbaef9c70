#!/usr/bin/env bash
# A real Kubernetes on this machine: etcd, the control plane, and nodes in namespaces of their own.
#
#   node.sh up [ARCHIVE...]           the cluster with its first node, and OCI archives loaded beside the
#                                     images of images.sh; prints the KUBECONFIG line
#   node.sh worker N up               one more node (N from 2 to 24)
#   node.sh worker N cut [in|out]     its link to the others goes silent, in both directions or one
#   node.sh worker N heal             and is there again
#   node.sh worker N down             the machine is gone
#   node.sh enter N COMMAND...        runs a command in node N
#   node.sh load ARCHIVE...           an OCI archive for every node that is up
#   node.sh env                       prints the state folder, and the folder of kubectl
#   node.sh down                      takes all of it away
#
# Needs root, the packages in the file beside this one, and Go for the first build. README.md has
# the variables and what the nodes are like.
set -Eeuo pipefail
trap 'printf "node: line %s failed: %s\n" "$LINENO" "$BASH_COMMAND" >&2' ERR

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Two clusters side by side differ in the name (of cgroups, links and the state folder) and in the
# network, 10.$net.0.0/16.
name=${NODE_NAME:-lh}
net=${NODE_NET:-77}
cache=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}
state=$(realpath -m "${NODE_STATE:-$cache/node/$name}")

began=${EPOCHREALTIME/./}
say() { printf 'node: %5d ms  %s\n' "$(((${EPOCHREALTIME/./} - began) / 1000))" "$*" >&2; }
die() { printf 'node: %s\n' "$*" >&2; exit 1; }

host_ip=10.$net.0.1 node_ip=10.$net.0.2
services=10.$net.1.0/24 api_service=10.$net.1.1 dns_service=10.$net.1.10

# --- What is needed --------------------------------------------------------------------------

check_needs() {
    [ "$(id -u)" = 0 ] || die 'namespaces, mounts and cgroups need root'
    [[ $name =~ ^[a-z][a-z0-9]{0,5}$ ]] || die "NODE_NAME=$name: at most six small letters and digits, for it begins the names of links"
    local program package missing=()
    while read -r program package; do
        command -v "$program" >/dev/null || missing+=("$package")
    done < <(grep -v '^#' "$here/packages")
    [ ${#missing[@]} -eq 0 ] || die "not everything is installed: apt-get install --no-install-recommends ${missing[*]}"
    [ ${#state} -le 60 ] || die "the state folder's name is too long for the sockets in it: $state"
}

# Sets programs and plugins, the folders of what the nodes run.
find_programs() {
    { read -r programs; read -r plugins; } < <("$here/../control-plane/tools.sh" \
        etcd kube-apiserver kubectl kubelet kube-controller-manager kube-scheduler kube-proxy bridge host-local loopback)
    [ -n "${plugins:-}" ] || die 'the programs are not there; see above'
}

# --- Certificates and kubeconfigs ------------------------------------------------------------

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

make_authority() {
    mkdir -p "$state/pki"
    new_key "$state/pki/ca.key"
    openssl req -x509 -new -key "$state/pki/ca.key" -subj "/CN=$name" -days 30 -out "$state/pki/ca.crt"
    new_key "$state/pki/accounts.key"
    openssl ec -in "$state/pki/accounts.key" -pubout -out "$state/pki/accounts.pub" 2>/dev/null
}

# FILE SUBJECT USAGE [NAMES]: FILE.key and FILE.crt
certificate() {
    new_key "$1.key"
    openssl req -new -key "$1.key" -subj "$2" 2>/dev/null | openssl x509 -req -CA "$state/pki/ca.crt" \
        -CAkey "$state/pki/ca.key" -set_serial "0x$(openssl rand -hex 16)" -days 30 -out "$1.crt" -extfile \
        <(printf 'keyUsage=digitalSignature\nextendedKeyUsage=%s\n%s' "$3" "${4:+subjectAltName=$4}") 2>/dev/null
}

# FILE SUBJECT SERVER: a client's certificate, and FILE.kubeconfig that uses it
client() {
    certificate "$1" "$2" clientAuth
    cat >"$1.kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: $name
contexts: [{name: $name, context: {cluster: $name, user: client}}]
clusters: [{name: $name, cluster: {server: "$3", certificate-authority: "$state/pki/ca.crt"}}]
users: [{name: client, user: {client-certificate: "$1.crt", client-key: "$1.key"}}]
YAML
}

# --- cgroups ---------------------------------------------------------------------------------

has_cgroup_v2() { [ -e /sys/fs/cgroup/cgroup.controllers ]; }

# The folders in which cgroups are made: v2 has one, v1 one for each hierarchy.
cgroup_roots() {
    if has_cgroup_v2; then echo /sys/fs/cgroup; return; fi
    local root
    for root in /sys/fs/cgroup/*; do
        # Names of controllers that share a hierarchy are links to its folder.
        if [ ! -L "$root" ] && mountpoint -q "$root"; then echo "$root"; fi
    done
}

# Lets children of this v2 cgroup have what the kubelet wants to control.
delegate_controllers() {
    local controller
    for controller in cpuset cpu io memory hugetlb pids; do
        grep -qw "$controller" "$1/cgroup.controllers" || continue
        grep -qw "$controller" "$1/cgroup.subtree_control" && continue
        echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null && continue
        # Only the machine's own root may have processes beside children; a container's may not.
        mkdir -p "$1/$name-rest"
        local process
        while read -r process; do
            echo "$process" >"$1/$name-rest/cgroup.procs" 2>/dev/null || true
        done <"$1/cgroup.procs"
        echo "+$controller" >"$1/cgroup.subtree_control" || die "cgroup v2: $controller cannot be delegated in $1"
    done
}

# One cgroup of our own, under which all pods of a node are: NAME
make_cgroup() {
    local root
    if has_cgroup_v2; then
        delegate_controllers /sys/fs/cgroup
        mkdir -p "/sys/fs/cgroup/$1"
        delegate_controllers "/sys/fs/cgroup/$1"
        return
    fi
    for root in $(cgroup_roots); do
        mkdir -p "$root/$1"
        # A new cpuset is empty, and nothing can run in it.
        [ ! -e "$root/cpuset.cpus" ] || cat "$root/cpuset.cpus" >"$root/$1/cpuset.cpus"
        [ ! -e "$root/cpuset.mems" ] || cat "$root/cpuset.mems" >"$root/$1/cpuset.mems"
    done
}

# The processes have been killed, but a cgroup can be removed only when the last has gone: NAME
remove_cgroup() {
    local root try
    for root in $(cgroup_roots); do
        for try in {1..50}; do
            [ -d "$root/$1" ] || break
            find "$root/$1" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.1
        done
        [ ! -d "$root/$1" ] || say "the cgroup $root/$1 could not be removed"
    done
}

# --- A node ----------------------------------------------------------------------------------

# Sets what depends on the node's number.
describe() {
    number=$1 node=node$1 folder=$state/node$1
    if [ "$1" = 1 ]; then
        cgroup=$name address=$node_ip host_link=$name-host pods=10.$net.2.0/24 api=https://127.0.0.1
        host_side=$host_ip host_address=$node_ip
    else
        [[ $1 =~ ^([2-9]|1[0-9]|2[0-4])$ ]] || die "a worker's number is from 2 to 24, not $1"
        cgroup=$name-n$1 host_link=$name-n$1-host api=https://$api_service
        # Three networks a worker: to the first node, to the host, and of its pods.
        first_side=10.$net.$((10 * $1)).1 address=10.$net.$((10 * $1)).2
        host_side=10.$net.$((10 * $1 + 1)).1 host_address=10.$net.$((10 * $1 + 1)).2
        pods=10.$net.$((10 * $1 + 2)).0/24
    fi
}

write_node() {
    mkdir -p "$folder"/{pki,conf,cni,log,run,kubelet/manifests,containerd,images}
    certificate "$folder/pki/kubelet-server" "/CN=$node" serverAuth "DNS:$node,IP:$address"
    client "$folder/pki/kubelet" "/O=system:nodes/CN=system:node:$node" "$api"
    client "$folder/pki/kube-proxy" /CN=system:kube-proxy "$api"
    : >"$folder/conf/resolv.conf"
    write_kubelet_config
    write_kube_proxy_config
    write_containerd_config
    cat >"$folder/cni/10-pods.conflist" <<JSON
{"cniVersion": "1.0.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": "pods", "isGateway": true, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": "/run/pod-addresses",
    "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}
JSON
    local archive
    while read -r archive; do ln -s "$archive" "$folder/images/"; done <"$state/images"
    local variable
    for variable in number node folder state programs plugins address api_service services first_side host_address net; do
        printf '%s=%q\n' "$variable" "${!variable:-}"
    done >"$folder/env"
    # The flags are lists of words, as they are given.
    printf 'api_args=%q\nkcm_args=%q\n' "${API_ARGS:-}" "${KCM_ARGS:-}" >>"$folder/env"
}

write_kubelet_config() {
    # Taken from the first node, so that a worker has the same.
    [ "$number" != 1 ] || printf '%s\n' "${KUBELET_YAML:-}" >"$state/kubelet.more"
    {
        cat <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
# A cgroup v1 machine is refused by default.
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /$cgroup
# Kernel settings are compared, not written: init.sh shows the kubelet what it wants to see.
protectKernelDefaults: true
authentication: {anonymous: {enabled: false}, x509: {clientCAFile: "$state/pki/ca.crt"}, webhook: {enabled: true}}
authorization: {mode: Webhook}
tlsCertFile: $folder/pki/kubelet-server.crt
tlsPrivateKeyFile: $folder/pki/kubelet-server.key
address: $address
# Lowering it needs a capability that root in a container may lack.
oomScoreAdj: 0
maxOpenFiles: 20000
# Nobody answers there, but without an address each pod gets a warning.
clusterDNS: [$dns_service]
clusterDomain: cluster.local
resolvConf: $folder/conf/resolv.conf
volumePluginDir: $folder/kubelet/plugins
staticPodPath: $folder/kubelet/manifests
# The images were loaded by hand and cannot be pulled again.
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}
YAML
        # Only pods that say so run on a worker: its end is part of some test.
        [ "$number" = 1 ] || echo 'registerWithTaints: [{key: leasehold.dev/worker, value: "'"$number"'", effect: NoSchedule}]'
        cat "$state/kubelet.more"
    } >"$folder/conf/kubelet.yaml"
}

write_kube_proxy_config() {
    cat >"$folder/conf/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: "$folder/pki/kube-proxy.kubeconfig"}
hostnameOverride: $node
mode: iptables
# A Service's new endpoint is reachable after that long.
iptables: {minSyncPeriod: 100ms}
detectLocalMode: BridgeInterface
detectLocal: {bridgeInterface: pods}
# Of the whole machine, not of this network namespace: left as they are.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
YAML
}

write_containerd_config() {
    local snapshotter=overlayfs
    # An overlay cannot be written over another one, which is what a container's root is.
    [ "$(stat -f -c %T "$folder")" != overlayfs ] || snapshotter=native
    cat >"$folder/conf/containerd.toml" <<TOML
version = 2
root = "$folder/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$folder/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$plugins"
    conf_dir = "$folder/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
TOML
}

# Starts the node's first process; sets init, its process id here.
start_init() {
    setsid unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc \
        bash "$here/init.sh" "$folder" >"$folder/log/init.log" 2>&1 </dev/null &
    local outer=$!
    until [ -e "$folder/run/namespaces" ]; do
        kill -0 "$outer" 2>/dev/null || die "the node's first process ended: $(tail -n 5 "$folder/log/init.log")"
        sleep 0.02
    done
    init=$(cat "/proc/$outer/task/$outer/children")
    init=${init%% *}
    echo "$init" >"$folder/init.pid"
}

link_to_host() {
    ip link add "$host_link" type veth peer name host netns "$init"
    ip addr add "$host_side/24" dev "$host_link"
    ip link set "$host_link" up
}

# FILE SECONDS
wait_for_file() {
    local until=$((SECONDS + $2))
    until [ -e "$1" ]; do
        kill -0 "$init" 2>/dev/null && [ "$SECONDS" -lt "$until" ] \
            || die "waited $2 s for $(basename "$1"); the logs are in $folder/log, the end of init.log: $(tail -n 3 "$folder/log/init.log")"
        sleep 0.05
    done
}

kubectl() { "$programs/kubectl" --kubeconfig "$state/admin.kubeconfig" "$@"; }

# Ready by a report of this very kubelet: a Node of this name may be older than it.
wait_ready() {
    local since=$1 until=$((SECONDS + 60)) heard
    while :; do
        heard=$(kubectl get node "$node" --ignore-not-found \
            -o 'jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.lastHeartbeatTime}{end}' 2>/dev/null || true)
        [[ $heard == "True "* && ! ${heard#True } < $since ]] && return
        [ "$SECONDS" -lt "$until" ] || die "$node is not Ready after 60 s: $folder/log/kubelet.log says why"
        sleep 0.1
    done
}

# --- The cluster -----------------------------------------------------------------------------

up() {
    check_needs
    find_programs
    local images
    images=$("$here/images.sh")
    began=${EPOCHREALTIME/./}
    # One that is still up, or that a killed run left.
    down
    trap 'code=$?; [ "$code" = 0 ] || { down; exit "$code"; }' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir -p "$state"/records
    printf 'name=%q net=%q\n' "$name" "$net" >"$state/cluster"
    chmod 1777 "$state/records"
    realpath $images "$@" >"$state/images"
    printf '%s\n' "$programs" >"$state/programs"
    make_authority
    client "$state/pki/admin" /O=system:masters/CN=admin "https://$node_ip"
    cp "$state/pki/admin.kubeconfig" "$state/admin.kubeconfig"
    client "$state/pki/controller-manager" /CN=system:kube-controller-manager https://127.0.0.1
    client "$state/pki/scheduler" /CN=system:kube-scheduler https://127.0.0.1
    certificate "$state/pki/kubelet-client" /O=system:masters/CN=kube-apiserver clientAuth
    certificate "$state/pki/apiserver" /CN=kube-apiserver serverAuth \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:$api_service,IP:$node_ip,IP:127.0.0.1"
    describe 1
    write_node
    make_cgroup "$cgroup"
    local since
    since=$(date -u +%FT%TZ)
    start_init
    link_to_host
    # Everything of this cluster goes to the first node, so that nothing leaves by the default route.
    ip route replace "10.$net.0.0/16" via "$node_ip"
    say 'namespaces and links are there'
    wait_for_file "$folder/run/api-server" 90
    say 'the API server is ready'
    wait_ready "$since"
    say 'node1 is Ready'
    wait_for_file "$folder/run/images-loaded" 60
    until kubectl --namespace default get serviceaccount default >/dev/null 2>&1; do sleep 0.1; done
    say 'images are loaded'
    echo "export KUBECONFIG=$state/admin.kubeconfig PATH=$programs:\$PATH"
}

down() {
    local path number
    # It is removed as a whole: no folder is that was not made for this.
    if [ -n "$(ls -A "$state" 2>/dev/null)" ] && [ ! -e "$state/cluster" ]; then
        die "$state holds something else than a cluster: set NODE_STATE to a folder that does not exist"
    fi
    for path in "$state"/node*/; do
        [ -d "$path" ] || continue
        number=$(basename "$path")
        worker_down "${number#node}"
    done
    # The first node's names, also where its state is gone.
    describe 1
    take_down
    rm -rf "$state"
}

# The processes here that were started as a node's first: those of this folder, whether or not it is still there.
first_processes() {
    local path words
    for path in /proc/[0-9]*; do
        mapfile -d '' -t words <"$path/cmdline" || continue
        [[ ${#words[@]} -lt 2 || ${words[-2]} != */init.sh || ${words[-1]} != "$folder" ]] || echo "${path#/proc/}"
    done 2>/dev/null
}

# Ends the node that describe has named, and what it had outside its namespaces.
take_down() {
    local process try
    # With the first process of a namespace the kernel ends all of it. A zombie has no command line.
    while process=$(first_processes) && [ -n "$process" ]; do
        # shellcheck disable=SC2086 # one word a process
        kill -KILL $process 2>/dev/null || true
        sleep 0.02
    done
    remove_cgroup "$cgroup"
    for try in {1..50}; do
        ip link show "$host_link" >/dev/null 2>&1 || break
        # It goes with the namespace of its other end, a moment later.
        [ "$try" -lt 50 ] && sleep 0.02 || ip link del "$host_link"
    done
    rm -rf "$folder"
}

# --- More nodes ------------------------------------------------------------------------------

worker_up() {
    check_needs
    [ -e "$state/cluster" ] || die "no cluster is up in $state: node.sh up"
    find_programs
    began=${EPOCHREALTIME/./}
    describe "$1"
    take_down
    trap 'code=$?; [ "$code" = 0 ] || { take_down; exit "$code"; }' EXIT
    write_node
    make_cgroup "$cgroup"
    local since first
    since=$(date -u +%FT%TZ)
    first=$(cat "$state/node1/init.pid")
    start_init
    link_to_host
    # The host reaches the pods of a worker that is cut off from the first node.
    ip route replace "$pods" via "$host_address"
    nsenter -t "$first" -n ip link add "node$number" type veth peer name node1 netns "$init"
    nsenter -t "$first" -n ip addr add "$first_side/24" dev "node$number"
    nsenter -t "$first" -n ip link set "node$number" up
    nsenter -t "$first" -n ip route replace "$pods" via "$address"
    wait_ready "$since"
    wait_for_file "$folder/run/images-loaded" 60
    say "$node is Ready"
}

worker_down() {
    describe "$1"
    take_down
}

in_network() { nsenter -t "$(cat "$folder/init.pid")" -n "$@"; }

# in: the worker hears nothing; out: nobody hears it. Before any rule of kube-proxy's.
worker_cut() {
    worker_heal "$1"
    case ${2:-both} in in | both) in_network iptables -w -t raw -A PREROUTING -i node1 -j DROP ;; out) ;; *) die "cut in, out or nothing, not $2" ;; esac
    [ "${2:-both}" = in ] || in_network iptables -w -t mangle -A POSTROUTING -o node1 -j DROP
}

worker_heal() {
    describe "$1"
    [ -e "$folder/init.pid" ] || die "worker $1 is not up"
    while in_network iptables -w -t raw -D PREROUTING -i node1 -j DROP 2>/dev/null; do :; done
    while in_network iptables -w -t mangle -D POSTROUTING -o node1 -j DROP 2>/dev/null; do :; done
}

enter() {
    describe "$1"
    shift
    exec nsenter -t "$(cat "$folder/init.pid")" -m -p -n -u -i -- "$@"
}

load() {
    local archive path
    for archive; do
        for path in "$state"/node*/init.pid; do
            nsenter -t "$(cat "$path")" -m -p -n -- ctr --address /run/containerd/containerd.sock --namespace k8s.io \
                images import "$(realpath "$archive")" >/dev/null
        done
        # For workers that join later.
        realpath "$archive" >>"$state/images"
    done
}

print_env() {
    [ -e "$state/cluster" ] || die "no cluster is up in $state: node.sh up"
    echo "$state"
    cat "$state/programs"
}

case ${1:-} in
    up | enter | load) "$@" ;;
    down) down ;;
    env) print_env ;;
    worker)
        [[ ${3:-} =~ ^(up|down|cut|heal)$ ]] || die 'worker N up, down, cut or heal'
        "worker_$3" "$2" "${4:-}"
        ;;
    *) die "up, down, worker, enter, load or env: see the head of $0" ;;
esac
