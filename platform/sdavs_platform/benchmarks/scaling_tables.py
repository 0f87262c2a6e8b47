"""The figures of `scaling.measure` for people: what was measured, how well the model fits it, what it predicts."""

from sdavs_platform.benchmarks.scaling import Report

_PARTS = ("forward", "backward", "optimizer", "communication")


def report_table(report: Report) -> str:
    """Three tables; what is predicted says so."""
    return "\n".join([*_measured(report), "", *_exchanged(report), "", *_predicted(report)])


def _measured(report: Report) -> list[str]:
    cores = report["cores"]
    lines = [
        f"MEASURED on {cores} CPU cores, one thread a worker: {report['parameters'] / 1e6:.1f} M weights in fp32, "
        f"{report['batch_size']} clips shared by the workers; ms a step",
        f"{'ZeRO':>4}{'workers':>9}{'step':>8}" + "".join(f"{part:>15}" for part in _PARTS) + ""
        f"{'model says':>12}{'calls':>7}{'MB sent':>9}",
    ]
    for row in sorted(report["measured"], key=lambda row: (row["stage"], row["workers"])):
        calls = sum(exchange["calls"] for exchange in row["traffic"].values())
        lines.append(
            f"{row['stage']:>4}{row['workers']:>9}{1000 * row['step_s']:>8.0f}"
            + "".join(f"{1000 * row['parts'][part]:>15.0f}" for part in _PARTS)
            + f"{1000 * row['modelled_s']:>12.0f}{calls:>7.0f}{row['sent_bytes'] / 1e6:>9.1f}"
            + ("   oversubscribed" if row["workers"] > cores else "")
        )
    for workers, link in report["link"].items():
        if link:
            lines.append(
                f"between {workers} workers: {1e6 * link['latency_s']:.0f} us a message, "
                f"{link['bytes_per_s'] / 1e9:.2f} GB/s"
            )
    return lines


def _exchanged(report: Report) -> list[str]:
    weights = 2 * report["swin_parameters"]
    lines = [
        f"MEASURED: what Swin-B ({report['swin_parameters'] / 1e6:.1f} M weights, bf16) exchanges in a step of two",
        f"{'ZeRO':>4}  {'collective':<24}{'calls':>7}{'MB':>9}{'x weights':>11}",
    ]
    for stage, traffic in report["traffic"].items():
        for name, exchange in sorted(traffic.items(), key=lambda one: -one[1]["num_bytes"]):
            megabytes, share = exchange["num_bytes"] / 1e6, exchange["num_bytes"] / weights
            lines.append(f"{stage:>4}  {name:<24}{exchange['calls']:>7.0f}{megabytes:>9.1f}{share:>11.2f}")
    return lines


def _predicted(report: Report) -> list[str]:
    given = report["assumptions"]
    rows = report["predicted"]
    numbers = sorted({row["num_workers"] for row in rows})
    lines = [
        f"PREDICTED, not measured, for Swin-B at 384 px, {given['clips_per_gpu']} clips a GPU, "
        f"{given['reached_flops']:.0%} of the GPU's and {given['reached_bandwidth']:.0%} of the links' peak:",
        "ms a step with nothing exchanged beside computation, and with all that can be (share of ideal throughput)",
    ]
    for machine in dict.fromkeys(row["machine"] for row in rows):
        compute = next(row["compute_s"] for row in rows if row["machine"] == machine)
        lines += [
            "",
            f"{machine}; computation alone {1000 * compute:.0f} ms",
            f"{'ZeRO':>4}" + "".join(f"{f'{number} GPUs':>25}" for number in numbers),
        ]
        for stage in sorted({row["stage"] for row in rows}):
            cells = [
                _cell(row)
                for number in numbers
                for row in rows
                if (row["machine"], row["stage"], row["num_workers"]) == (machine, stage, number)
            ]
            lines.append(f"{stage:>4}" + "".join(f"{cell:>25}" for cell in cells))
    lines += [
        "",
        "GB of weights, gradients and optimizer states on each GPU (ZeRO's arithmetic)",
        f"{'ZeRO':>4}" + "".join(f"{f'{number} GPUs':>12}" for number in numbers),
    ]
    sizes = {(row["stage"], row["num_workers"]): row["state_gb"] for row in rows}
    for stage in sorted({stage for stage, _ in sizes}):
        lines.append(f"{stage:>4}" + "".join(f"{sizes[stage, number]:>12.2f}" for number in numbers))
    return lines


def _cell(row: Report) -> str:
    slowest, fastest = row["efficiency"]
    return f"{1000 * row['slowest_s']:.0f} to {1000 * row['fastest_s']:.0f} ({slowest:.0%} to {fastest:.0%})"
