#!/usr/bin/env bash
# Writes deploy/kustomize anew from charts/leasehold-injector, or with another helm than the pinned one: HELM=helm.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
helm=${HELM:-$(tests/control-plane/tools.sh helm)/helm}
"$helm" template leasehold charts/leasehold-injector --set injection.engine=kustomize >deploy/kustomize/kustomization.yaml
