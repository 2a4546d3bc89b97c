"""The benchmarks: every figure a ratio, measured side by side in one run. In the source tree only, not in the wheel.

``omni-graph bench NAME --json OUT`` runs one; ``docs/performance.md`` says what is measured, against what, and why.
"""
