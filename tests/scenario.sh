#!/usr/bin/env bash
# One scenario of Molecule, from a fresh machine to its removal. What failed is said once more at the very end, where it is found.
# Usage: scenario.sh NAME
set -euo pipefail

export COLUMNS=${COLUMNS:-160}  # Molecule breaks longer lines
log=$(mktemp)
trap 'rm -f "$log"' EXIT

if molecule --base-config molecule/shared/base.yml test --scenario-name "$1" 2>&1 | tee "$log"; then
  echo "Scenario $1 passed in $SECONDS s."
  exit
fi
echo "What failed in scenario $1, after $SECONDS s:"
sed -E 's/\x1b\[[0-9;]*m//g; s/^ *│ ?//' "$log" | grep -E '^(E   |FAILED [^-]|fatal: |failed: |\[ERROR\])' | cut -c 1-600 | tail -n 16 || true
exit 1
