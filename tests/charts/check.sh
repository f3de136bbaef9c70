#!/usr/bin/env bash
# What can be said of the charts without a cluster; the rest is in tests/charts.rs and on the node.
#
#   check.sh          lint with each ci/ values file, and the unit tests
#   check.sh vendor   renew the copy of the library in charts/leasehold/charts
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

library=charts/leasehold-lib
copy=charts/leasehold/charts/leasehold-lib

if [ "${1:-}" = vendor ]; then
    rm -rf "$copy"
    mkdir -p "$copy"
    cp -r $library/{.helmignore,Chart.yaml,values.yaml,values.schema.json,templates} "$copy"
    exit
fi

helm=$(tests/control-plane/tools.sh helm)/helm
unittest=$(tests/control-plane/tools.sh helm-unittest)/helm-unittest

# Helm's own files go where nothing of this machine's Helm is.
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
export HELM_CACHE_HOME=$home HELM_CONFIG_HOME=$home HELM_DATA_HOME=$home

# What `helm dependency build` leaves would be rendered in place of the copy.
rm -f charts/leasehold/charts/*.tgz
# A path as a dependency: works without a network, and with the library as it is now.
rm -rf tests/charts/consumer/{charts,Chart.lock}
"$helm" dependency build tests/charts/consumer >/dev/null

"$helm" lint --strict --quiet $library charts/leasehold-injector
for chart in charts/leasehold tests/charts/consumer; do
    "$helm" lint --strict --quiet $chart
    for values in $chart/ci/*-values.yaml; do
        "$helm" lint --strict --quiet --values "$values" $chart
    done
done
# Rendered by the engine of Helm 3.
"$unittest" --color=false charts/leasehold tests/charts/consumer
