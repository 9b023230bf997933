#!/usr/bin/env bash
# The C library under sanitizers: the fuzz, the C example and two threads on one model; and, where
# there is clang, the fuzz guided by coverage.
# Needs the package installed in the environment whose python is first in PATH.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
bundle=$(mammofm-lite config --bundle)
# A copy that every user may read, and pixels for the examples.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python - "$work" <<'PY'
import sys
from pathlib import Path
import numpy as np
rng = np.random.default_rng(1)
rows, columns = 1147, 957
y, x = np.mgrid[:rows, :columns]
breast = (x / 700) ** 2 + ((y - 570) / 500) ** 2 < 1
pixels = np.where(breast, 1500 + rng.integers(0, 900, (rows, columns)), 0).astype(np.uint16)
Path(sys.argv[1], "view.raw").write_bytes(pixels.tobytes())
PY

build() { # NAME SANITIZERS
	cmake -G Ninja -S c_ext -B "build/sanitize/$1" -DPython_EXECUTABLE="$(command -v python)" \
		-DMAMMOFM_SANITIZE="$2" -DMAMMOFM_FUZZ=ON >"$work/cmake.log"
	cmake --build "build/sanitize/$1"
	flags=(-fsanitize="$2" -g -Ic_ext/include -L"build/sanitize/$1" -Wl,-rpath,"$PWD/build/sanitize/$1" -lmammofm)
	gcc -std=c99 c_ext/examples/analyse.c "${flags[@]}" -o "$work/analyse"
	g++ -std=c++17 -pthread c_ext/examples/two_threads.cpp "${flags[@]}" -o "$work/two_threads"
}

examples() {
	"$work/analyse" "$bundle" "L-CC:1147:957:MONOCHROME2:0.2:0.2:$work/view.raw" \
		"R-CC:1147:957:MONOCHROME1:0:0:$work/view.raw" >"$work/out.json" 2>"$work/log"
	"$work/two_threads" "$bundle" 1147 957 "$work/view.raw" >"$work/out.json" 2>"$work/log"
}

build address address,undefined
# oneTBB opens its libraries with RTLD_DEEPBIND otherwise, which the sanitizers refuse.
export TBB_ENABLE_SANITIZERS=1
export ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LSAN_OPTIONS=suppressions=$PWD/c_ext/fuzz/lsan.supp
build/sanitize/address/mammofm_fuzz "$bundle" "$seconds" 1
examples || { cat "$work/log"; exit 1; }
echo "address, undefined: clean"

build thread thread
export TSAN_OPTIONS=suppressions=$PWD/c_ext/fuzz/tsan.supp:halt_on_error=1
examples || { cat "$work/log"; exit 1; }
echo "thread: clean"

probe='extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
if ! clang++ -fsanitize=fuzzer,address -x c++ - -o "$work/probe" <<<"$probe" 2>/dev/null; then
	echo "libFuzzer: NOT RUN, clang++ and its runtime are missing (Debian 12: clang libclang-rt-14-dev)"
	exit 0
fi
mkdir -p build/sanitize/corpus
cmake -G Ninja -S c_ext -B build/sanitize/libfuzzer -DPython_EXECUTABLE="$(command -v python)" \
	-DCMAKE_CXX_COMPILER=clang++ -DMAMMOFM_SANITIZE=address,undefined -DMAMMOFM_FUZZ=ON \
	-DMAMMOFM_LIBFUZZER=ON >"$work/cmake.log"
cmake --build build/sanitize/libfuzzer --target mammofm_fuzz
# The corpus grows from run to run; an input that crashes lies beside it.
MAMMOFM_DEMO_BUNDLE=$bundle MAMMOFM_CORPUS=build/sanitize/corpus build/sanitize/libfuzzer/mammofm_fuzz \
	-max_total_time="$seconds" -max_len=600000 -rss_limit_mb=4096 -timeout=60 -print_final_stats=1 \
	-verbosity=0 -artifact_prefix=build/sanitize/ build/sanitize/corpus
echo "libFuzzer: clean"
