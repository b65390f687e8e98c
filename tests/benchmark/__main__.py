"""Compare the package with a plain venv on the same machine, measured in turn: tests/run benchmark [--short | --full] [--against DEB] [figure...]

Without names: every figure except those that take minutes (SLOW below). The result is printed, and kept in dist/benchmark.json and .md.
docs/performance.md says what each figure is.
"""

import argparse
import json
import os
import pathlib
import platform
import sys
import time

import figures
import harness
from comparison import compare
from contenders import Package, Peer

SLOW = {"install": 3, "many-users": 3, "crowd": 1}  # figures that take minutes: how often --full measures them
TOP = pathlib.Path(__file__).resolve().parents[2]


def say(text):
    print(f"# {text}", flush=True)


def newest_deb(suite):
    """Return the newest .deb in dist/; raise HarnessError if there is none."""
    rows = [line.split() for line in (TOP / "tools/suites").read_text().splitlines() if line.startswith(f"{suite} ")]
    found = sorted((TOP / "dist").glob(f"jupyterhub_*{rows[0][1]}_*.deb") if rows else [], key=os.path.getmtime)
    if not found:
        raise harness.HarnessError(f"no package of {suite} in dist/: run ./build.sh {suite}")
    return found[-1]


def main():
    names = [*figures.FIGURES, "install"]
    parser = argparse.ArgumentParser(prog="tests/run benchmark", description="Compare the package with a plain venv, in turn.")
    parser.add_argument("--short", action="store_true", help="one round")
    parser.add_argument(
        "--full", action="store_true", help=f"those that take minutes as well: {', '.join(f'{name} ({often} times)' for name, often in SLOW.items())}"
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each figure is measured (default: 9)")
    parser.add_argument("--against", type=pathlib.Path, metavar="DEB", help="compare with another .deb, such as the last release, in place of the venv")
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"{', '.join(names)}; default: all but {', '.join(SLOW)}")
    options = parser.parse_args()
    if unknown := set(options.figures) - set(names):
        parser.error(f"no such figure: {', '.join(unknown)}; there are {', '.join(names)}")
    if options.against and not options.against.is_file():
        parser.error(f"--against: no file {options.against}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    times = dict.fromkeys(options.figures or [name for name in names if name not in SLOW], 1 if options.short else options.rounds)
    if options.full:
        times |= SLOW
    suite = os.environ.get("SUITE", "debian:trixie")
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.partition(": ")[2].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    about = {
        "command": f"tests/run benchmark {' '.join(sys.argv[1:])}".strip(),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "machine": f"{os.cpu_count()} x {model}, {platform.release()}",
    }
    kept = TOP / "dist/benchmark.json"

    def keep(result):
        about["load"] = ", ".join(f"{load:.1f}" for load in os.getloadavg())
        report = [*(f"- {name}: {value}" for name, value in about.items()), "", *result.table()]
        kept.write_text(json.dumps({**about, "values": result.values, "details": result.details}, indent=1) + "\n")
        kept.with_suffix(".md").write_text("\n".join(report) + "\n")
        return report

    try:
        deb = newest_deb(suite)
        about["package"] = deb.name
        site = harness.Site()
        try:
            other = Package(site, suite, options.against, say, name="before") if options.against else Peer(site, suite, deb, say)
            result = compare([Package(site, suite, deb, say), other], times, say, keep)
        finally:
            site.close()
    except (AssertionError, RuntimeError) as error:
        sys.exit(f"tests/benchmark: {error}")
    print("\n".join([*keep(result), "", f"kept in {kept} and {kept.with_suffix('.md').name}"]))


if __name__ == "__main__":
    main()
