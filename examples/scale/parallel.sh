#!/bin/sh
# One CSV in N processes on this machine: parallel.sh data.csv results.jsonl 4
# Run it again after a crash: each process resumes.
csv=$1 output=$2 shards=$3
seq "$shards" | parallel --will-cite --jobs 0 --tag --line-buffer \
    difyexec run -i "$csv" -o "$output" --shard "{}/$shards" --progress plain || failed=$?
cat "${output%.jsonl}".*-of-"$shards".jsonl >"${output%.jsonl}-joined.jsonl"
exit "${failed:-0}"    # how many processes did not end with 0
