#!/bin/sh
# One CSV on several machines that share this folder: parallel-ssh.sh data.csv results.jsonl 8 host1,host2
# Each needs difyexec on its PATH. The key is in the folder's .env (mode 600), never on a command line.
csv=$1 output=$2 shards=$3 hosts=$4
seq "$shards" | parallel --will-cite --sshlogin "$hosts" --workdir "$PWD" --jobs "$shards" --tag --line-buffer \
    difyexec run -i "$csv" -o "$output" --shard "{}/$shards" --progress plain || failed=$?
cat "${output%.jsonl}".*-of-"$shards".jsonl >"${output%.jsonl}-joined.jsonl"
exit "${failed:-0}"    # how many processes did not end with 0
