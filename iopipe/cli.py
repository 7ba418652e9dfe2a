"""The command line: parses and calls, nothing else.

Stands above everything; nothing imports it.  Invariant: an error that iopipe raises on
purpose, or that the system reports, is one line and exit code 1; Ctrl-C is exit code 130.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import iopipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (iopipe.IopipeError, OSError) as error:
        print(f"iopipe: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("iopipe: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="iopipe", description="Keeps GPUs fed, and says why when they are not."
    )
    parser.add_argument("--version", action="version", version=f"iopipe {iopipe.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo", help="train on real photographs twice: plain DataLoader, then iopipe"
    )
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="where files go")
    demo.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    demo.set_defaults(run=_demo)
    from iopipe.jobs.command import add_arguments

    shard = commands.add_parser("shard", help="write a dataset as shards, shuffled or not")
    add_arguments(shard, shuffles=True)
    convert = commands.add_parser("convert", help="write a dataset in another format")
    add_arguments(convert, shuffles=False)
    for command, run, purpose in (
        ("inspect", _inspect, "say what a dataset holds"),
        ("verify", _verify, "compare a dataset with the checksums that its writer noted"),
    ):
        added = commands.add_parser(command, help=purpose)
        added.add_argument("dataset", nargs="+", help="shards, folders, patterns or a manifest")
        added.add_argument("--json", action="store_true", help="print JSON")
        added.set_defaults(run=run)
    order = commands.add_parser(
        "order", help="say what each shuffle of a dataset is worth, and what it reads"
    )
    order.add_argument("dataset", nargs="+", help="shards, folders, patterns or a manifest")
    order.add_argument("--batch", type=int, default=256, help="samples a batch (256)")
    order.add_argument("--memory-mib", type=int, default=1024, help="what a reader keeps (1024)")
    order.add_argument("--json", action="store_true", help="print JSON")
    order.set_defaults(run=_order)
    audit = commands.add_parser(
        "audit", help="prove from ledgers that every sample was delivered exactly once an epoch"
    )
    audit.add_argument("ledger", nargs="+", help="ledgers, or folders of them")
    audit.add_argument("--data", help="the dataset; needed for packed or bucketed runs only")
    audit.add_argument("--all", action="store_true", help="name every missing or double sample")
    audit.add_argument("--json", action="store_true", help="print JSON")
    audit.set_defaults(run=_audit)
    _add_reports(commands)
    _add_kernels(commands)
    _add_host(commands)
    _add_profile(commands)
    return parser


def _add_host(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`topology` and `doctor`."""
    topology = commands.add_parser(
        "topology", help="show GPUs, nodes, CPUs, disks and cards, and what a run would bind"
    )
    topology.add_argument("--workers", type=int, default=4, help="workers of each rank (4)")
    topology.add_argument("--json", action="store_true", help="print JSON")
    topology.set_defaults(run=_topology)
    doctor = commands.add_parser(
        "doctor", help="look for what would slow a run down; nothing is changed"
    )
    doctor.add_argument("path", nargs="?", default=".", help="a file or folder of the data (.)")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)


def _add_reports(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`report`, `top` and `dashboard`."""
    report = commands.add_parser("report", help="draw what a profile measured")
    report.add_argument("file", type=Path, help="a report.json; steps.json lies beside it")
    report.add_argument("--out", type=Path, help="the page (report.html beside the file)")
    report.add_argument("--trace", type=Path, help="also a trace, for Perfetto")
    report.add_argument("--merge", type=Path, help="a trace of torch.profiler to put it into")
    report.add_argument(
        "--offset-us", type=float, default=0.0, help="the merged trace's clock less ours (0)"
    )
    report.set_defaults(run=_report)
    top = commands.add_parser("top", help="show what running jobs wait for")
    top.add_argument("--once", action="store_true", help="print once and leave")
    top.add_argument("--every", type=float, default=1.0, help="seconds between looks (1)")
    top.set_defaults(run=_top)
    dashboard = commands.add_parser("dashboard", help="print a Grafana dashboard")
    dashboard.set_defaults(run=_dashboard)


def _add_profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    profile = commands.add_parser(
        "profile", help="say what the training step of an unmodified script waits for"
    )
    profile.add_argument("--steps", type=int, help="measure so many batches only")
    profile.add_argument("--out", type=Path, default=Path("iopipe-profile"), help="where files go")
    profile.add_argument("script", nargs=argparse.REMAINDER, metavar="-- python train.py ...")
    profile.set_defaults(run=_profile)
    diagnose = commands.add_parser(
        "diagnose", help="find a pipeline's starvation by controlled runs, and check the meter"
    )
    diagnose.add_argument("pipeline", help="file.py:name, a pipeline or any loader")
    diagnose.add_argument(
        "--step", default="train_step", help="a function of one batch in that file (train_step)"
    )
    diagnose.add_argument("--steps", type=int, default=100, help="in every run (100)")
    diagnose.add_argument("--json", type=Path, help="where the result goes as JSON")
    diagnose.set_defaults(run=_diagnose)


def _add_kernels(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """`tune` and `bench`."""
    tune = commands.add_parser("tune", help="search for the fastest configurations")
    what = tune.add_subparsers(required=True, metavar="WHAT")
    _add_tune_pipeline(what)
    tuned = what.add_parser("kernels", help="on this GPU; they are looked up from then on")
    tuned.add_argument("--kernel", help="this one only")
    tuned.add_argument("--shapes", type=Path, help="a file that collect_shapes wrote")
    tuned.add_argument("--seconds", type=float, default=30.0, help="to search, a shape (30)")
    tuned.add_argument("--check", action="store_true", help="only say which files are out of date")
    tuned.set_defaults(run=_tune_kernels)
    bench = commands.add_parser("bench", help="measure")
    benches = bench.add_subparsers(required=True, metavar="WHAT")
    benched = benches.add_parser("kernels", help="against torch.compile and others, on this GPU")
    benched.add_argument("--kernel", help="this one only")
    benched.add_argument("--json", type=Path, required=True, help="where the results go")
    benched.set_defaults(run=_bench_kernels)
    from iopipe.bench.loader_command import add_arguments as add_loader_arguments
    from iopipe.bench.storage.command import add_arguments as add_storage_arguments

    add_loader_arguments(benches.add_parser("loader", help="a pipeline alone, on this machine"))
    add_storage_arguments(
        benches.add_parser("storage", help="how fast storage is, and what it can feed")
    )


def _add_tune_pipeline(what: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tuned = what.add_parser(
        "pipeline", help="threads, batches ahead and sizes of reads, while its steps run"
    )
    tuned.add_argument("pipeline", help="file.py:name")
    tuned.add_argument(
        "--step", default="train_step", help="a function of one batch in that file (train_step)"
    )
    tuned.add_argument("--steps", type=int, default=200, help="to run in all (200)")
    tuned.add_argument("--out", type=Path, help="a file for pipeline.tuned(FILE)")
    tuned.add_argument(
        "--ceiling",
        type=_seconds_or_file,
        help="seconds to measure the storage for, or a file of `iopipe bench storage`",
    )
    tuned.set_defaults(run=_tune_pipeline)


def _seconds_or_file(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _profile(options: argparse.Namespace) -> int:
    from iopipe.profile.command import profile

    script = options.script[1:] if options.script[:1] == ["--"] else options.script
    result = profile(script, out=options.out, steps=options.steps)
    print(result.text)
    print(f"written to {options.out / 'report.json'}")
    return result.exit_code if result.exit_code >= 0 else 128 - result.exit_code


def _diagnose(options: argparse.Namespace) -> int:
    from iopipe.profile.diagnose import diagnose
    from iopipe.profile.loading import subject_from

    found = diagnose(subject_from(options.pipeline, step=options.step), num_steps=options.steps)
    print(found)
    if options.json is not None:
        options.json.write_text(json.dumps(found.to_json(), indent=1) + "\n")
    return 0


def _demo(options: argparse.Namespace) -> int:
    from iopipe.bench.demo import MIN_ACCURACY, run_demo

    results = run_demo(options.out, device=options.device)
    failed = [result for result in results if not result.accuracy > MIN_ACCURACY]
    for result in failed:
        print(
            f"iopipe: the network fed by {result.name} reached {100 * result.accuracy:.1f} % "
            f"only, expected are more than {100 * MIN_ACCURACY:.0f} %",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _inspect(options: argparse.Namespace) -> int:
    from iopipe.report.datasets import inspection_json, print_inspection

    found = iopipe.inspect_dataset(options.dataset)
    if options.json:
        print(inspection_json(found))
    else:
        print_inspection(found)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from iopipe.report.datasets import print_verification, verification_json, verify_with_progress

    found = verify_with_progress(options.dataset)
    if options.json:
        print(verification_json(found))
    else:
        print_verification(found)
    return 0 if found.is_intact else 1


def _order(options: argparse.Namespace) -> int:
    from iopipe.report.order import compare_shuffles, print_shuffles, shuffles_json

    memory_bytes = options.memory_mib << 20
    rows = compare_shuffles(
        iopipe.read(options.dataset), batch_size=options.batch, memory_bytes=memory_bytes
    )
    if options.json:
        print(shuffles_json(rows))
    else:
        print_shuffles(rows, batch_size=options.batch, memory_bytes=memory_bytes)
    return 0


def _audit(options: argparse.Namespace) -> int:
    from iopipe.report.audit import audit_json, audit_text

    source = iopipe.open_source(options.data) if options.data else None
    report = iopipe.audit_ledgers(options.ledger, source=source)
    print(audit_json(report) if options.json else audit_text(report, show_all=options.all))
    return 0 if report.is_exact else 1


def _topology(options: argparse.Namespace) -> int:
    from iopipe.report.topology import plans_of, print_topology, topology_json
    from iopipe.topology import read_topology

    topology = read_topology()
    plans = plans_of(topology, num_workers=options.workers)
    if options.json:
        print(topology_json(topology, plans))
    else:
        print_topology(topology, plans)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from iopipe.doctor.examine import examine
    from iopipe.doctor.show import findings_json, has_failed, print_findings

    findings = examine(options.path)
    if options.json:
        print(findings_json(findings))
    else:
        print_findings(findings)
    return 1 if has_failed(findings) else 0


def _report(options: argparse.Namespace) -> int:
    from iopipe.report.content import read_report
    from iopipe.report.terminal import printable

    if options.merge is not None and options.trace is None:
        raise iopipe.PipelineError("--merge needs --trace: where the merged trace goes")
    content, timeline = read_report(options.file)
    page = options.out or options.file.with_name("report.html")
    iopipe.write_html(content, timeline, page)
    print(f"{printable(str(content.get('verdict', '')))}\n{page}")
    if options.trace is not None:
        iopipe.write_trace(
            content, timeline, options.trace, merge=options.merge, offset_us=options.offset_us
        )
        print(options.trace)
    return 0


def _top(options: argparse.Namespace) -> int:
    from iopipe.report.top import watch

    watch(every_seconds=options.every, once=options.once)
    return 0


def _dashboard(options: argparse.Namespace) -> int:
    import json

    from iopipe.report.grafana import dashboard

    print(json.dumps(dashboard(), indent=1))
    return 0


def _tune_pipeline(options: argparse.Namespace) -> int:
    from iopipe.profile.tune import tune

    found, report = tune(
        options.pipeline,
        step=options.step,
        num_steps=options.steps,
        out=options.out,
        ceiling=options.ceiling,
        on_decision=lambda line: print(line, flush=True),
    )
    print(str(found).splitlines()[-1])
    print(f"over all {found.num_steps} steps: {report.verdict}")
    if options.out is not None:
        print(f'written to {options.out}: pipeline.tuned("{options.out}")')
    return 0


def _tune_kernels(options: argparse.Namespace) -> int:
    from iopipe.bench.kernels.catalogue import modules_of_cases
    from iopipe.bench.kernels.tuning import TuneOptions, check_kernels, tune_kernels

    modules = modules_of_cases()
    if options.check:
        lines = check_kernels(modules, kernel=options.kernel)
        for line in lines:
            print(line)
        return 1 if lines else 0
    wanted = TuneOptions(kernel=options.kernel, shapes=options.shapes, seconds=options.seconds)
    tune_kernels(modules, wanted)
    return 0


def _bench_kernels(options: argparse.Namespace) -> int:
    from iopipe.bench.kernels.catalogue import modules_of_cases
    from iopipe.bench.kernels.compare import bench_kernels

    bench_kernels(modules_of_cases(), options.json, kernel=options.kernel)
    return 0


if __name__ == "__main__":
    sys.exit(main())
