"""`capo report` as a user runs it: the page, its pictures, what it refuses."""

import re
from contextlib import redirect_stdout
from io import StringIO
from xml.etree import ElementTree

import pytest

from capo_lit.cli import report as report_cli
from capo_lit.cli.report import main
from tests.support.run_folders import CAPO, GRPO, curves, judged, write_run, write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_sweep(tmp_path_factory.mktemp("runs") / "sweep")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, sweep):
    """The folder of a report on the sweep, with its pictures, and what the command wrote."""
    out = tmp_path_factory.mktemp("report") / "out"
    written = StringIO()
    with redirect_stdout(written):
        assert main([str(sweep), "--out", str(out)]) == 0
    return out, written.getvalue()


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without pictures, which take a second."""
    monkeypatch.setattr(report_cli, "draw_all", lambda *_: {})


def report(tmp_path, *argv):
    out = tmp_path / "out"
    assert main([*map(str, argv), "--out", str(out)]) == 0
    return (out / "index.md").read_text()


def row(text, name, after):
    """Cells of the first table row that starts with a name, after a heading."""
    section = text[text.index(after) :]
    line = next(line for line in section.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_the_page_of_a_sweep(sweep, drawn):
    out, written = drawn
    assert written.strip() == str(out / "index.md")
    text = (out / "index.md").read_text()
    assert "2 systems, 6 whole runs of 8." in text
    assert f"`{sweep}/6` (capo): unfinished: step 2 of 4; in no mean" in text
    assert f"`{sweep}/7` (capo_union): failed at step 0: exit status 1: no such judge; in no mean" in text
    end = ["3", "0.200 ± 0.000", "0.600 ± 0.100", "0.700 ± 0.100", "0.400 ± 0.100", "0.250 ± 0.000", "0.500 ± 0.000"]
    assert row(text, "capo", "## At the end of training") == [*end, "10.0 ± 0.0"]
    assert row(text, "grpo_rule", "## At the end of training")[5] == "n/a"
    assert "from the best baseline, grpo_rule" in text
    assert row(text, "capo, avg@k", "best baseline") == ["+0.150", "[+0.026, +0.274]", "paired, 3 seeds"]
    assert row(text, "capo", "## The judge's ledger")[:4] == ["4.00 ± 0.00", "1,200 ± 0", "400 ± 0", "1,600 ± 0"]
    assert row(text, "capo", "Unit: minutes") == ["0.400 ± 0.000", "0.600 ± 0.100", "0.600 ± 0.100", "1.00 ± 0.25"]
    assert "k = 8 samples a problem" in text


def test_the_manifest_says_how_to_repeat_it(sweep, drawn):
    text = (drawn[0] / "index.md").read_text()
    manifest = text[text.index("## Manifest") :]
    assert f"`capo report {sweep} --out {drawn[0]}`" in manifest
    assert "- seeds: 1, 2, 3, 4, 5" in manifest
    assert "torch " in manifest
    assert "CPU cores" in manifest
    digests = {line.split("|")[5].strip() for line in manifest.splitlines() if "sweep" in line and line[0] == "|"}
    assert len(digests) == 8
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in digests)


def test_pictures_are_png_and_svg_with_labelled_axes_and_a_legend(drawn):
    out, _ = drawn
    text = (out / "index.md").read_text()
    for stem in ("accuracy", "dynamics", "compute"):
        assert f"({stem}.png)" in text
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG")
        svg = ElementTree.parse(out / f"{stem}.svg")
        words = {item.text for item in svg.iter("{http://www.w3.org/2000/svg}text")}
        assert {"capo", "grpo_rule"} <= words
        assert ("optimizer steps" in words) == (stem != "compute")
    assert {"million tokens of policy and judge", "minutes of training", "avg@k (share right)"} <= words


@pytest.mark.slow
def test_the_same_runs_give_the_same_pictures(tmp_path, sweep, drawn):
    report(tmp_path, sweep)
    for file in ("accuracy.svg", "dynamics.png", "compute.svg"):
        assert (tmp_path / "out" / file).read_bytes() == (drawn[0] / file).read_bytes()


@pytest.mark.slow
def test_one_run_without_a_judge_or_a_baseline_to_beat(tmp_path):
    folder = write_run(tmp_path / "grpo", GRPO, curves([0.2, 0.3, 0.4], judge=False))
    text = report(tmp_path, folder)
    assert row(text, "grpo", "## At the end")[:3] == ["1", "0.200", "0.400"]
    for absent in ("best baseline", "ledger", "## Votes", "## Weights", "±  "):
        assert absent not in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_lacks_metrics_is_named_and_the_rest_of_it_shown(tmp_path):
    values = curves([0.2, 0.3, 0.4], judge=False, **{"val/greedy_accuracy": None, "rollout/tokens": None})
    text = report(tmp_path, write_run(tmp_path / "bare", GRPO, values))
    assert "`(bare)`" not in text
    assert "(bare): no val/greedy_accuracy, no full count of its tokens and seconds" in text
    assert row(text, "bare", "## At the end")[2:4] == ["0.400", "n/a"]


@pytest.mark.usefixtures("undrawn")
def test_means_of_fewer_runs_than_there_are_say_so(tmp_path):
    for seed, greedy in ((0, {4: 0.5}), (1, None)):
        write_run(
            tmp_path / f"run-seed{seed}",
            GRPO,
            curves([0.2, 0.3, 0.4], judge=False, **{"val/greedy_accuracy": greedy}),
            seed,
        )
    assert row(report(tmp_path, tmp_path), "run", "## At the end")[3] == "0.500 (n = 1)"


@pytest.mark.usefixtures("undrawn")
def test_ablation_tables_name_the_settings(tmp_path):
    runs = {"u": judged(vote="union"), "i": judged(), "n8": judged(k=8), "w5": judged(w_process=5.0)}
    for name, config in runs.items():
        write_run(tmp_path / name, config, curves([0.2, 0.3, 0.4]))
    text = report(tmp_path, tmp_path)
    votes, critiques, weights = (text.index(f"## {name}") for name in ("Votes", "Number of critiques", "Weights"))
    assert votes < critiques < weights
    assert row(text, "u", "## Votes")[:2] == ["union", "4"]
    assert row(text, "n8", "## Number of critiques")[0] == "8"
    assert row(text, "w5", "## Weights")[:2] == ["2.0", "5.0"]


@pytest.mark.usefixtures("undrawn")
def test_another_baseline_and_labels(tmp_path, sweep):
    text = report(tmp_path, sweep, "--label", "A=*/[012]", "--label", "B=*/[345]", "--baseline", "A")
    assert "from the best baseline" not in text
    assert "Difference from A" in text
    assert row(text, "B, avg@k", "Difference from A")[0] == "-0.150"


@pytest.mark.usefixtures("undrawn")
def test_an_earlier_report_is_written_over_only_by_force(tmp_path, sweep, capsys):
    report(tmp_path, sweep)
    before = (tmp_path / "out" / "index.md").stat().st_mtime_ns
    assert main([str(sweep), "--out", str(tmp_path / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "index.md").stat().st_mtime_ns == before
    assert main([str(sweep), "--out", str(tmp_path / "out"), "--force"]) == 0


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{}/nowhere"], "nowhere"),
        (["{}/failed"], "logged nothing"),
        (["{}/good", "--label", "nothing"], "--label"),
        (["{}/good", "--baseline", "zzz"], "'good'"),
        (["{}/torn"], "torn"),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_leaves_nothing(tmp_path, capsys, argv, message):
    write_run(tmp_path / "failed", CAPO, None)
    write_run(tmp_path / "good", CAPO, curves([0.1]))
    (write_run(tmp_path / "torn", CAPO, curves([0.1])) / "config.yaml").write_text("a: [")
    out = tmp_path / "out"
    assert main([word.format(tmp_path) for word in argv] + ["--out", str(out)]) == 1
    errors = [
        line for line in capsys.readouterr().err.splitlines() if not re.match("capo report: (reading|drawing)", line)
    ]
    assert message in "\n".join(errors)
    assert not out.exists()
