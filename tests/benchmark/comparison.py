"""Measure both contenders in turn, and show what came out."""

import statistics

import contenders
import figures


class Comparison:
    """All measured values: {figure: {contender: [value, ...]}}."""

    def __init__(self):
        self.values = {}

    def add(self, name, values):
        for figure, value in values.items():
            self.values.setdefault(figure, {}).setdefault(name, []).append(value)

    def table(self):
        """Return the lines of a Markdown table: medians, their spread (quartiles), the ratio of the medians."""
        lines = ["| figure | package | peer | ratio | n |", "|---|---|---|---|---|"]
        for figure, values in self.values.items():
            mine, other = values["package"], values["peer"]
            ratio = statistics.median(mine) / statistics.median(other) if statistics.median(other) else float("nan")
            note = " (more is better)" if figure in figures.LARGER_IS_BETTER else ""
            lines.append(f"| {figure}{note} | {shown(figure, mine)} | {shown(figure, other)} | {ratio:.2f} | {len(mine)} |")
        return lines


def shown(figure, values):
    """Return the median and the quartiles of `values`, in the figure's unit."""
    if any(word in figure for word in ("bytes", "PSS", "download", "installed")):
        divisor, unit = 1e6, " MB"
    elif "requests" in figure or "without" in figure:
        divisor, unit = 1, ""
    elif "warm cell" in figure:
        divisor, unit = 1e-3, " ms"
    else:
        divisor, unit = 1, " s"
    values = [value / divisor for value in values]
    digits = 0 if unit == "" else 1 if unit != " s" else 2
    spread = ""
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        spread = f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{statistics.median(values):.{digits}f}{unit}{spread}"


def compare(site, suite, deb, wanted, rounds, say):
    """Measure the figures (names of figures.FIGURES, or "install") `rounds` times in turn; return a Comparison.

    `suite` is e.g. "debian:trixie", `deb` the Path of the package. Raises what harness and hubclient raise.
    """
    result = Comparison()
    package, peer = contenders.Package(site, suite, deb, say), contenders.Peer(site, suite, deb, say)
    for contender in (package, peer):
        result.add(contender.name, {"download": contender.download_bytes(), "installed": contender.installed_bytes})
    install(result, site, (package, peer), rounds if "install" in wanted else 1, say)
    wanted = [name for name in wanted if name != "install"]
    users = figures.CROWD if "crowd" in wanted else figures.USERS
    for contender in (package, peer):
        contender.boot(users)
    for round in range(rounds):
        for name in wanted:
            # Who is first has no advantage over the other.
            for contender in (package, peer) if round % 2 == 0 else (peer, package):
                with contender.machine.network():
                    values = figures.FIGURES[name](contender)
                result.add(contender.name, values)
            say(f"round {round + 1} of {rounds}, {name}: {'; '.join(progress(result, list(values)))}")
    result.details = {contender.name: contender.details for contender in (package, peer)}
    for contender in (package, peer):
        contender.discard()
    return result


def install(result, site, both, rounds, say):
    """Install both on fresh machines; the first round is what making their machines took."""
    for contender in both:
        result.add(contender.name, {"install": contender.install_seconds})
    for round in range(rounds - 1):
        for contender in both:
            machine, seconds = contender.install()
            site.discard(machine)
            result.add(contender.name, {"install": seconds})
        say(f"round {round + 2} of {rounds}, {'; '.join(progress(result, ['install']))}")


def progress(result, names):
    for name in names:
        yield f"{name} {shown(name, result.values[name]['package'][-1:])} / {shown(name, result.values[name]['peer'][-1:])}"
