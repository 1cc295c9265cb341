#!/usr/bin/env bash
# The whole curriculum on generated data, about a minute on one CPU core. Usage: training/runs/smoke.sh [EMPTY_FOLDER]
# Fails unless the loss falls in every stage, the planted order is learned, and a run killed half-way resumes to the same weights.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
exec "${PYTHON:-.venv/bin/python}" -m training.smoke "${1:-$(mktemp -d)}"
