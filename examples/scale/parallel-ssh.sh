#!/bin/sh
# The same over several machines that share this folder: parallel-ssh.sh data.csv results.jsonl 8 host1,host2
# Each has difyexec on its PATH; the key stands in .env of this folder (mode 600), never on a command line.
csv=$1 output=$2 shards=$3 hosts=$4
seq "$shards" | parallel --will-cite --sshlogin "$hosts" --workdir "$PWD" --jobs "$shards" --tag --line-buffer \
    difyexec run -i "$csv" -o "$output" --shard "{}/$shards" --progress plain
difyexec merge -i "$csv" -o "$output"
