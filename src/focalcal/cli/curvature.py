"""The command that measures the curvature of a trained network."""

from __future__ import annotations

from json import loads
from typing import Annotated, Any, Literal

import typer

from focalcal.cli.options import Json


def curvature(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="The weights: a state dict that torch.save wrote, or .safetensors. Nothing is unpickled.",
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What makes the network: package.module:function, whose code is run (from the current "
            "folder, too), or one of resnet20, cifar_resnet, small_cnn, mlp.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="A folder with a folder of png or jpg images for each class, or an .npz file with x and y.",
        ),
    ],
    model_args: Annotated[
        str,
        typer.Option(metavar="JSON", help="Arguments of that function, e.g. '{\"classes\": 100}'."),
    ] = "{}",
    loss: Annotated[
        Literal["cross-entropy", "focal"],
        typer.Option(help="The loss that was trained; cross-entropy is measured, too."),
    ] = "cross-entropy",
    gamma: Annotated[float | None, typer.Option(help="Focal loss's γ; without it 2.")] = None,
    eigenvalues: Annotated[int, typer.Option(min=1, help="How many of the largest eigenvalues.")] = 5,
    relative_error: Annotated[
        float, typer.Option(help="Standard error of the trace, relative to it, at which to stop.")
    ] = 0.05,
    budget: Annotated[
        float, typer.Option(min=1, help="What may be spent for one loss, in gradients of all rows.")
    ] = 400.0,
    rows: Annotated[int, typer.Option(min=1, help="The most rows that are drawn from the data.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 128,
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Resize images of a folder, e.g. 32x32.")
    ] = None,
    mean: Annotated[
        str,
        typer.Option(metavar="NUMBERS", help="Subtracted from each channel of pixels in [0, 1]; one: grey."),
    ] = "0,0,0",
    std: Annotated[
        str, typer.Option(metavar="NUMBERS", help="What each channel is then divided by.")
    ] = "1,1,1",
    device: Annotated[str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, cuda:1.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Of the rows and of the random vectors.")] = 0,
    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to draw the spectral density: png, svg or pdf."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Measure the curvature of a network's loss: trace, eigenvalues, spectral density.

    Of the loss that was trained and of cross-entropy at the same weights, in eval mode. Needs
    focalcal[torch].

    \b
    Examples:
      focalcal curvature net.pt --model resnet20 --data images/train --size 32x32
      focalcal curvature net.pt --model my_nets:make --data val.npz --loss focal --gamma 3 -o density.png
    """
    from focalcal._settings import optional_module

    optional_module("torch", "focalcal curvature", "torch")
    from focalcal.cli import console
    from focalcal.experiments import measure_checkpoint, open_inputs

    if output is not None:
        _check_drawing(output)
    inputs = open_inputs(
        data,
        rows=rows,
        size=None if size is None else _size(size),
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        batch_size=batch_size,
        seed=seed,
    )
    with console.collected_warnings() as notes, console.Progress(f"Measuring {checkpoint}") as progress:
        found = measure_checkpoint(
            checkpoint,
            model,
            inputs,
            arguments=_arguments(model_args),
            loss=loss,
            gamma=gamma,
            device=device,
            eigenvalues=eigenvalues,
            relative_error=relative_error,
            budget=budget,
            seed=seed,
            progress=lambda what, spent, most: progress.told(f"{what}, {spent} of {most} gradients", 0, 0),
        )
    if output is not None:
        _draw(found, output)
    read = {"rows": len(inputs.y), "whole": inputs.whole, "classes": list(inputs.classes)}
    if json:
        said = {"output": output, "notes": [*found.notes, *notes]}
        console.show_json("curvature", {**found.to_dict(), **read, **said})
        return
    console.show_notes(notes)
    console.show_lines(
        f"{read['rows']:,} of {inputs.whole:,} rows of {data}, {len(inputs.classes)} classes",
        *str(found).splitlines(),
    )
    if output is not None:
        console.show_lines(f"Wrote {output}")


def _arguments(text: str) -> dict[str, Any]:
    try:
        found = loads(text)
    except ValueError as error:
        raise ValueError(f"Expected --model-args as a JSON object, got {text!r}: {error}.") from error
    if not isinstance(found, dict):
        raise ValueError(f'Expected --model-args as a JSON object such as {{"classes": 10}}, got {text!r}.')
    return found


def _size(text: str) -> tuple[int, int]:
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"Expected --size as HEIGHTxWIDTH in pixels, e.g. 32x32, got {text!r}.")
    return int(parts[0]), int(parts[1])


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"Expected {option} as numbers such as 0.5,0.5,0.5, got {text!r}.") from error


def _check_drawing(path: str) -> None:
    """Check, before minutes are spent, that a drawing can be written."""
    from focalcal._settings import check_choice, optional_module
    from focalcal.drawings import FORMATS

    check_choice("the suffix of --output", path.rpartition(".")[2].lower(), FORMATS)
    optional_module("matplotlib.figure", "A drawing", "plot")


def _draw(found: Any, path: str) -> None:
    from matplotlib.figure import Figure

    from focalcal.io.files import written_aside

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    found.plot(ax=figure.subplots())
    with written_aside(path) as aside:
        figure.savefig(aside, format=path.rpartition(".")[2].lower(), dpi=150)
