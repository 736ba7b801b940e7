#!/usr/bin/env bash
# On a GPU node without a network, in the folder that pack.sh filled: tests, speed and a plan, each in its time.
# docs/gpu_nodes.md shows it in use; --help lists the options. Works on a CPU, too.
set -u

usage() {
  cat <<'TEXT'
usage: run.sh [options] PART...     parts: tests, speed, plan; they run in the order given
  --output DIR          logs, summary.txt, speed.tar.gz, plan.tar.gz (default: gpu_out)
  --work DIR            runs, records and caches; the same folder again goes on (default: OUTPUT/work)
  --plan FILE           the plan: here, in code/ or in plans/
  --parallel N          cells of the plan at a time (default: 1)
  --threads N           CPU threads a cell (default: torch's own)
  --bank                label the plan's views once for all methods
  --bench ARGUMENTS     further ones of `cskd-bench bench`, such as "--seeds 1 --methods supervised"
  --whole-cells         start no cell that would take longer than is left, by finished ones like it
  --keep-runs           put the runs (weights, checkpoints) into plan.tar.gz, for a plan that is to go on elsewhere
  --keep-run NAME       put this finished run alone into plan.tar.gz, such as the plan's teacher; may be repeated
  --tests ARGUMENTS     of pytest (default: the folders with tests that use a device)
  --speed ARGUMENTS     of `cskd-bench speed`; may be repeated (default: steps of three students, and the teacher)
  --tests-seconds N, --speed-seconds N, --plan-seconds N     limit of a part (default: 300, 300, 3000)
  --total-seconds N     limit of all parts together (default: none)
  --python FILE         interpreter with torch (default: python3)
Exit code: 0 all went well, 75 a time limit or a signal ended a part, 1 a part failed, 2 a wrong call.
TEXT
}
fail() { echo "run.sh: $*" >&2; exit 2; }

here=$(cd "$(dirname "$0")" && pwd) start=$PWD
began=$SECONDS
output=gpu_out work="" plan="" parallel=1 threads=0 bank="" bench="" whole="" keep="" tests="" python=python3
tests_seconds=300 speed_seconds=300 plan_seconds=3000 total=""
speeds=() parts=() kept=()
while [ $# -gt 0 ]; do
  case $1 in
    tests | speed | plan) parts+=("$1"); shift; continue ;;
    --bank) bank=1; shift; continue ;;
    --keep-runs) keep=1; shift; continue ;;
    --whole-cells) whole=1; shift; continue ;;
    --help | -h) usage; exit 0 ;;
  esac
  [ $# -gt 1 ] || fail "$1: unknown, or without its value; --help lists parts and options"
  case $1 in
    --*-seconds | --parallel | --threads) case $2 in '' | *[!0-9]*) fail "$1 $2: a whole number is needed" ;; esac ;;
  esac
  case $1 in
    --output) output=$2 ;;
    --work) work=$2 ;;
    --plan) plan=$2 ;;
    --parallel) parallel=$2 ;;
    --threads) threads=$2 ;;
    --bench) bench=$2 ;;
    --keep-run) kept+=("$2") ;;
    --tests) tests=$2 ;;
    --speed) speeds+=("$2") ;;
    --tests-seconds) tests_seconds=$2 ;;
    --speed-seconds) speed_seconds=$2 ;;
    --plan-seconds) plan_seconds=$2 ;;
    --total-seconds) total=$2 ;;
    --python) python=$2 ;;
    *) fail "$1: unknown; --help lists parts and options" ;;
  esac
  shift 2
done
[ ${#parts[@]} -gt 0 ] || fail "name a part: tests, speed or plan"
case $python in /*) ;; */*) python=$start/$python ;; esac
case $plan in '' | /*) ;; *) [ ! -f "$plan" ] || plan=$start/$plan ;; esac
work=${work:-$output/work}
mkdir -p "$output" "$work"/{results,runs,speed} || fail "$output, $work: cannot be made"
output=$(cd "$output" && pwd) work=$(cd "$work" && pwd)
code=$here/code

say() { printf '%5d s  %s\n' $((SECONDS - began)) "$*" | tee -a "$output/summary.txt"; }

failed="" stopped="" signalled="" child=""
on_signal() { signalled=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null; }
trap on_signal TERM INT USR1

time_until() { # time_until END: the seconds until END (in $SECONDS), or until the whole job's end
  local left=$(($1 - SECONDS))
  [ -z "$total" ] || [ $((began + total - SECONDS)) -ge $left ] || left=$((began + total - SECONDS))
  echo $left
}

bounded() { # bounded NAME END COMMAND...: a command that ends at END (in $SECONDS), with its words in NAME.log
  local name=$1 left
  left=$(time_until "$2")
  shift 2
  if [ -n "$signalled" ] || [ $left -le 0 ]; then
    stopped=1
    say "$name: not started, no time is left"
    return
  fi
  local limit=$((SECONDS + left)) status last
  timeout --kill-after=30 "$left" "$@" >>"$output/$name.log" 2>&1 &
  child=$!
  wait "$child"; status=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done  # a signal ends `wait` early
  child=""
  if [ -n "$signalled" ] || [ $SECONDS -ge $limit ]; then
    case $status in 137 | 143) status=124 ;; esac  # it was killed because its time was over
  fi
  last=$(LC_ALL=C tr -cd '\n -~' <"$output/$name.log" | grep '[[:alnum:]]' | tail -n 1 | cut -c1-160)  # no tables' lines
  case $status in
    0) say "$name: done; $last" ;;
    75 | 124) stopped=1; say "$name: stopped by ${signalled:+a signal, before }its limit of $left s; $last" ;;
    *) failed=1; say "$name: failed, exit code $status; $last" ;;
  esac
}

if compgen -G "$here/wheels/*.whl" >/dev/null; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$work/site" "$here"/wheels/*.whl \
    >"$output/install.log" 2>&1 || fail "the wheels were not installed: $output/install.log says why"
fi
export PYTHONPATH=$work/site:$code PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export TORCHINDUCTOR_CACHE_DIR=$work/inductor
[ -z "$(ls -A "$here/data")" ] || export CSKD_BENCH_DATA=$here/data  # else what the caller has set

say "code: $("$python" -I "$code/cskd_bench/commit.py" "$code")"
found=$("$python" - 2>&1 <<'PYTHON'
import importlib.metadata, platform, torch

device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
print(f"{device}, Python {platform.python_version()}, torch {torch.__version__}, timm {importlib.metadata.version('timm')}")
PYTHON
) || fail "$python lacks a package: ${found##*$'\n'}"
found=${found##*$'\n'}
say "device: $found"
on_gpu=1; case $found in CPU,*) on_gpu="" ;; esac

run_tests() {
  local words=(${tests:-tests/gpu tests/engine tests/tensor_views tests/methods tests/models tests/bank tests/transfer})
  cd "$code" && bounded tests $((SECONDS + tests_seconds)) "$python" -m pytest -p no:cacheprovider "${words[@]}"
}

run_speed() {
  local end=$((SECONDS + speed_seconds)) number=0 stamp each
  stamp=$(date -u +%Y%m%dT%H%M%SZ)
  if [ ${#speeds[@]} -eq 0 ]; then
    local more=""; [ -z "$on_gpu" ] || more=" --compile --rounds 7"
    for each in tiny:1024 small:512 base:256; do
      speeds+=("--part step --student deit_${each%:*}_patch16_224${on_gpu:+ --batch ${each#*:}}$more")
    done
    speeds+=("--part teacher$more")
  fi
  for each in "${speeds[@]}"; do
    number=$((number + 1))
    local words=($each)
    bounded speed "$end" "$python" -m cskd_bench.cli speed "${words[@]}" --output "$work/speed/${stamp}_$number.json"
  done
  tar -C "$work" -czf "$output/speed.tar.gz" speed
}

run_plan() {
  local file="" each members=(results) words end=$((SECONDS + plan_seconds))
  read -ra words <<<"$bench"  # patterns stay as they are
  [ -n "$plan" ] || { failed=1; say "plan: not run, --plan names none"; return; }
  for each in "$plan" "$code/$plan" "$here/plans/$plan"; do
    [ -n "$file" ] || [ ! -f "$each" ] || file=$(cd "$(dirname "$each")" && pwd)/$(basename "$each")
  done
  [ -n "$file" ] || { failed=1; say "plan: not run, $plan is not here, in code/ or in plans/"; return; }
  for each in results runs; do
    [ ! -d "$here/earlier/$each" ] || cp -Rn "$here/earlier/$each/." "$work/$each/"
  done
  [ -z "$whole" ] || words+=(--within "$(awk "BEGIN { print $(time_until $end) / 60 }")")
  cd "$(dirname "$file")" && bounded plan $end "$python" -m cskd_bench.cli bench "$(basename "$file")" \
    --parallel "$parallel" --threads "$threads" --runs "$work/runs" --results "$work/results" ${bank:+--bank "$work/banks"} \
    "${words[@]}"
  for each in "${kept[@]}"; do
    [ ! -f "$work/runs/$each/run.json" ] || members+=("runs/$each")  # written last
  done
  [ -z "$keep" ] || members=(results runs)
  tar -C "$work" -czf "$output/plan.tar.gz" "${members[@]}"
  say "plan: $(find "$work/results/records" -name '*.json' 2>/dev/null | wc -l) records are there, the earlier ones among them"
}

cd "$here"
for part in "${parts[@]}"; do "run_$part"; done
cd "$here" && say "all parts are over; $output holds what came out"
[ -z "$failed" ] || exit 1
[ -z "$stopped" ] || exit 75
