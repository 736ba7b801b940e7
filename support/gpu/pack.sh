#!/usr/bin/env bash
# Fills a folder with all that a GPU node without a network needs: code, wheels, data, plans, earlier records.
# docs/gpu_nodes.md shows it in use; --help lists the options.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: support/gpu/pack.sh [options]
  --output DIR                folder to fill and to carry (default: .gpu)
  --data DIR[=NAME]           a data set, copied as it is, to data/NAME; may be repeated
  --reencode DIR[=NAME] Q S   a data set with its JPEGs saved at quality Q, shorter side S px (0: as it is)
  --plans DIR                 plans, students and tasks of your own
  --records DIR               results/ and runs/ of earlier jobs, from which a plan goes on
  --requirements FILE         packages that the node lacks (default: support/gpu/wheels.txt)
  --detection                 the packages for detection, too (support/gpu/wheels_detection.txt)
  --no-wheels                 download nothing; what an earlier packing left in wheels/ stays
  --python-version X.Y        the node's Python (default: 3.12)
  --platform TAG              the node's platform; may be repeated (default: manylinux, x86_64)
  --limit MIB                 fail where the folder is larger
  --python FILE               interpreter here, with pip, and pillow for --reencode (default: python3)
TEXT
}
fail() { echo "pack.sh: $*" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
output=$root/.gpu python=python3 node=3.12 limit="" plans="" records="" wheels=1
requirements=("$here/wheels.txt")
platforms=() data=() encoded=()
while [ $# -gt 0 ]; do
  case $1 in
    --detection) requirements+=("$here/wheels_detection.txt"); shift; continue ;;
    --no-wheels) wheels=""; shift; continue ;;
    --help | -h) usage; exit 0 ;;
  esac
  [ $# -gt 1 ] || fail "$1: unknown, or without its value; --help lists the options"
  case $1 in
    --output) output=$2 ;;
    --data) data+=("$2") ;;
    --reencode) [ $# -gt 3 ] || fail "--reencode takes a folder, a quality and a side"; encoded+=("$2" "$3" "$4"); shift 2 ;;
    --plans) plans=$2 ;;
    --records) records=$2 ;;
    --requirements) requirements[0]=$2 ;;
    --python-version) node=$2 ;;
    --platform) platforms+=("$2") ;;
    --limit) limit=$2 ;;
    --python) python=$2 ;;
    *) fail "$1: unknown; --help lists the options" ;;
  esac
  shift 2
done
[ ${#platforms[@]} -gt 0 ] || platforms=(manylinux_2_{28,27,17}_x86_64 manylinux2014_x86_64 manylinux1_x86_64)
case $limit in *[!0-9]*) fail "--limit $limit: a whole number of MiB is needed" ;; esac
for folder in "${data[@]%%=*}" ${plans:+"$plans"} ${records:+"$records"}; do
  [ -d "$folder" ] || fail "$folder: no such folder"
done
[ -z "$records" ] || [ -d "$records/results" ] || fail "$records: holds no results/"
if [ -d "$output" ] && [ -n "$(ls -A "$output")" ] && [ ! -f "$output/packed.txt" ]; then
  fail "$output: holds other files; name a new folder"
fi

mkdir -p "$output/wheels"
output=$(cd "$output" && pwd)
rm -rf "${output:?}"/{code,data,plans,earlier}
mkdir -p "$output"/{code,data,plans,earlier}
echo "packing" >"$output/packed.txt"

code() { # names of the files to carry: what git knows, else everything; never stored results
  cd "$root"
  if [ -e .git ]; then
    git ls-files -z -- . ':!results' ':!docs/images'
  else
    shopt -s nullglob  # a copy may lack some of them
    find cskd_bench/ config[s]/ task[s]/ test[s]/ suppor[t]/ doc[s]/ *.* -type f -not -path '*/__pycache__/*' -not -path 'docs/images/*' -print0
  fi
}
code | tar -C "$root" --null --ignore-failed-read -cf - -T - | tar -C "$output/code" -xf -
"$python" -I "$root/cskd_bench/commit.py" "$root" >"$output/code/cskd_bench/commit.json"
cp "$here/run.sh" "$output/run.sh"

for each in "${data[@]}"; do
  name=${each#*=}
  cp -RL "${each%%=*}" "$output/data/$(basename "$name")"
done
for ((i = 0; i < ${#encoded[@]}; i += 3)); do
  name=${encoded[i]#*=}
  "$python" "$here/reencode.py" "${encoded[i]%%=*}" "$output/data/$(basename "$name")" "${encoded[i + 1]}" "${encoded[i + 2]}"
done
[ -z "$plans" ] || cp -RL "$plans/." "$output/plans"
for kind in results runs; do
  [ -z "$records" ] || [ ! -d "$records/$kind" ] || cp -RL "$records/$kind" "$output/earlier/$kind"
done

if [ -n "$wheels" ]; then
  rm -rf "${output:?}/wheels"
  names=()
  for file in "${requirements[@]}"; do names+=(--requirement "$file"); done
  "$python" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$node" \
    "${platforms[@]/#/--platform=}" --constraint "$root/constraints.txt" --dest "$output/wheels" "${names[@]}" ||
    fail "the wheels were not downloaded; --no-wheels goes without"
fi

{
  echo "code: $(cat "$output/code/cskd_bench/commit.json")"
  "$python" - "$output" <<'PYTHON'
import sys
from pathlib import Path

folder = Path(sys.argv[1])
sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in folder.iterdir() if p.is_dir()}
for name, size in sorted(sizes.items()):
    print(f"{name}: {size / 2**20:.1f} MiB")
print(f"all: {sum(sizes.values()) / 2**20:.1f} MiB")
PYTHON
} | tee "$output/packed.txt"
size=$(sed -n 's/^all: \([0-9.]*\) MiB$/\1/p' "$output/packed.txt")
if [ -n "$limit" ] && awk "BEGIN { exit !($size > $limit) }"; then
  echo "pack.sh: $output holds $size MiB, more than the limit of $limit MiB" >&2
  exit 1
fi
