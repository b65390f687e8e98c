"""Compare the package with a plain venv on the same machine, measured in turn: tests/run benchmark [--short] [figure...]

Without names: every figure except those that take minutes (crowd, install), which have to be named. The result is printed, and kept in
dist/benchmark.json. docs/performance.md says what each figure is.
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

TOP = pathlib.Path(__file__).resolve().parents[2]


def say(text):
    print(f"# {text}", flush=True)


def newest_deb(suite):
    """Return the newest .deb in dist/; raise HarnessError if there is none."""
    rows = [line.split() for line in (TOP / "debian/suites").read_text().splitlines() if line.startswith(f"{suite} ")]
    found = sorted((TOP / "dist").glob(f"jupyterhub_*{rows[0][1]}_*.deb") if rows else [], key=os.path.getmtime)
    if not found:
        raise harness.HarnessError(f"no package of {suite} in dist/: run ./build.sh {suite}")
    return found[-1]


def main():
    parser = argparse.ArgumentParser(prog="tests/run benchmark", description="Compare the package with a plain venv, in turn.")
    parser.add_argument("--short", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=9, help="how often each figure is measured (default: 9)")
    parser.add_argument("figures", nargs="*", metavar="figure", help=f"{', '.join([*figures.FIGURES, 'install'])}; default: all but {', '.join(sorted(figures.SLOW))}")
    options = parser.parse_args()
    wanted = options.figures or [name for name in figures.FIGURES if name not in figures.SLOW]
    if unknown := set(wanted) - figures.FIGURES.keys() - {"install"}:
        parser.error(f"no such figure: {', '.join(unknown)}; there are {', '.join([*figures.FIGURES, 'install'])}")
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    suite = os.environ.get("SUITE", "debian:trixie")
    try:
        deb = newest_deb(suite)
        site = harness.Site()
        try:
            result = compare(site, suite, deb, wanted, 1 if options.short else options.rounds, say)
        finally:
            site.close()
    except (AssertionError, RuntimeError) as error:
        sys.exit(f"tests/benchmark: {error}")
    with open("/proc/cpuinfo") as cpuinfo:
        model = next((line.partition(": ")[2].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    about = {
        "command": f"tests/run benchmark {' '.join(sys.argv[1:])}".strip(),
        "package": deb.name,
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
        "machine": f"{os.cpu_count()} x {model}, {platform.release()}",
        "load": os.getloadavg(),
    }
    kept = TOP / "dist/benchmark.json"
    kept.write_text(json.dumps({**about, "values": result.values, "details": result.details}, indent=1) + "\n")
    print("\n".join([*(f"{name}: {value}" for name, value in about.items()), "", *result.table(), "", f"kept in {kept}"]))


if __name__ == "__main__":
    main()
