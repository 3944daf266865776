#!/usr/bin/env bash
# Creates, tests and deletes a test cluster on this machine (`make cluster-up`, `cluster-test`, `cluster-down`):
#   k8s/cluster.sh up | test | down
# Environment: CLUSTER (name of the cluster), VALUES (additional files of values), and the variables of images.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

cluster=${CLUSTER:-iot-sensor}
release=iot
namespace=iot-sensor
settings=$(mktemp -d)
trap 'rm -rf "$settings"' EXIT

has() { command -v "$1" >/dev/null 2>&1; }

# Uses helm and kubectl of PATH, or those of `make test`.
tool() {
  command -v "$1" || PYTHONPATH=tests .venv/bin/python -m support.helm "$1" 2>/dev/null
}

# Report all missing tools together, each with its purpose.
need() {
  local missing=0 each
  engine=${ENGINE:-}
  if [[ -z $engine ]]; then
    if docker info >/dev/null 2>&1; then
      engine=docker
    elif has podman; then
      engine=podman
    fi
  fi
  if [[ -z $engine ]]; then
    if has docker; then
      echo "missing: docker is installed, but its daemon can't be reached: start it, or install podman" >&2
    else
      echo "missing: docker or podman, which run kind's nodes and build the images" >&2
    fi
    missing=1
  elif [[ $engine != docker && $engine != podman ]]; then
    echo "missing: kind works with docker or podman, not with ENGINE=$engine" >&2
    missing=1
  elif ! has "$engine"; then
    echo "missing: $engine, which ENGINE names" >&2
    missing=1
  fi
  [[ $engine != podman ]] || export KIND_EXPERIMENTAL_PROVIDER=podman
  if ! has kind; then
    echo "missing: kind (0.24 or newer), which creates the cluster" >&2
    missing=1
  fi
  for each in "$@"; do
    if ! tool "$each" >/dev/null; then
      echo "missing: $each" >&2
      missing=1
    fi
  done
  if ((missing)); then
    echo "Nothing was done. k8s/README.md lists what a test cluster needs." >&2
    exit 1
  fi
}

exists() { grep --quiet --line-regexp -- "$cluster" <<<"$(kind get clusters 2>/dev/null)"; }

# Use this cluster only, even if another context is current.
connect() {
  kind get kubeconfig --name "$cluster" >"$settings/kubeconfig"
  export KUBECONFIG=$settings/kubeconfig
  helm=$(tool helm)
  kubectl=$(tool kubectl)
}

# One tag for both images, derived from their content: pods restart only when an image has changed.
name_images() {
  local each ids=""
  for each in api writer; do
    ids+=$("$engine" image inspect --format '{{.Id}}' "localhost/iot-sensor-$each:dev")
  done
  tag=dev-$(printf %s "$ids" | git hash-object --stdin | cut -c 1-12)
}

# Load the images into the nodes.
load() {
  local each name
  for each in api writer; do
    name=localhost/iot-sensor-$each
    "$engine" tag "$name:dev" "$name:$tag"
    "$engine" save --output "$settings/image.tar" "$name:$tag"
    kind load image-archive "$settings/image.tar" --name "$cluster"
    rm -f "$settings/image.tar"
    values+=(--set "$each.image.registry=localhost" --set-string "$each.image.tag=$tag")
  done
}

up() {
  need helm kubectl
  ENGINE=$engine REGISTRY=localhost TAG=dev k8s/images.sh
  exists || kind create cluster --name "$cluster" --config k8s/kind.yaml --wait 5m
  connect
  # The namespace admits restricted pods only.
  "$kubectl" create namespace "$namespace" --dry-run=client --output yaml | "$kubectl" apply --filename -
  "$kubectl" label namespace "$namespace" --overwrite \
    pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted
  values=(--values charts/iot-sensor/values-demo.yaml)
  local each
  for each in ${VALUES:-}; do
    values+=(--values "$each")
  done
  name_images
  load
  "$helm" upgrade --install "$release" charts/iot-sensor --namespace "$namespace" \
    "${values[@]}" --wait --timeout 10m
  echo "The release $release is in the namespace $namespace of the cluster $cluster (context kind-$cluster)."
}

test() {
  need helm kubectl
  if ! exists; then
    echo "There is no cluster $cluster: run make cluster-up" >&2
    exit 1
  fi
  connect
  "$helm" test "$release" --namespace "$namespace" --logs --timeout 5m
  local image
  image=$("$kubectl" --namespace "$namespace" get deployment "$release-iot-sensor-api" \
    --output 'jsonpath={.spec.template.spec.containers[0].image}')
  IOT_E2E=must IOT_E2E_REGISTRY=localhost IOT_E2E_TAG=${image##*:} .venv/bin/pytest tests/e2e
}

down() {
  need
  kind delete cluster --name "$cluster"
}

case ${1:-} in
  up | test | down) "$1" ;;
  *)
    echo "usage: k8s/cluster.sh up | test | down" >&2
    exit 2
    ;;
esac
