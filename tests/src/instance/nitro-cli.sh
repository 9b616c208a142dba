#!/bin/sh
# A nitro-cli without Nitro: keeps its arguments, prints what the real one prints (aws-nitro-enclaves-cli 1.4:
# src/common/json_output.rs, src/common/document_errors.rs, and the outputs in issues 273, 516 and 644 of its repository), and runs
# the local enclave as the enclave. Test: @FOLDER@.
set -eu
folder='@FOLDER@'
printf '%s\n' "$*" >> "$folder/calls"
command=$1
shift

fail() { # CODE TEXT
    echo "Start allocating memory..." >&2
    for code in "$1" E39; do
        [ "$code" = E39 ] && text="Enclave process connection failure. Such error appears when the enclave manager fails to connect to at least one enclave process for retrieving the description information." || text=$2
        printf '[ %s ] %s\n\nFor more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#%s\n\nIf you open a support ticket, please provide the error log found at "/var/log/nitro_enclaves/err2023-07-25T17:09:51.827350506+00:00.log"\n' "$code" "$text" "$code" >&2
        [ "$code" = E39 ] || echo "Failed connections: 1" >&2
    done
    exit 39
}

stumbles() { # COMMAND: whether this call is to go wrong, this once
    [ -e "$folder/once-$1" ] && rm "$folder/once-$1"
}

measurements() { # EIF
    [ -r "$1" ] || fail E19 "File operation failure. Such error appears when the system fails to perform the requested file operations, such as opening the EIF file when launching an enclave, or seeking to a specific offset in the EIF file, or writing to the log file.
File: '$1', failing operation: 'Open'."
    sum=$(sha384sum < "$1" | cut -c 1-96)
    printf '"Measurements": { "HashAlgorithm": "Sha384 { ... }", "PCR0": "%s", "PCR1": "%s", "PCR2": "%s" }' "$sum" "$sum" "$sum"
}

running() { # FILE: whether its process lives, and is no zombie
    pid=$(sed -n 1p "$1")
    [ -r "/proc/$pid/stat" ] && ! grep -q '^State:.*Z' "/proc/$pid/status" 2>/dev/null
}

described() { # FILE
    sed -n 2p "$1"
}

if [ "$command" != run-enclave ] && stumbles "$command"; then fail E08 "Unusable connection error."; fi

case $command in
describe-eif)
    [ "$1" = --eif-path ] || exit 2
    found=$(measurements "$2")
    printf '{ "EifVersion": 4, %s, "IsSigned": false, "CheckCRC": true }\n' "$found"
    ;;
describe-enclaves)
    separator=
    printf '['
    for file in "$folder"/enclaves/*; do
        [ -e "$file" ] && running "$file" || continue
        printf '%s%s' "$separator" "$(described "$file")"
        separator=', '
    done
    printf ']\n'
    ;;
terminate-enclave)
    [ "$1" = --enclave-id ] || exit 2
    for file in "$folder"/enclaves/*; do
        [ -e "$file" ] || continue
        case $(described "$file") in *"\"$2\""*)
            kill -9 "$(sed -n 1p "$file")" 2>/dev/null || true
            rm -f "$file"
            echo "Successfully terminated enclave $2." >&2
            printf '{ "EnclaveName": "", "EnclaveID": "%s", "Terminated": true }\n' "$2"
            exit 0
            ;;
        esac
    done
    fail E08 "Unusable connection error."
    ;;
run-enclave)
    name= cid= eif= memory= cpus=
    while [ $# -gt 0 ]; do
        case $1 in
        --enclave-name) name=$2 ;;
        --enclave-cid) cid=$2 ;;
        --eif-path) eif=$2 ;;
        --memory) memory=$2 ;;
        --cpu-count) cpus=$2 ;;
        *) echo "error: Found argument '$1' which wasn't expected" >&2; exit 1 ;;
        esac
        shift 2
    done
    found=$(measurements "$eif")
    used=0
    for file in "$folder"/enclaves/*; do
        [ -e "$file" ] && running "$file" && used=$((used + $(sed -n 3p "$file"))) || true
    done
    [ $((used + memory)) -le "$(cat "$folder/memory_mib")" ] ||
        fail E27 "Insufficient memory available. User provided \`memory\` is $memory MB, which is more than the available hugepage memory.
You can increase the available memory by editing the \`memory_mib\` value from '/etc/nitro_enclaves/allocator.yaml' and then enable the nitro-enclaves-allocator.service."
    if [ -s "$folder/fail" ]; then fail "$(sed -n 1p "$folder/fail")" "$(sed -n 2p "$folder/fail")"; fi
    # An image that is no enclave boots nothing that speaks; one that is runs the local enclave.
    if grep -q silent "$eif"; then
        sleep 1000 < /dev/null > /dev/null 2>&1 &
    else
        '@ENCLAVE@' enclave --nsm-socket '@NSM@' --control "unix://$folder/control-$cid" --egress "unix://$folder/egress-$cid" \
            --audit "unix://$folder/audit-$cid" \
            --ingress "unix://$folder/ingress-$cid" < /dev/null >> '@LOG@' 2>&1 &
    fi
    pid=$!
    number=$(wc -l < "$folder/calls")
    id="i-0123456789abcdef0-enc$(printf '%016x' "$number")"
    common="\"EnclaveName\": \"$name\", \"EnclaveID\": \"$id\", \"ProcessID\": $pid, \"EnclaveCID\": $cid, \"NumberOfCPUs\": $cpus, \"CPUIDs\": [1, 3], \"MemoryMiB\": $memory"
    printf '%s\n{ %s, "State": "RUNNING", "Flags": "NONE", %s }\n%s\n' "$pid" "$common" "$found" "$memory" > "$folder/new-$cid"
    mv "$folder/new-$cid" "$folder/enclaves/$number"
    echo "Start allocating memory..." >&2
    echo "Started enclave with enclave-cid: $cid, memory: $memory MiB, cpu-ids: [1, 3]" >&2
    if stumbles run-enclave; then echo "no JSON text"; else printf '{ %s }\n' "$common"; fi
    ;;
*)
    exit 2
    ;;
esac
