#!/usr/bin/env bash
# COMMAND key=value ... runs nemo-speechlm COMMAND; the name of another program runs that one, as it is.
set -euo pipefail

known="$(nemo-speechlm --help | sed -n 's/^    \([a-z_0-9]*\) .*/\1/p')"
name="${1:-}"
if [[ -z "$name" || "$name" == -* ]] || grep -qx -- "${name%.py}" <<<"$known" || ! command -v "$name" >/dev/null; then
    exec nemo-speechlm "$@" # which also says what is near a name that there is not
fi
exec "$@"
