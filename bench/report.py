"""Tables and plots of a result file. Usage: report.py RESULT.json [--plot FILE.png]

A figure is a dict: name, unit, better ("low" or "high"), target (or None), and in "of" by contestant the median and
quartiles. The first contestant is dsmem. The target of a relative figure is a share of what the contestant "bound"
reaches (memcpy, where none is named). Where a bound is named and the figure is not relative, the target is what dsmem
may take beyond it.
"""

import argparse
import json
from pathlib import Path


def figures(document):
    return [f for b in document["benchmarks"] for f in b["extra_info"].get("figures", ())]


def _bound(figure):
    return figure.get("bound") or ("memcpy" if figure["relative"] else None)


def ours(figure):
    """What is compared with the target."""
    median, bound = figure["of"]["dsmem"]["median"], _bound(figure)
    if not bound:
        return median
    its = figure["of"][bound]["median"]
    return median / its if figure["relative"] else median - its


def is_met(figure):
    if figure["target"] is None:
        return None
    return ours(figure) <= figure["target"] if figure["better"] == "low" else ours(figure) >= figure["target"]


def advantage(figure, peer):
    """How many times better than the peer; below 1: worse."""
    mine, its = figure["of"]["dsmem"]["median"], figure["of"][peer]["median"]
    return its / mine if figure["better"] == "low" else mine / its


def _target(figure):
    if figure["target"] is None:
        return "", ""
    sign = "≤" if figure["better"] == "low" else "≥"
    value, reached, bound = f"{figure['target']:g}", "", _bound(figure)
    if bound and figure["relative"]:
        value, reached = f"{figure['target']:.0%} of {bound}", f"{ours(figure):.0%}"
    elif bound:
        value, reached = f"{bound} + {value}", f"+ {ours(figure):.3g}"
    return f"{sign} {value}", f"{reached} {'met' if is_met(figure) else 'MISSED'}".strip()


def table(document):
    """Markdown."""
    found = figures(document)
    peers = list(dict.fromkeys(p for f in found for p in f["of"] if p != "dsmem"))
    rows = [["figure", "unit", "dsmem", "target", "", *peers]]
    for f in found:
        cells = [f"{f['of'][p]['median']:.3g} (×{advantage(f, p):.2f})" if p in f["of"] else "" for p in peers]
        rows.append([f["name"], f["unit"], f"{f['of']['dsmem']['median']:.3g}", *_target(f), *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def heading(document):
    machine, commit = document["machine_info"], document["commit_info"]
    return (
        f"dsmem {commit['id'][:10]}{' with changes' if commit['dirty'] else ''} on {machine['fabric']}, "
        f"{machine['cpu']} ({machine['cores']} cores), Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['peers']}; medians, in brackets how many times better dsmem is"
    )


def plot(document, path):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_unit = {}
    for f in figures(document):
        by_unit.setdefault(f["unit"], []).append(f)
    fig, axes = plt.subplots(len(by_unit), figsize=(11, 4 * len(by_unit)), squeeze=False, layout="constrained")
    for ax, (unit, group) in zip(axes[:, 0], by_unit.items(), strict=True):
        peers = list(dict.fromkeys(p for f in group for p in f["of"]))
        for k, peer in enumerate(peers):
            at = [i + (k - len(peers) / 2) * 0.8 / len(peers) for i, f in enumerate(group) if peer in f["of"]]
            ax.bar(at, [f["of"][peer]["median"] for f in group if peer in f["of"]], 0.8 / len(peers), label=peer)
        ax.set_xticks(range(len(group)), [f["name"] for f in group], rotation=20, ha="right")
        ax.set_ylabel(unit)
        ax.set_yscale("log")
        ax.legend()
    fig.suptitle(f"dsmem {document['commit_info']['id'][:10]} on {document['machine_info']['fabric']}")
    fig.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("result", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    document = json.loads(arguments.result.read_text())
    print(heading(document), table(document), sep="\n\n")
    if arguments.plot:
        plot(document, arguments.plot)


if __name__ == "__main__":
    main()
