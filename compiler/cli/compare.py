"""``burnish compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from burnish.cli.common import (
    emit_json,
    inputs_options,
    json_option,
    load_npz,
    number_shapes,
    open_subject,
    parse_tolerances,
    pick_model,
)
from burnish.errors import UsageError


@click.command("compare")
@click.argument("subject", metavar="ARTIFACT|MODEL", required=False)
@click.argument("reference", metavar="[MODEL]", required=False)
@click.option(
    "-m", "--model", "model_option", help="The reference, instead of the second argument."
)
@inputs_options
@click.option("--atol", help="Absolute tolerance in units of the output's scale.")
@click.option("--rtol", help="Relative tolerance.")
@click.option("--target", default="x86", show_default=True, help="When the subject is a model.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of the compiled model.")
@click.option(
    "--emulate",
    metavar="CORE",
    help="Run an artifact for ARM on a core that QEMU emulates: cortex-a53, neoverse-n1, max.",
)
@json_option
def command(
    subject: str | None,
    reference: str | None,
    model_option: str | None,
    inputs: str | None,
    seed: int,
    input_shapes: tuple[str, ...],
    atol: str | None,
    rtol: str | None,
    target: str,
    threads: int | None,
    emulate: str | None,
    json_path: str | None,
) -> int:
    """Compare with onnxruntime on the unmodified model, its optimizations disabled.

    With one MODEL, it is compiled first and compared with itself. With two models, both run on
    onnxruntime. Exit code 10 when an output differs by more than the tolerance.
    """
    import burnish
    from burnish.artifact import is_artifact

    if subject is None:
        subject, model_option = model_option, None
    path = pick_model(subject, None, "ARTIFACT|MODEL")
    if reference and model_option:
        raise UsageError(f"two models: {reference} and {model_option}", hint="leave one out")
    model = reference or model_option
    if model is None and is_artifact(Path(path)):
        raise UsageError(
            "an artifact is compared with the model it came from",
            hint="burnish compare ARTIFACT MODEL.onnx",
        )
    against = pick_model(model or path, None)
    feeds = load_npz(inputs) if inputs else None
    options: dict[str, Any] = {
        "atol": parse_tolerances(atol, "--atol"),
        "rtol": parse_tolerances(rtol, "--rtol"),
        "seed": seed,
        "input_shapes": number_shapes(input_shapes) or None,
    }
    if emulate is not None:
        from burnish.runtime.emulated import EmulatedModel

        report = burnish.compare(
            EmulatedModel(path, emulate, threads or 1), against, feeds, **options
        )
    elif model is None or is_artifact(Path(path)):
        with open_subject(path, target, threads) as compiled:
            report = burnish.compare(compiled, against, feeds, **options)
    else:
        report = burnish.compare(path, against, feeds, **options)
    if json_path:
        emit_json(report.to_dict(), json_path)
    else:
        from burnish.report.comparison import print_comparison

        print_comparison(report)
    return 0 if report.passed else 10
