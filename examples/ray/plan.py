"""Plans a checkpoint on all machines of a Ray cluster, and packs it there if asked to.

    pip install ray
    python examples/ray/plan.py --parts 16 --out /shared/plan --pack -- --model ORG/NAME --weights 400GB

What follows `--` is given to `ram-run`. Each task measures one part of the checkpoint and reads no other: from a folder that is at the same
place on every machine, or from the hub, by ranges. A task whose worker dies runs again elsewhere, and the result is the same, bit for bit:
that of `ram-run plan --no-survey` on one machine, or with --survey that of `ram-run plan`.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

# An error of one task ends all: those of others say the same.
os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
import ray  # noqa: E402

# What `measure` refuses, as it does nothing there.
PLAN_ONLY = {"--budget", "-b", "--weights", "--ctx", "--kv"}


def ram_run(program, *arguments):
    """Runs the program; its one sentence is the error's."""
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return done.stdout


def in_files(folder, contents, name):
    """Writes the contents to files of their own."""
    paths = [pathlib.Path(folder, f"{name}-{i}-of-{len(contents)}") for i, _ in enumerate(contents, 1)]
    for path, content in zip(paths, contents):
        path.write_bytes(content)
    return paths


def without_sizes(flags):
    """The flags of a plan that measuring has too."""
    kept, flags = [], list(flags)
    while flags:
        flag = flags.pop(0)
        if flag.split("=")[0] not in PLAN_ONLY:
            kept.append(flag)
        elif "=" not in flag:
            flags.pop(0)
    return kept


def with_survey(folder, survey):
    """The flag for a survey, where there is one."""
    return ["--survey", *in_files(folder, [survey], "survey")] if survey else []


def survey(program, model):
    """Looks at all weights."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "survey")
        ram_run(program, *model, "survey", out)
        return out.read_bytes()


def measure(program, flags, survey, part):
    """Measures a part."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "curves")
        ram_run(program, *without_sizes(flags), *with_survey(folder, survey), "measure", "--part", part, "--out", out)
        return out.read_bytes()


def pack(program, flags, survey, curves, part, out):
    """Packs a part by the plan that all curves give."""
    with tempfile.TemporaryDirectory() as folder:
        files = in_files(folder, curves, "curves")
        ram_run(program, *flags, *with_survey(folder, survey), "pack", "--part", part, "--out", out, "--curves", *files)


def each(tasks, what):
    """Waits for all, and says how many are done."""
    waiting, done = list(tasks), 0
    while waiting:
        ready, waiting = ray.wait(waiting)
        ray.get(ready)
        done += len(ready)
        print(f"{what} {done} of {len(tasks)}", file=sys.stderr)
    return ray.get(tasks)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, required=True, help="tasks: a few for each machine")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder for what is made; for --pack one that all machines share")
    parser.add_argument("--survey", action="store_true", help="look at all weights first, in one task: a better plan")
    parser.add_argument("--pack", action="store_true", help="also pack the weights, each part in a task")
    parser.add_argument("--threads", type=int, default=1, help="of each task")
    parser.add_argument("--program", default="ram-run")
    parser.add_argument("flags", nargs="*", help="after --: flags for ram-run, --model and a size among them")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    ray.init(log_to_driver=False, logging_level="ERROR")
    # Nothing but a dead worker is worth another try: what the program refuses once, it refuses again.
    task = lambda run: ray.remote(num_cpus=a.threads, max_retries=3)(run).remote  # noqa: E731
    flags = [*a.flags, "--threads", str(a.threads)]
    parts = range(1, a.parts + 1)
    try:
        model = flags[flags.index("--model") :][:2] if "--model" in flags else []
        seen = ray.get(task(survey)(a.program, model)) if a.survey else None
        given = with_survey(a.out, seen)
        curves = each([task(measure)(a.program, flags, seen, f"{part}/{a.parts}") for part in parts], "measured")
        files = in_files(a.out, curves, "curves")
        plan = [*flags, *given, "plan", "--curves", *files]
        a.out.joinpath("plan.json").write_text(ram_run(a.program, *plan, "--json"))
        print(ram_run(a.program, *plan), end="")
        if a.pack:
            out, all_curves = a.out.resolve(), ray.put(curves)
            each(
                [task(pack)(a.program, flags, seen, all_curves, f"{part}/{a.parts}", out / f"packed-{part}-of-{a.parts}") for part in parts],
                "packed",
            )
    except ray.exceptions.RayTaskError as e:
        sys.exit(f"plan.py: {e.cause}")
    except RuntimeError as e:
        sys.exit(f"plan.py: {e}")


if __name__ == "__main__":
    main()
