#!/usr/bin/env bash
# speechlm_pretrain key=value ... runs examples/speechlm_pretrain.py; what is no example's name runs as it is.
set -euo pipefail
home="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
name="${1:-}"

if [[ -z "$name" || "$name" == "-h" || "$name" == "--help" ]]; then
    echo "usage: docker run IMAGE COMMAND [--help] [key=value ...]"
    echo "commands:"
    for example in "$home"/examples/*.py; do
        echo "    $(basename "$example" .py)"
    done
    exit 0
fi
if [[ -f "$home/examples/${name%.py}.py" ]]; then
    shift
    exec python "$home/examples/${name%.py}.py" "$@"
fi
if ! command -v "$name" >/dev/null; then
    echo "error: no command $name; --help lists those there are" >&2
    exit 127
fi
exec "$@"
