"""The command line. Heavy imports wait inside the commands, so that ``--help`` is quick.

Exit status: 0 done, 1 a defect of ours, 2 wrong usage, 3 the study cannot be used, 4 the bundle
or recipe cannot be used.
"""

import json
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from . import __version__
from .errors import ExportError, MammoFMError, UsageError
from .views import HEADS

__all__ = ["cli", "main"]

WRITERS = ("json", "text", "png", "heat", "html", "cad-sr", "sr", "gsps")
DEFAULT_WRITERS = "json,text,png"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mammofm-lite")
def cli() -> None:
    """Mammo-FM on a CPU: diagnosis, localization, report and prognosis. Not a medical device."""


def main() -> None:
    """Entry point: one line per failure, never a traceback for what a user can mend."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except MammoFMError as error:
        click.echo(f"mammofm-lite: {error}", err=True)
        sys.exit(error.exit_status)
    except OSError as error:
        # The text of an OSError carries a path, and a path may carry a patient's name.
        click.echo(f"mammofm-lite: cannot read or write: {error.strerror or 'I/O error'}", err=True)
        _give_up_output()
        sys.exit(1)
    except MemoryError:
        click.echo("mammofm-lite: not enough memory for this study and bundle", err=True)
        sys.exit(1)
    except Exception as error:
        if os.environ.get("MAMMOFM_TRACEBACK"):
            raise
        click.echo(f"mammofm-lite: {_defect(error)}", err=True)
        sys.exit(1)


def _give_up_output() -> None:
    """Drop what standard output could not take: Python would try again at exit, tell of it in lines
    of its own, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _defect(error: Exception) -> str:
    """Where it happened, not what it says: its text might carry a patient's data."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "mammofm_lite" in Path(frame.filename).parts]
    place = f" in {Path(ours[-1].filename).name}, line {ours[-1].lineno}" if ours else ""
    return (
        f"a defect of this program: {type(error).__name__}{place}; please report it "
        "(MAMMOFM_TRACEBACK=1 shows the whole)"
    )


def _names(text: str | None, allowed: tuple[str, ...], what: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in allowed]
    if unknown or not names:
        given = f"unknown {what} {unknown[0]!r}" if unknown else f"no {what} named"
        raise UsageError(f"{given}; choose from {', '.join(allowed)}")
    return names


BUNDLE = click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Bundle directory (default: the demonstration bundle).",
)
THREADS = click.option(
    "--threads", type=click.IntRange(1, 1024), help="CPU threads (default: all)."
)
SIGNED_BY = click.option(
    "--require-signature",
    "signed_by",
    type=click.Path(path_type=Path),
    metavar="PUB.pem",
    help="Use the bundle only if this key signed it.",
)
NO_TILED = click.option(
    "--no-tiled", is_flag=True, help="Run encoders by OpenVINO's own kernels alone."
)
ALLOW_CR = click.option("--allow-cr", is_flag=True, help="Accept CR and DX images of the breast.")


@cli.command(short_help="Run the heads on a study.")
@click.argument("study", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for result files.")
@BUNDLE
@click.option("--heads", help=f"Comma-separated list out of: {', '.join(HEADS)} (default: all).")
@click.option(
    "--write",
    help=f"Kinds of result files, out of: {', '.join(WRITERS)} (default: {DEFAULT_WRITERS}).",
)
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone.")
@click.option("--force", is_flag=True, help="Replace result files that are already there.")
@SIGNED_BY
@ALLOW_CR
@NO_TILED
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def infer(
    study: Path,
    output: Path | None,
    bundle: Path | None,
    heads: str | None,
    write: str | None,
    threads: int | None,
    as_json: bool,
    force: bool,
    signed_by: Path | None,
    allow_cr: bool,
    no_tiled: bool,
    quiet: bool,
) -> None:
    """Run the heads on STUDY: a DICOM file, a folder of any depth, or a zip."""
    chosen = _names(heads, HEADS, "head")
    kinds = _names(write or DEFAULT_WRITERS, WRITERS, "kind of file") or ()
    if output is None and (write is not None or force):
        raise UsageError("--write and --force need a folder for result files: give -o")
    from .console import Progress
    from .dicom import ReadOptions, read_study
    from .engine import InferOptions, Model
    from .progress import StageReporter
    from .writers.folder import ResultFolder

    folder = ResultFolder(output, kinds, force) if output else None
    with Progress(quiet) as progress:
        reporter = StageReporter(progress)
        model = Model.load(bundle, threads=threads, signed_by=signed_by, tiled=not no_tiled)
        with reporter.stage("read"):
            instances = read_study(study, ReadOptions(allow_cr=allow_cr))
        if folder:
            folder.take_study(instances)
        taker = folder.take_pixels if folder else None
        result = model.infer(instances, InferOptions(chosen), observer=progress, take_pixels=taker)
        if folder:
            folder.write(result, instances, reporter, bundle=model.bundle)
    click.echo(result.to_json_text() if as_json else _summary(result), nl=False)


def _summary(result: Any) -> str:
    from .writers.text import summary

    return summary(result)


@cli.command(short_help="Score free text against a study.")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for result files.")
@BUNDLE
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON alone.")
@click.option("--force", is_flag=True, help="Replace result files that are already there.")
@SIGNED_BY
@ALLOW_CR
@NO_TILED
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def ask(
    study: Path,
    texts: tuple[str, ...],
    output: Path | None,
    bundle: Path | None,
    threads: int | None,
    as_json: bool,
    force: bool,
    signed_by: Path | None,
    allow_cr: bool,
    no_tiled: bool,
    quiet: bool,
) -> None:
    """Score every TEXT, such as "spiculated mass", against the views of STUDY.

    The bundle must carry its text encoder. Scores are cosine similarities: they rank views of one
    study, or texts, among each other; they are not probabilities and never a finding. Result files
    are ask.json and, per text and view, a picture of where the view agrees with the text.
    """
    if output is None and force:
        raise UsageError("--force needs a folder for result files: give -o")
    from .console import Progress
    from .dicom import ReadOptions, read_study
    from .engine import Model
    from .progress import StageReporter
    from .writers.ask import AskFolder, ask_summary

    folder = AskFolder(output, force) if output else None
    with Progress(quiet) as progress:
        reporter = StageReporter(progress)
        model = Model.load(bundle, threads=threads, signed_by=signed_by, tiled=not no_tiled)
        with reporter.stage("read"):
            instances = read_study(study, ReadOptions(allow_cr=allow_cr))
        result = model.ask(instances, texts, observer=progress)
        if folder:
            folder.write(result, instances, reporter)
    click.echo(result.to_json_text() if as_json else ask_summary(result), nl=False)


@cli.command(short_help="Write a synthetic study.")
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--lesions", type=click.IntRange(0, 3), help="How many (default: by the seed).")
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1),
    default=0.35,
    show_default=True,
    help="Share of studies with a cancer.",
)
@click.option(
    "--difficulty",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="How faint, small and untypical lesions are.",
)
@click.option(
    "--shift",
    type=click.Choice(["none", "vendor", "noise", "texture"]),
    default="none",
    show_default=True,
    help="Another grey-scale, more noise, or other tissue.",
)
@click.option(
    "--spacing",
    type=click.FloatRange(0.04, 1),
    default=0.1,
    show_default=True,
    help="Pixel spacing in mm; the field stays 23 by 19 cm.",
)
@click.option(
    "--bits", type=click.IntRange(12, 14), default=12, show_default=True, help="BitsStored."
)
@click.option(
    "--transfer-syntax",
    type=click.Choice(
        [
            "explicit-little",
            "implicit-little",
            "explicit-big",
            "deflated",
            "rle",
            "jpeg-ls",
            "jpeg-2000",
        ]
    ),
    default="explicit-little",
    show_default=True,
    help="How pixels are stored (compression is lossless).",
)
@click.option(
    "--photometric",
    type=click.Choice(["MONOCHROME1", "MONOCHROME2"]),
    default="MONOCHROME2",
    show_default=True,
    help="PhotometricInterpretation.",
)
@click.option("--force", is_flag=True, help="Replace a phantom study that is already there.")
def phantom(
    output: Path, seed: int, photometric: Any, spacing: float, bits: int, force: bool, **chosen: Any
) -> None:
    """Write a synthetic four-view study, and its truth, into the folder OUTPUT."""
    from .phantom import PhantomOptions, write_phantom

    if output.exists() and any(output.iterdir()) and not force:
        raise UsageError("the output folder is not empty; give --force to write into it")
    plain = PhantomOptions()
    options = PhantomOptions(
        rows=round(plain.height_mm / spacing),
        columns=round(plain.width_mm / spacing),
        pixel_spacing_mm=spacing,
        photometric_interpretation=photometric,
        bits_stored=bits,
        **chosen,
    )
    truth = write_phantom(output, seed=seed, options=options)
    planted = {0: "no lesion", 1: "one lesion"}.get(
        len(truth.lesions), f"{len(truth.lesions)} lesions"
    )
    cancer = ", a cancer among them" if truth.malignant else ""
    click.echo(f"wrote a four-view phantom (seed {seed}) with {planted} planted{cancer}")


@cli.command(short_help="Make a bundle from checkpoints.")
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option(
    "--acknowledge-licence",
    is_flag=True,
    help="The licence of the weights was read and allows this use.",
)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="NAME=TEXT|TEXT...",
    help="Add or replace the zero-shot label NAME, whose classes are these texts, in this order. "
    "Needs a recipe with [text]; may be given several times.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def export(
    recipe: Path,
    output: Path,
    force: bool,
    acknowledge_licence: bool,
    prompts: tuple[str, ...],
    quiet: bool,
) -> None:
    """Turn the checkpoints that RECIPE (TOML) names into the bundle OUTPUT."""
    try:
        from .export.build import export_bundle
        from .export.text_recipe import parse_prompts
    except ModuleNotFoundError as error:
        raise ExportError(
            f"export needs {error.name}; install it with: pip install 'mammofm-lite[export]'"
        ) from error
    export_bundle(
        recipe,
        output,
        force=force,
        acknowledge_licence=acknowledge_licence,
        prompts=parse_prompts(prompts),
        tell=None if quiet else _tell,
    )
    click.echo(f"wrote {output}")


@cli.command(short_help="Make the INT8 twin of a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option(
    "--calibration", type=click.Path(path_type=Path), help="Folder of DICOM studies, any depth."
)
@click.option("--held-out", type=click.Path(path_type=Path), help="Studies to judge the result on.")
@click.option(
    "--phantoms",
    type=click.IntRange(0, 10_000),
    default=0,
    help="Calibrate (also) on so many synthetic studies.",
)
@click.option(
    "--gates",
    "gates_file",
    type=click.Path(path_type=Path),
    help="TOML with limits of drift (default: see the README).",
)
@click.option(
    "--bias-correction",
    type=click.Choice(["none", "fast", "full"]),
    default="fast",
    show_default=True,
    help="Of what rounding shifts; none for weights that were trained rounded.",
)
@click.option(
    "--rounds",
    type=click.IntRange(0, 100),
    default=4,
    show_default=True,
    help="How often precision may be given back.",
)
@click.option("--accept-drift", is_flag=True, help="Write even where the answers drift too far.")
@THREADS
@click.option("--force", is_flag=True, help="Replace a bundle that is already there.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def quantize(
    bundle: Path,
    output: Path,
    calibration: Path | None,
    held_out: Path | None,
    phantoms: int,
    gates_file: Path | None,
    bias_correction: Any,
    rounds: int,
    accept_drift: bool,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> None:
    """Quantize BUNDLE (float) to 8 bits, judge it on studies held out, and write OUTPUT."""
    try:
        from .quant.build import QuantizeOptions, quantize_bundle
        from .quant.gates import Gates
        from .quant.studies import StudyChoice
    except ModuleNotFoundError as error:
        raise ExportError(
            f"quantize needs {error.name}; install it with: pip install 'mammofm-lite[export]'"
        ) from error
    options = QuantizeOptions(
        StudyChoice(calibration, held_out, phantoms),
        Gates.read(gates_file) if gates_file else Gates(),
        bias_correction,
        rounds,
        accept_drift,
        force,
        threads,
    )
    quantize_bundle(bundle, output, options, tell=None if quiet else _tell)
    click.echo(f"wrote {output}")


def _tell(line: str) -> None:
    click.echo(line, err=True)


@cli.command(short_help="Verify a bundle and say what is in it.")
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def info(bundle: Path | None, as_json: bool) -> None:
    """Verify BUNDLE (default: the demonstration bundle) and say what is in it."""
    from .bundle import Bundle, demo_bundle_path
    from .writers.info import describe, describe_text

    opened = Bundle.open(bundle or demo_bundle_path())
    description = describe(opened)
    click.echo(json.dumps(description, indent=2) if as_json else describe_text(description))


@cli.command(short_help="How other programs build against libmammofm.")
@click.option("--cflags", is_flag=True, help="Flags for the compiler.")
@click.option("--libs", is_flag=True, help="Flags for the linker.")
@click.option("--cmake", is_flag=True, help="The folder for CMake's mammofm_DIR.")
@click.option("--bundle", "demo", is_flag=True, help="The demonstration bundle.")
def config(cflags: bool, libs: bool, cmake: bool, demo: bool) -> None:
    """Say how C and C++ programs build against libmammofm, the same model without Python."""
    from .bundle import demo_bundle_path
    from .native import embedding_folder

    folder = embedding_folder()
    library = shlex.quote(str(folder / "lib"))
    parts = [
        (cflags, f"-I{shlex.quote(str(folder / 'include'))}"),
        (libs, f"-L{library} -Wl,-rpath,{library} -lmammofm"),
        (cmake, str(folder / "cmake")),
        (demo, str(demo_bundle_path())),
    ]
    asked = [text for wanted, text in parts if wanted]
    if not asked:
        raise UsageError("nothing asked for: give --cflags, --libs, --cmake or --bundle")
    click.echo(" ".join(asked))


@cli.group("bundle", short_help="Sign a bundle, or verify its signature.")
def bundle_group() -> None:
    """Sign a bundle, or verify its signature (Ed25519; needs the extra "sign")."""


@bundle_group.command("sign", short_help="Sign a bundle.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, metavar="KEY.pem")
@click.option("--new-key", "make_key", is_flag=True, help="Make the key first, and KEY.pub.pem.")
def bundle_sign(bundle: Path, key: Path, make_key: bool) -> None:
    """Verify BUNDLE, then sign it with the private key KEY.pem (Ed25519, PKCS #8)."""
    from .bundle import Bundle
    from .signature import new_key, sign_bundle

    opened = Bundle.open(bundle)
    if make_key:
        public = new_key(key)
        click.echo(f"wrote {key.name} (keep it secret) and {public.name}")
    click.echo(f"wrote {sign_bundle(opened, key).name}: {opened.name} {opened.version} is signed")


@bundle_group.command("verify", short_help="Verify a bundle and its signature.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), required=True, metavar="PUB.pem")
def bundle_verify(bundle: Path, key: Path) -> None:
    """Verify every file of BUNDLE, and that the owner of PUB.pem signed it."""
    from .bundle import Bundle
    from .signature import verify_bundle

    opened = Bundle.open(bundle)
    verify_bundle(opened, key)
    click.echo(f"{opened.name} {opened.version}: {len(opened.files)} files whole, signature good")


@cli.command(short_help="Measure latency and memory here.")
@BUNDLE
@click.option("--study", type=click.Path(path_type=Path), help="Study (default: a phantom).")
@click.option("--repeats", type=click.IntRange(1, 10_000), default=5, show_default=True)
@THREADS
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also write JSON here.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of the table.")
def bench(
    bundle: Path | None,
    study: Path | None,
    repeats: int,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure latency per stage, cold start and peak memory on this machine."""
    from .bench import BenchOptions, run_bench, table
    from .writers.files import write_atomically

    measured = run_bench(BenchOptions(bundle, study, repeats, threads))
    text = json.dumps(measured, indent=2) + "\n"
    if output:
        write_atomically(output, text.encode())
    click.echo(text if as_json else table(measured), nl=False)


@cli.command(short_help="Test this machine.")
@BUNDLE
@THREADS
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def selftest(bundle: Path | None, threads: int | None, as_json: bool) -> None:
    """Test this machine: does all work, and are a phantom's answers those that the bundle stores?

    Exit status: 0 passed, 1 program or machine failed, 4 the bundle cannot be used.
    """
    from .selftest import run_selftest

    test = run_selftest(bundle, threads)
    click.echo(json.dumps(test.to_json(), indent=2) + "\n" if as_json else test.text(), nl=False)
    if test.exit_status:
        sys.exit(test.exit_status)
