"""Options that several commands share: what they hand to a command."""

import json

import click
import pytest
from click.testing import CliRunner

from luq_gguf.cli import options
from luq_gguf.cli.convert import command as convert
from luq_gguf.core.errors import BudgetError, CheckpointError, RunFolderError
from luq_gguf.core.types import Budget, RunOptions
from luq_gguf.planning.stage import PlanRequest


@click.command()
@options.permissions("--overwrite")
def permitted(**values: bool) -> None:
    click.echo(json.dumps(values))


@pytest.mark.parametrize(
    ("given", "overwrite", "allow_fallback"),
    [
        ((), False, False),
        (("--overwrite",), True, False),
        (("--allow-fallback",), False, True),
        (("--force",), True, True),
        (("--force", "--overwrite"), True, True),
        (("--allow-fallback", "--force"), True, True),
    ],
)
def test_overwrite_and_allow_fallback_are_apart_and_force_means_both(given, overwrite, allow_fallback):
    done = CliRunner().invoke(permitted, given)
    assert json.loads(done.stdout) == {"overwrite": overwrite, "allow_fallback": allow_fallback}


def test_the_help_shows_what_means_something_to_a_command():
    shown = CliRunner().invoke(permitted, ["--help"]).stdout
    assert "--overwrite" in shown
    assert "--allow-fallback" not in shown
    assert "--force" not in shown


@pytest.mark.parametrize(("given", "taken"), [("--allow-fallback", False), ("--overwrite", True), ("--force", True)])
def test_another_models_run_folder_is_used_with_overwrite_alone(tmp_path, given, taken):
    run, model = tmp_path / "run", tmp_path / "no-checkpoint"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"model": "another/model", "stages": {}}))
    done = CliRunner().invoke(convert, [str(model), "--out", str(run), "--low-layers", "1", given])
    if taken:  # as far as the checkpoint, which is missing
        assert isinstance(done.exception, CheckpointError)
        return
    assert isinstance(done.exception, RunFolderError)
    assert "contains a run of another/model" in done.exception.message
    assert "add --overwrite to use this one" in done.exception.hint
    assert json.loads((run / "run.json").read_text())["model"] == "another/model"


def test_run_options_take_what_is_theirs_of_a_commands_values():
    values = {"threads": 2, "keep_f16": True, "overwrite": True, "model": "m"}
    assert options.make_run_options(values) == RunOptions(threads=2, keep_f16=True, overwrite=True)
    assert values == {"model": "m"}


@pytest.mark.parametrize(
    "option", ["--target-bpw", "--target-tps", "--max-kld", "--min-accuracy", "--alpha", "--plan-minutes"]
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_finite_number_is_refused_as_such(option, value):
    done = CliRunner().invoke(convert, ["M", "--out", "run", f"{option}={value}"])
    assert done.exit_code == 2
    assert f"'{option}': '{value}' is not a finite number." in done.stderr


def test_numbers_are_read_and_words_are_not():
    refused = CliRunner().invoke(convert, ["M", "--out", "run", "--target-bpw", "many"])
    assert (refused.exit_code, "'many' is not a number" in refused.stderr) == (2, True)
    below = CliRunner().invoke(convert, ["M", "--out", "run", "--plan-minutes", "-1"])
    assert (below.exit_code, "'-1' is less than 0" in below.stderr) == (2, True)


@pytest.mark.parametrize("budget", [Budget(bpw=float("nan")), Budget(max_kld=float("inf"))])
def test_a_budget_of_no_finite_number_is_refused(budget):
    with pytest.raises(BudgetError, match="is not a finite number"):
        PlanRequest(budget)
