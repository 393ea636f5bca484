# The table of what came out. shellcheck shell=bash

# Medians of the rounds, with the lowest and highest where they tell how far to trust them.
report() {
    echo "# Side by side: $name"
    echo
    echo "| | |"
    echo "|---|---|"
    echo "| commit | $(git rev-parse --short HEAD 2>/dev/null || echo unknown)$(git diff --quiet 2>/dev/null || echo ', with changes') |"
    echo "| date | $(date -u +'%F %H:%M UTC') |"
    echo "| machine | $(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r) |"
    echo "| others on the machine | load average before the first round: $load_before |"
    echo "| build | ${BUILD:-profile $profile, mimalloc} |"
    echo "| rounds | $rounds of $seconds s; medians, (lowest to highest) |"
    local proxy scenario
    for proxy in "${installed[@]}"; do
        # shellcheck source=/dev/null
        source "load-tests/compare/$proxy.sh"
        echo "| $proxy | $(version) |"
    done
    echo
    echo "One core for the proxy with one thread, another for the load ($generator, h2load, gauge) and the server (nginx, gauge)."
    echo "Where the proxy's core was not busy the other one was, and the rate is not the proxy's: CPU is what counts."
    echo "\`load-tests/compare.sh\` says more."
    for scenario in "${scenarios[@]}"; do
        describe "$scenario"
        echo
        echo "## $scenario"
        echo
        if [[ $load == hold ]]; then table_of_memory; else table_of_work; fi
    done
}

# Both tables compare with bare Pingora where it takes part, else with the first that does.
functions='
    function median(proxy, field,    n, i, j, list, swap) {
        n = count[proxy]
        for (i = 1; i <= n; i++) list[i] = value[proxy, i, field]
        for (i = 1; i <= n; i++) for (j = i + 1; j <= n; j++) if (list[j] < list[i]) { swap = list[i]; list[i] = list[j]; list[j] = swap }
        low = list[1]; high = list[n]
        return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
    }
    function spread(proxy, field, format,    middle) {
        middle = median(proxy, field)
        return sprintf(format " (" format "–" format ")", middle, low, high)
    }
    function ratio(proxy, field,    other) {
        other = median(reference, field)
        return other ? sprintf("%.2f", median(proxy, field) / other) : "–"
    }
    function known(proxy, field) { return value[proxy, 1, field] == "–" ? "–" : sprintf("%.2f", median(proxy, field)) }
    function choose(    at) {
        proxies = split(order, list_of, " ")
        if (count["bare"]) return "bare"
        for (at = 1; at <= proxies; at++) if (count[list_of[at]]) return list_of[at]
    }
    BEGIN { FS = "\t" }
    $1 == scenario { n = ++count[$2]; for (field = 3; field <= NF; field++) value[$2, n, field] = $field == "–" ? $field : $field + 0 }'

table_of_work() {
    awk -v scenario="$scenario" -v order="${installed[*]}" -v unit="$unit" -v units="$units" "$functions"'
        END {
            reference = choose()
            printf "| proxy | CPU µs/%s | to %s | %s/s | to %s | core | p50 ms | p99 ms | RSS MiB | failed |\n", unit, reference, units, reference
            print "|---|---|---|---|---|---|---|---|---|---|"
            for (at = 1; at <= proxies; at++) {
                proxy = list_of[at]
                if (!count[proxy]) continue
                printf "| %s | %s | %s | %s | %s | %.0f%% | %s | %s | %.0f | %d |\n", proxy, spread(proxy, 4, "%.1f"), ratio(proxy, 4), spread(proxy, 3, "%d"), ratio(proxy, 3), median(proxy, 9), known(proxy, 5), known(proxy, 6), median(proxy, 7), median(proxy, 8)
            }
        }' "$raw"
}

table_of_memory() {
    awk -v scenario="$scenario" -v order="${installed[*]}" "$functions"'
        END {
            reference = choose()
            printf "| proxy | KiB/connection | to %s | connections | RSS MiB before | RSS MiB | failed |\n", reference
            print "|---|---|---|---|---|---|---|"
            for (at = 1; at <= proxies; at++) {
                proxy = list_of[at]
                if (!count[proxy]) continue
                printf "| %s | %s | %s | %d | %.0f | %.0f | %d |\n", proxy, spread(proxy, 3, "%.1f"), ratio(proxy, 3), median(proxy, 4), median(proxy, 5), median(proxy, 6), median(proxy, 7)
            }
        }' "$raw"
}
