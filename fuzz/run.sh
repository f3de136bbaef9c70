#!/bin/sh
# Fuzzes each target for a time, or the one that is named: fuzz/run.sh SECONDS [TARGET].
#
# The engine runs without a sanitizer, on the pinned stable toolchain: nothing here is unsafe code, and what is looked
# for are panics and broken properties. It starts from fuzz/corpus, which it does not touch: what it adds is kept in
# fuzz/target/found, for the next run. An input that breaks a property is left in fuzz/artifacts, and is to be added
# to the corpus with the mending (docs/proof.md).
set -eu
seconds=$1
cd "$(dirname "$0")/.."
targets=${2:-$("$CARGO_FUZZ" list)}
broken=
for target in $targets; do
	mkdir -p "fuzz/target/found/$target" "fuzz/artifacts/$target"
	log=fuzz/target/found/$target.log
	if "$CARGO_FUZZ" run --sanitizer none "$target" "fuzz/target/found/$target" "fuzz/corpus/$target" -- \
		-max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 >"$log" 2>&1; then
		awk -v target="$target" '
			/DONE/ { for (i = 1; i < NF; i++) if ($i == "cov:") cover = $(i + 1) }
			/number_of_executed_units/ { runs = $2 }
			/average_exec_per_sec/ { rate = $2 }
			END { printf "%-20s %9d inputs, %6d/s, %5d branches covered: nothing broken\n", target, runs, rate, cover }
		' "$log"
	else
		broken="$broken $target"
		printf '%-20s BROKEN: see %s\n' "$target" "$log"
		grep -E -m 3 -A 1 'panicked at|ERROR: libFuzzer|Test unit written' "$log" || tail -n 5 "$log"
	fi
done
[ -z "$broken" ] || { echo "broken:$broken" >&2; exit 1; }
