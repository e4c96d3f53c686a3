"""Two result files side by side. Usage: compare.py BEFORE.json AFTER.json

Prints for every figure in both how many times better AFTER is, and the same for the peers measured in the same runs:
when they moved as well, it was the machine.
"""

import argparse
import json
from pathlib import Path

import report


def ratios(before, after):
    """(name, unit, before, after, {contestant: how many times better}) of every figure in both."""
    old = {f["name"]: f for f in report.figures(before)}
    for new in report.figures(after):
        if new["name"] not in old:
            continue
        was = old[new["name"]]
        better = {}
        for rival in new["of"]:
            if rival in was["of"]:
                a, b = was["of"][rival]["median"], new["of"][rival]["median"]
                better[rival] = a / b if new["better"] == "low" else b / a
        yield new["name"], new["unit"], was["of"]["dsmem"]["median"], new["of"]["dsmem"]["median"], better


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    before, after = (json.loads(p.read_text()) for p in (arguments.before, arguments.after))
    print("before:", report.heading(before))
    print("after: ", report.heading(after))
    print()
    for name, unit, a, b, better in ratios(before, after):
        peers = ", ".join(f"{rival} ×{x:.2f}" for rival, x in better.items() if rival != "dsmem")
        print(f"{name:28} {a:10.4g} -> {b:<10.4g} {unit:8} ×{better['dsmem']:.2f}   ({peers})")


if __name__ == "__main__":
    main()
