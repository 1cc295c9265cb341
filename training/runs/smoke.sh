#!/usr/bin/env bash
# The whole curriculum on generated data, about two minutes on one CPU core. Usage: training/runs/smoke.sh [EMPTY_FOLDER]
# Fails unless the loss falls in every stage, the planted order is learned, a run killed half-way resumes to the same weights, and
# stage 0 finds the images.
set -euo pipefail
cd "$(dirname "$0")/../.."
export OMP_NUM_THREADS=1
exec "${PYTHON:-.venv/bin/python}" -m training.smoke "${1:-$(mktemp -d)}"
