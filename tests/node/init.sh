#!/usr/bin/env bash
# The first process of a node: its mounts, its network, its daemons. node.sh starts it in new
# namespaces; with its end, the kernel ends everything in them.
#
#   init.sh FOLDER    FOLDER/env says what the node is
#
# Each daemon is started again when it ends. Its process id, as this namespace counts, is in
# run/NAME.pid; while run/NAME.hold is there, it stays dead.
set -u
folder=$1
. "$folder/env"

# --- Mounts ----------------------------------------------------------------------------------

mount -t tmpfs node /run
mkdir -p /run/{containerd,etcd,var/upper,var/work}
# What is written to /var (logs of pods, what CNI remembers) is the node's and goes with it.
mount -t overlay var -o lowerdir=/var,upperdir=/run/var/upper,workdir=/run/var/work /var
# A /sys that shows this network, with the cgroups of the machine.
mkdir -p /run/sys
mount -t sysfs sys /run/sys
mount --rbind /sys/fs/cgroup /run/sys/fs/cgroup
mount --move /run/sys /sys

# The kubelet refuses to run with other settings. They are the machine's, so it is shown files.
mkdir -p /run/settings
show() {
    echo "$2" >"/run/settings/${1//\//.}"
    mount --bind "/run/settings/${1//\//.}" "/proc/sys/$1"
}
show vm/overcommit_memory 1
show kernel/panic 10
show kernel/panic_on_oops 1
show kernel/keys/root_maxkeys 1000000
show kernel/keys/root_maxbytes 25000000

# --- Network ---------------------------------------------------------------------------------

hostname "$node"
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
touch "$folder/run/namespaces"

# NAME ADDRESS: a link that node.sh puts here
take_link() {
    until ip link show "$1" >/dev/null 2>&1; do sleep 0.02; done
    ip addr add "$2/24" dev "$1"
    ip link set "$1" up
}
take_link host "$host_address"
if [ "$number" = 1 ]; then
    # Before kube-proxy is there, and for what runs on the node itself.
    ip addr add "$api_service/32" dev lo
else
    take_link node1 "$address"
    ip route add "10.$net.0.0/16" via "$first_side"
fi

# --- Daemons ---------------------------------------------------------------------------------

# NAME COMMAND...
keep() {
    local daemon=$1
    shift
    while :; do
        if [ -e "$folder/run/$daemon.hold" ]; then sleep 0.1; continue; fi
        "$@" >>"$folder/log/$daemon.log" 2>&1 </dev/null &
        echo $! >"$folder/run/$daemon.pid"
        wait $!
        sleep 0.2
    done
}

load_images() {
    local ctr="ctr --address /run/containerd/containerd.sock --namespace k8s.io" archive
    until $ctr version >/dev/null 2>&1; do sleep 0.1; done
    for archive in "$folder"/images/*; do
        $ctr images import "$archive" || return
    done
    touch "$folder/run/images-loaded"
}

keep containerd containerd --config "$folder/conf/containerd.toml" &
load_images >"$folder/log/images.log" 2>&1 &

control_plane() {
    # On a tmpfs and never synced: the machine does not crash in a test.
    keep etcd "$programs/etcd" --data-dir /run/etcd --unsafe-no-fsync --log-level=warn \
        --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
        --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
        --initial-cluster default=http://127.0.0.1:2380 &
    # shellcheck disable=SC2086 # api_args and kcm_args are lists of words
    keep kube-apiserver "$programs/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
        --advertise-address="$address" --secure-port=443 --service-cluster-ip-range="$services" \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
        --client-ca-file="$state/pki/ca.crt" \
        --tls-cert-file="$state/pki/apiserver.crt" --tls-private-key-file="$state/pki/apiserver.key" \
        --service-account-issuer=https://kubernetes.default.svc.cluster.local \
        --service-account-key-file="$state/pki/accounts.pub" \
        --service-account-signing-key-file="$state/pki/accounts.key" \
        --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority="$state/pki/ca.crt" \
        --kubelet-client-certificate="$state/pki/kubelet-client.crt" \
        --kubelet-client-key="$state/pki/kubelet-client.key" $api_args &
    until curl --silent --fail --cacert "$state/pki/ca.crt" --cert "$state/pki/admin.crt" --key "$state/pki/admin.key" \
        --output /dev/null https://127.0.0.1/readyz; do sleep 0.05; done
    touch "$folder/run/api-server"
    # The controllers that pods, workloads and Services need; those left out would poll for nothing.
    local controllers=serviceaccount-controller,root-ca-certificate-publisher-controller,namespace-controller
    controllers+=,deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller
    controllers+=,job-controller,cronjob-controller,ttl-after-finished-controller,disruption-controller
    controllers+=,endpointslice-controller,node-lifecycle-controller,taint-eviction-controller
    controllers+=,pod-garbage-collector-controller,garbage-collector-controller
    controllers+=,clusterrole-aggregation-controller,validatingadmissionpolicy-status-controller
    keep kube-controller-manager "$programs/kube-controller-manager" --bind-address=127.0.0.1 \
        --kubeconfig="$state/pki/controller-manager.kubeconfig" --use-service-account-credentials=true \
        --service-account-private-key-file="$state/pki/accounts.key" --root-ca-file="$state/pki/ca.crt" \
        --cert-dir=/run/controller-manager --flex-volume-plugin-dir="$folder/kubelet/plugins" \
        --kube-api-qps=200 --kube-api-burst=400 --controllers="$controllers" $kcm_args &
    keep kube-scheduler "$programs/kube-scheduler" --bind-address=127.0.0.1 \
        --kubeconfig="$state/pki/scheduler.kubeconfig" --cert-dir=/run/scheduler &
}
[ "$number" != 1 ] || control_plane

keep kubelet "$programs/kubelet" --config="$folder/conf/kubelet.yaml" --kubeconfig="$folder/pki/kubelet.kubeconfig" \
    --root-dir="$folder/kubelet" --hostname-override="$node" --node-ip="$address" --v=2 &
keep kube-proxy "$programs/kube-proxy" --config="$folder/conf/kube-proxy.yaml" &

# Whatever lost its parent becomes this shell's child, and is reaped here.
while :; do
    wait
    sleep 1
done
