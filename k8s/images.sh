#!/usr/bin/env bash
# Builds both images (`make images`). Environment:
#   ENGINE          docker, podman or buildah; default: the first one that works
#   REGISTRY, TAG   parts of the images' names; default: no registry, the version of services/api
#   BASE_IMAGE      base image with Python 3.11 or newer and its venv module, for example from a mirror
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_TRUSTED_HOST   sources of packages
#   PIP_CONFIG_FILE the same, with a password; PIP_CERT  trusted certificates of the sources
#   SOURCE          URL of the sources, for a label of the images; default: that of the remote `origin`
#   IMAGE_ARGS      additional arguments of the build, for example "--network host"
set -euo pipefail
cd "$(dirname "$0")/.."

works() {
  case $1 in
    docker) docker info ;;
    *) "$1" --version ;;
  esac >/dev/null 2>&1
}

engine=${ENGINE:-}
if [[ -z $engine ]]; then
  for each in docker podman buildah; do
    if works "$each"; then
      engine=$each
      break
    fi
  done
fi
if [[ -z $engine ]]; then
  echo "images: no docker (with its daemon running), podman or buildah found: install one of them" >&2
  exit 1
elif ! works "$engine"; then
  echo "images: $engine is not installed, or its daemon is not running" >&2
  exit 1
fi

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' services/api/pyproject.toml)
chart=$(sed -n 's/^appVersion: "\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' charts/iot-sensor/Chart.yaml)
revision=$(git rev-parse HEAD 2>/dev/null || echo unknown)
if [[ $revision != unknown && -n $(git status --porcelain -- clients services shared tools requirements) ]]; then
  revision+=-dirty
fi
arguments=(--build-arg "VERSION=$version" --build-arg "REVISION=$revision")
# The time of the commit. Without a commit, the Dockerfiles' own default.
created=$(TZ=UTC git log -1 --date='format-local:%Y-%m-%dT%H:%M:%SZ' --format=%cd 2>/dev/null || true)
[[ -z $created ]] || arguments+=(--build-arg "CREATED=$created")
# A remote may be a folder of this machine, and its URL may hold a password: neither is published.
source=${SOURCE:-$(git remote get-url origin 2>/dev/null || true)}
if [[ $source =~ ^(https?|ssh):// ]]; then
  arguments+=(--build-arg "SOURCE=$(sed -E 's#^([a-z]+://)[^/@]*@#\1#' <<<"$source")")
fi
for name in BASE_IMAGE PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST; do
  if [[ -n ${!name:-} ]]; then
    arguments+=(--build-arg "$name=${!name}")
  fi
done
if [[ -f ${PIP_CONFIG_FILE:-} ]]; then
  arguments+=(--secret "id=pip.conf,src=$PIP_CONFIG_FILE")
fi
if [[ -f ${PIP_CERT:-} ]]; then
  arguments+=(--secret "id=ca.crt,src=$PIP_CERT" --build-arg PIP_CERT=/run/secrets/ca.crt)
fi
# Word splitting is intended.
# shellcheck disable=SC2206
arguments+=(${IMAGE_ARGS:-})

for service in api writer; do
  name=${REGISTRY:+$REGISTRY/}iot-sensor-$service:${TAG:-$version}
  echo "Building $name with $engine ..."
  "$engine" build "${arguments[@]}" --file "services/$service/Dockerfile" --tag "$name" .
done

# Podman and buildah put localhost/ before a name without a registry; docker does not.
registry=${REGISTRY:-}
if [[ -z $registry && $("$engine" --version 2>/dev/null) != [Dd]ocker* ]]; then
  registry=localhost
fi
values=()
for service in api writer; do
  [[ -z $registry ]] || values+=("--set $service.image.registry=$registry")
  [[ ${TAG:-$version} == "$chart" ]] || values+=("--set-string $service.image.tag=${TAG:-$version}")
done
echo "Built ${registry:+$registry/}iot-sensor-{api,writer}:${TAG:-$version}. The nodes must find them under these names."
if ((${#values[@]})); then
  echo "Set for the chart: ${values[*]}"
else
  echo "These are the chart's default names: no value needs to be set."
fi
