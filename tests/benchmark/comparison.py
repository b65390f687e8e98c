"""Measure both contenders in turn, and show what came out."""

import statistics

import figures


class Comparison:
    """All measured values: {figure: {contender: [value, ...]}}."""

    def __init__(self):
        self.values = {}
        self.details = {}

    def add(self, name, values):
        for figure, value in values.items():
            self.values.setdefault(figure, {}).setdefault(name, []).append(value)

    def table(self):
        """Return the lines of a Markdown table: medians, their spread (quartiles), and with two contenders the ratio of the medians."""
        names = list(next(iter(self.values.values())))
        both = len(names) == 2
        titles = ["figure", *names, *(["ratio"] if both else []), "n"]
        lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
        for figure, values in self.values.items():
            note = " (more is better)" if figure in figures.LARGER_IS_BETTER else ""
            columns = [f"{figure}{note}", *(shown(figure, values[name]) for name in names)]
            if both:
                mine, other = (statistics.median(values[name]) for name in names)
                columns.append(f"{mine / other:.2f}" if other else "")
            lines.append(f"| {' | '.join(columns)} | {len(values[names[0]])} |")
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


def compare(contenders, times, say, keep=lambda _: None):
    """Measure figures of `contenders` in turn, {name of figures.FIGURES, or "install": how often}; return a Comparison.

    What there is so far goes to `keep` after each figure. Raises what harness and hubclient raise.
    """
    result = Comparison()
    for contender in contenders:
        result.add(contender.name, {"download": contender.download_bytes(), "installed": contender.installed_bytes})
    for round in range(times.get("install", 0)):
        for contender in contenders:
            machine, seconds = contender.install()
            contender.site.discard(machine)
            result.add(contender.name, {"install": seconds})
        say(f"round {round + 1} of {times['install']}, {progress(result, ['install'])}")
        keep(result)
    times = {name: often for name, often in times.items() if name != "install"}
    users = figures.CROWD if "crowd" in times else figures.USERS
    for contender in contenders if times else ():
        contender.boot(users)
    rounds = max(times.values(), default=0)
    for round in range(rounds):
        # What is measured seldom comes last: it takes long, and leaves much behind.
        for name in (name for name, often in times.items() if round >= rounds - often):
            # Who is first has no advantage over the other.
            for contender in contenders if round % 2 == 0 else reversed(contenders):
                with contender.machine.network():
                    values = figures.FIGURES[name](contender)
                result.add(contender.name, values)
            say(f"round {round + 1} of {rounds}, {name}: {progress(result, values)}")
            keep(result)
    result.details = {contender.name: contender.details for contender in contenders}
    for contender in contenders if times else ():
        contender.discard()
    return result


def progress(result, names):
    return "; ".join(f"{name} {' / '.join(shown(name, values[-1:]) for values in result.values[name].values())}" for name in names)
