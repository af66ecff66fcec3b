"""What scripts/soak measures of a server and its processes, and how it judges the course of each measure."""

import csv
import os
import pathlib

# For each measure: its unit, and how much it may grow in the second half of a run, by the trend of its values. The
# longer the run, the smaller the leak that exceeds it: 12 MB are 24 MB an hour in a run of an hour, and 3 MB an hour in
# one of eight. The bounds of what comes and goes with requests are about its range, because half a minute of it may go
# up by chance; what is left of it at the end of a run is found anyway.
BOUNDS = {
    "server_memory": ("MB", 12),
    "server_files": ("", 24),
    "server_threads": ("", 6),
    "workers": ("", 1),
    # A worker that was just started has little, and reaches its plateau within a minute.
    "worker_memory": ("MB", 48),
    "worker_files": ("", 6),
    "worker_threads": ("", 3),
    "ffmpeg": ("", 6),
    "temporary_files": ("", 10),
    "temporary_memory": ("MB", 24),
}
COLUMNS = ["seconds", *BOUNDS, "requests", "failed"]
# The load rests for the last part of each period, in seconds, so that cold workers end. What is sampled then, and until
# the load is as usual again, says nothing about growth.
PERIOD, REST, SETTLED = 120, 25, 20
# A second half with fewer samples has no trend.
FEWEST_SAMPLES = 10
# Values of which the trend is computed; of more, equal shares are averaged.
MOST_POINTS = 300


def processes(root):
    """The process and its descendants that run, as a map from id to the words of its command line."""
    parents, found = {}, {}
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:2]
            words = folder.joinpath("cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if state != "Z":
            parents[int(folder.name)] = int(parent)
            found[int(folder.name)] = [word.decode(errors="replace") for word in words]
    tree, added = {root}, True
    while added:
        more = {pid for pid, parent in parents.items() if parent in tree} - tree
        tree, added = tree | more, bool(more)
    return {pid: found[pid] for pid in tree if pid in found}


def workers_of(tree):
    """The ids of the workers."""
    return sorted(pid for pid, words in tree.items() if words[1:2] == ["worker"])


def ffmpegs_of(tree):
    """The ids of the processes that decode audio."""
    return [pid for pid, words in tree.items() if pathlib.Path(words[0]).name == "ffmpeg"]


def status(pid, field):
    """A number of /proc/PID/status; 0 if the process is gone."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), 0)


def open_files(pid):
    """The number of open files."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def memory(pid):
    """Memory in MB without the pages of files, which the kernel can drop and workers share."""
    return round(status(pid, "RssAnon") / 1024, 1)


def sizes(folder):
    """The sizes of the files in a folder."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found.append(os.stat(os.path.join(parent, name)).st_size)
            except OSError:
                continue
    return found


def sample(server, folder):
    """All measures now. Of the workers, the largest values count."""
    tree = processes(server)
    workers = workers_of(tree)
    temporary = sizes(folder)
    return {
        "server_memory": memory(server),
        "server_files": open_files(server),
        "server_threads": status(server, "Threads"),
        "workers": len(workers),
        "worker_memory": max(map(memory, workers), default=0),
        "worker_files": max(map(open_files, workers), default=0),
        "worker_threads": max((status(pid, "Threads") for pid in workers), default=0),
        "ffmpeg": len(ffmpegs_of(tree)),
        "temporary_files": len(temporary),
        "temporary_memory": round(sum(temporary) / 1e6, 1),
    }


def read(path):
    """The samples of a CSV file."""
    with open(path, newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def median(values):
    values = sorted(values)
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def slope(points):
    """The trend of points (x, y): the median of the slopes of all pairs (Theil and Sen), which peaks do not change."""
    share = -(-len(points) // MOST_POINTS)
    parts = [points[start : start + share] for start in range(0, len(points), share)]
    points = [tuple(sum(axis) / len(part) for axis in zip(*part)) for part in parts]
    return median(
        (y2 - y1) / (x2 - x1)
        for index, (x1, y1) in enumerate(points)
        for x2, y2 in points[index + 1 :]
    )


def rests(seconds):
    """Whether the load rests at this time of a run."""
    return seconds % PERIOD > PERIOD - REST


def is_under_load(seconds):
    """Whether a sample at this time counts."""
    return seconds % PERIOD >= SETTLED and not rests(seconds)


def judge(samples):
    """Prints each measure's course in the second half of the run, and returns a list of what grows too much."""
    if not samples:
        return ["there are no samples"]
    end = samples[-1]["seconds"]
    second_half = [row for row in samples if row["seconds"] >= end / 2 and is_under_load(row["seconds"])]
    if len(second_half) < FEWEST_SAMPLES:
        return [f"the second half has {len(second_half)} samples under load, fewer than {FEWEST_SAMPLES}"]
    hours = (end - second_half[0]["seconds"]) / 3600
    print(f"{'second half':18}{'least':>9}{'median':>9}{'most':>9}{'per hour':>11}{'growth':>9}{'bound':>8}")
    wrong = []
    for name, (unit, bound) in BOUNDS.items():
        values = [row[name] for row in second_half]
        trend = slope([(row["seconds"] / 3600, row[name]) for row in second_half])
        growth = trend * hours
        title = f"{name} {unit}".strip()
        print(
            f"{title:18}{min(values):9.1f}{median(values):9.1f}{max(values):9.1f}"
            f"{trend:+11.1f}{growth:+9.1f}{bound:8}"
        )
        if growth > bound:
            wrong.append(f"{name} grew by {growth:.1f} {unit}".rstrip() + f", more than {bound}")
    return wrong


def draw(samples, path):
    """The curves as a picture: one strip for each measure, from 0 to its maximum."""
    width, height, left = 900, 70, 190
    end = max(samples[-1]["seconds"], 1)
    strips = []
    for index, (name, (unit, _)) in enumerate(BOUNDS.items()):
        most = max(row[name] for row in samples) or 1
        top = index * height + 10
        across, down = (width - left - 10) / end, (height - 20) / most
        points = " ".join(
            f"{left + row['seconds'] * across:.1f},{top + (most - row[name]) * down:.1f}" for row in samples
        )
        strips.append(
            f'<text x="10" y="{top + 20}">{name}</text>'
            f'<text x="10" y="{top + 36}" fill="#666">0 to {most:g} {unit}</text>'
            f'<polyline points="{points}" fill="none" stroke="#06c"/>'
            f'<path d="M{left} {top + height - 20}H{width - 10}" stroke="#ccc"/>'
        )
    total = len(BOUNDS) * height + 30
    pathlib.Path(path).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(strips)}'
        f'<text x="{left}" y="{total - 10}" fill="#666">{end / 60:.0f} minutes</text></svg>\n'
    )
