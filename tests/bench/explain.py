"""`make explain`: how PostgreSQL runs each file of sql/, for a light and a heavy learner, with both kinds of plan.

A report of sql/reports/ runs for one course and for everything.
"""

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psycopg

from tests.bench import plans, scale

BUILD = Path(__file__).parent.parent.parent / "build" / "explain"

Run = Callable[..., plans.Plan]


def main() -> None:
    """Write build/explain/FILE.txt for each file, and print a line for each plan."""
    size = os.environ.get("SIZE", "") or "small"
    if size not in scale.SIZES:
        sys.exit(f"SIZE={size} is none of {', '.join(scale.SIZES)}")
    shutil.rmtree(BUILD, ignore_errors=True)
    BUILD.mkdir(parents=True)
    with scale.database(size) as url, psycopg.connect(url, autocommit=True) as connection:
        half = scale.SIZES[size].lessons // 2
        learners = [plans.learner(connection, "light", 30), plans.learner(connection, "heavy", half)]
        print(f"{size}: {scale.SIZES[size].lessons} lessons; light: 30 completions, heavy: {half}")
        print(f"{'file':38} {'learner':7} {'plan':7} {'buffers':>7} {'removed':>7} {'ms':>8}")
        for name in plans.names():
            cases: dict[str, Run] = {
                learner.name: partial(plans.explain, connection, name, learner, runs=5) for learner in learners
            }
            explain(name, cases)
        for name in plans.report_names():
            explain(
                name,
                {
                    case: partial(plans.explain, connection, name, learners[0], runs=1, **given)
                    for case, given in plans.report_cases(name, learners[0].course_id).items()
                },
            )
    print(f"the plans themselves: {BUILD.relative_to(BUILD.parent.parent)}")


def explain(name: str, cases: dict[str, Run]) -> None:
    """Print a line for each case of a statement and each kind of plan. Write the plans."""
    report = []
    for case, run in cases.items():
        found = {mode: run(mode=mode) for mode in plans.MODES}
        differ = len({str(plan.shape()) for plan in found.values()}) > 1
        for mode, plan in found.items():
            kind = mode.split("_")[1]
            print(
                f"{name + '.sql':38} {case:7} {kind:7} {plan.buffers:7} {plan.removed:7}"
                f" {plan.milliseconds:8.2f}{'  the two plans differ' if differ else ''}"
            )
            report.append(f"-- {case}, {kind} plan: {plan.buffers} buffers, {plan.milliseconds:.2f} ms\n")
            report.append("\n".join(plans.lines(plan.document)) + "\n\n")
    (BUILD / f"{name.replace('/', '-')}.txt").write_text("".join(report))


if __name__ == "__main__":
    main()
