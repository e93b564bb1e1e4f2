#!/usr/bin/env bash
# Compiles requirements/*.txt: exact versions with hashes for every platform, no index addresses.
set -euo pipefail
cd "$(dirname "$0")/.."
compile=(uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-emit-find-links --no-header "$@")
"${compile[@]}" pyproject.toml requirements/build.in -o requirements/runtime.txt
"${compile[@]}" pyproject.toml requirements/build.in requirements/dev.in -c requirements/runtime.txt -o requirements/dev.txt
"${compile[@]}" pyproject.toml --extra complete-journey -c requirements/dev.txt -o requirements/complete-journey.txt
