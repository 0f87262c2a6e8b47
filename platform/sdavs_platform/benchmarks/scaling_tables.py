"""The results of `scaling.measure` as text: what was measured, how well the model fits, and what it predicts."""

from sdavs_platform.benchmarks.scaling import Report
from sdavs_platform.tables import text_table

_PARTS = ("forward", "backward", "optimizer", "communication")


def results_table(report: Report) -> str:
    """Three blocks, marked as measured or predicted."""
    return "\n\n".join([_measured(report), _exchanged(report), _predicted(report)])


def _measured(report: Report) -> str:
    cores = report["cores"]
    rows = [
        [
            row["stage"],
            row["workers"],
            f"{1000 * row['step_s']:.0f}",
            *(f"{1000 * row['parts'][part]:.0f}" for part in _PARTS),
            f"{1000 * row['modelled_s']:.0f}",
            f"{sum(exchange['calls'] for exchange in row['traffic'].values()):.0f}",
            f"{row['sent_bytes'] / 1e6:.1f}",
            "oversubscribed" if row["workers"] > cores else None,
        ]
        for row in sorted(report["measured"], key=lambda row: (row["stage"], row["workers"]))
    ]
    links = [
        f"between {workers} workers: {1e6 * link['latency_s']:.0f} us a message, "
        f"{link['bytes_per_s'] / 1e9:.2f} GB/s"
        for workers, link in report["link"].items()
        if link
    ]
    return "\n".join(
        [
            f"MEASURED on {cores} CPU cores, one thread per worker: {report['parameters'] / 1e6:.1f} M parameters in "
            f"fp32, {report['batch_size']} clips split over the workers; ms per step",
            text_table(["ZeRO", "workers", "step", *_PARTS, "predicted", "calls", "MB sent", ""], rows),
            *links,
        ]
    )


def _exchanged(report: Report) -> str:
    weights = 2 * report["swin_parameters"]
    rows = [
        [
            f"ZeRO-{stage}, {name}",
            f"{exchange['calls']:.0f}",
            f"{exchange['num_bytes'] / 1e6:.1f}",
            f"{exchange['num_bytes'] / weights:.2f}",
        ]
        for stage, traffic in report["traffic"].items()
        for name, exchange in sorted(traffic.items(), key=lambda one: -one[1]["num_bytes"])
    ]
    return "\n".join(
        [
            f"MEASURED: traffic of a step of Swin-B ({report['swin_parameters'] / 1e6:.1f} M parameters, bf16) on two "
            f"workers",
            text_table(["collective", "calls", "MB", "x weights"], rows),
        ]
    )


def _predicted(report: Report) -> str:
    given = report["assumptions"]
    rows = report["predicted"]
    numbers = sorted({row["num_workers"] for row in rows})
    stages = sorted({row["stage"] for row in rows})
    header = ["ZeRO", *(f"{number} GPUs" for number in numbers)]
    found = {(row["machine"], row["stage"], row["num_workers"]): row for row in rows}
    blocks = [
        f"PREDICTED, not measured, for Swin-B at 384 px, {given['clips_per_gpu']} clips per GPU, "
        f"{given['reached_flops']:.0%} of the GPU's and {given['reached_bandwidth']:.0%} of the links' peak:\n"
        "ms per step without overlap of communication and computation, and with the most (fraction of ideal throughput)"
    ]
    for machine in dict.fromkeys(row["machine"] for row in rows):
        compute = next(row["compute_s"] for row in rows if row["machine"] == machine)
        cells = [[stage, *(_cell(found[machine, stage, n]) for n in numbers)] for stage in stages]
        blocks.append(f"{machine}; computation alone {1000 * compute:.0f} ms\n{text_table(header, cells)}")
    sizes = {(row["stage"], row["num_workers"]): row["state_gb"] for row in rows}
    cells = [[stage, *(f"{sizes[stage, n]:.2f}" for n in numbers)] for stage in stages]
    blocks.append(
        "GB of weights, gradients and optimizer states on each GPU (ZeRO's arithmetic)\n"
        + text_table(header, cells)
    )
    return "\n\n".join(blocks)


def _cell(row: Report) -> str:
    slowest, fastest = row["efficiency"]
    return f"{1000 * row['slowest_s']:.0f} to {1000 * row['fastest_s']:.0f} ({slowest:.0%} to {fastest:.0%})"
