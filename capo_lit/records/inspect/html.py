"""A rollout as HTML: steps coloured by verdict, tokens by advantage, votes as a matrix, critiques side by side.

Everything a model wrote is escaped. There is no script and nothing is loaded, so that a fragment is safe in any page
and works offline.
"""

from collections.abc import Sequence
from html import escape

from capo_lit.batch.facts import Critique
from capo_lit.records.inspect.record import Ballot, Record, Step, Token, one_line_breaks

# Blue and orange, told apart under every common colour blindness, as "r,g,b".
_GAIN, _LOSS = "0,114,178", "213,94,0"
_MARKS: dict[Ballot, str] = {"wrong": "✗", "right": "✓", "abstained": "?", "called off": "·"}
_CLASSES: dict[Ballot, str] = {"wrong": "bad", "right": "good", "abstained": "none", "called off": "none"}

STYLE = """
.capo-rollout{font:14px/1.5 system-ui,sans-serif;color:#1a1a1a;background:#fff;border:1px solid #d5d5d5;
  border-radius:8px;padding:14px 18px;margin:10px 0;max-width:1100px}
.capo-rollout h4{margin:16px 0 6px;font-size:12px;font-weight:600;letter-spacing:.03em;color:#555}
.capo-head{display:flex;flex-wrap:wrap;gap:4px 18px;align-items:baseline;border-bottom:1px solid #e5e5e5;
  padding-bottom:8px;margin-bottom:4px;color:#555;overflow-wrap:anywhere}
.capo-head b{color:#1a1a1a}
.capo-chip{border-radius:10px;padding:0 9px;font-weight:600}
.capo-good{background:#e2f0e6;color:#14532d}.capo-bad{background:#fde3df;color:#8c1d0f}
.capo-none{background:#ececec;color:#555}
.capo-text,.capo-step>div,.capo-reply{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px;
  white-space:pre-wrap;overflow-wrap:anywhere}
.capo-step{display:flex;gap:10px;border-left:5px solid #c9c9c9;padding:3px 8px;margin:3px 0;border-radius:3px}
.capo-step.capo-right{border-color:#2f9e5b}.capo-step.capo-wrong{border-color:#c9301c;background:#fdf1ef}
.capo-step.capo-split{border-color:#e0a100;background:#fdf7e6}
.capo-step>span{flex:0 0 9.5em;color:#555;font-size:12px}
.capo-step>div{min-width:0}
.capo-token{border-radius:2px}.capo-special{color:#333;font-style:italic;font-size:11px;padding:0 3px;margin-left:2px}
.capo-key i{display:inline-block;width:14px;height:11px;border-radius:2px;margin:0 4px 0 12px}
.capo-key{font-size:12px;color:#555;margin-top:6px}
.capo-scroll{overflow-x:auto}
table.capo-table{border-collapse:collapse;font-size:13px;margin:0;color:#1a1a1a;background:#fff}
table.capo-table th,table.capo-table td{border:1px solid #dedede;padding:2px 9px;text-align:center!important}
table.capo-table tr{background:none!important}
table.capo-table th{font-weight:600;color:#555}
table.capo-table td.capo-good{background:#e2f0e6}table.capo-table td.capo-bad{background:#fde3df}
table.capo-table td.capo-none{background:#ececec}
table.capo-table .capo-left{text-align:left!important;overflow-wrap:break-word}
.capo-columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(185px,1fr));gap:10px}
.capo-columns>div{border:1px solid #dedede;border-radius:5px;padding:6px 10px;min-width:0}
.capo-columns small,.capo-small{color:#555;font-size:12px}
.capo-reply{max-height:22em;overflow-y:auto;margin-top:4px}
.capo-pair{display:grid;grid-template-columns:1fr 1fr;gap:14px}.capo-pair>div{min-width:0}
"""


class ShownRecord(Record):
    """The record that `load` gives; in a notebook it draws itself."""

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{rollout_html(self)}"


def rollout_html(record: Record, scale: float | None = None) -> str:
    """All of one rollout.

    Args:
        record: the rollout.
        scale: the |advantage| that has the strongest colour; the record's own largest by default.

    Returns:
        A fragment for a page that has STYLE.
    """
    parts = [_head(record), "<h4>Problem</h4>", _text(record.row["problem"]), "<h4>Solution</h4>"]
    parts += [steps_html(record, scale)]
    if record.judged:
        parts += ["<h4>Votes</h4>", votes_html(record), "<h4>Critiques</h4>", critiques_html(record.critiques)]
    if record.outcome_critiques:
        parts += ["<h4>Critiques of the answer</h4>", critiques_html(record.outcome_critiques, "wrong answer")]
    return f'<div class="capo-rollout">{"".join(parts)}</div>'


def steps_html(record: Record, scale: float | None = None) -> str:
    """The steps, coloured by verdict, and in them the tokens, coloured by advantage."""
    scale = scale or record.peak_advantage
    rows = [_step(step, scale) for step in record.steps]
    loose = [token for token in record.tokens if token.step < 0]
    if loose:
        rows.append(f'<div class="capo-step"><span>outside steps</span><div>{_tokens(loose, scale)}</div></div>')
    key = f'<div class="capo-key">{_key(scale)}</div>' if record.row["advantages"] is not None else ""
    return "".join(rows) + key


def votes_html(record: Record) -> str:
    """Every critique's word on every step, and what the vote made of it."""
    heads = "".join(f"<th>critique {number}</th>" for number in range(len(record.critiques)))
    rows = []
    for step, ballots in zip(record.steps, record.votes, strict=True):
        cells = "".join(
            f'<td class="capo-{_CLASSES[ballot]}" title="{ballot}">{_MARKS[ballot]}</td>' for ballot in ballots
        )
        verdict = f'<td class="capo-{"bad" if step.called_wrong else "good"}"><b>{step.error:.2g}</b></td>'
        words = escape(_shortened(step.text.strip()))
        rows.append(f'<tr><th>{step.index}</th><td class="capo-left">{words}</td>{cells}{verdict}</tr>')
    head = f'<tr><th>step</th><th class="capo-left">text</th>{heads}<th>step error</th></tr>'
    return f'<div class="capo-scroll"><table class="capo-table">{head}{"".join(rows)}</table></div>'


def critiques_html(critiques: Sequence[Critique], wrong: str = "") -> str:
    """Critiques side by side; `wrong` is what to say of one that calls something wrong, by default which steps."""
    columns = [_critique(number, critique, wrong) for number, critique in enumerate(critiques)]
    return f'<div class="capo-columns">{"".join(columns)}</div>'


def pair_html(before: Record, after: Record) -> str:
    """One rollout under two votes or weights, side by side, with the colours on one scale."""
    scale = max(before.peak_advantage, after.peak_advantage)
    sides = [
        f"<div><h4>{name}</h4>{steps_html(record, scale)}</div>"
        for name, record in (("As recorded", before), ("Replayed", after))
    ]
    return f'<div class="capo-rollout">{_head(before)}<div class="capo-pair">{"".join(sides)}</div></div>'


def table_html(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> str:
    """A table of words and numbers, all escaped."""
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f'<div class="capo-scroll"><table class="capo-table"><tr>{head}</tr>{body}</table></div>'


def _cell(value: object) -> str:
    words = "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    side = ' class="capo-left"' if isinstance(value, str) else ""
    return f"<td{side}>{escape(_shortened(words))}</td>"


def _head(record: Record) -> str:
    tone = {"right": "good", "wrong": "bad", "unknown": "none"}[record.outcome]
    facts = [f'<span class="capo-chip capo-{tone}">{record.outcome} answer</span>', f"<b>{escape(record.title)}</b>"]
    facts.append(f"<span>expected {escape(_shortened(str(record.row['answer'])))}</span>")
    facts.append(f"<span>{len(record.tokens)} tokens, {escape(record.row['finish_reason'])}</span>")
    if record.row["policy_version"] is not None:
        facts.append(f"<span>policy version {record.row['policy_version']}</span>")
    if record.disagreement is not None:
        wrong = sum(step.called_wrong for step in record.steps)
        facts.append(f"<span>{wrong} of {len(record.steps)} steps called wrong</span>")
        facts.append(f"<span>disagreement {record.disagreement:.2f}</span>")
    return f'<div class="capo-head">{"".join(facts)}</div>'


def _step(step: Step, scale: float) -> str:
    if step.error is None:
        tone, words = "", "not judged"
    elif 0 < step.error < 1:
        tone, words = " capo-split", f"error {step.error:.2f}"
    else:
        tone, words = (" capo-wrong", "✗ wrong") if step.called_wrong else (" capo-right", "✓ right")
    label = f"<span>step {step.index} · {words}</span>"
    return f'<div class="capo-step{tone}">{label}<div>{_tokens(step.tokens, scale)}</div></div>'


def _tokens(tokens: Sequence[Token], scale: float) -> str:
    shown = []
    for token in tokens:
        words = "end" if token.special else escape(one_line_breaks(token.text))
        classes = "capo-token capo-special" if token.special else "capo-token"
        colour = _background(token.advantage, scale)
        shown.append(f'<span class="{classes}"{colour} title="{_hint(token)}">{words}</span>')
    return "".join(shown)


def _background(advantage: float | None, scale: float) -> str:
    if not advantage or not scale:
        return ""
    strength = 0.08 + 0.55 * min(1.0, abs(advantage) / scale)
    return f' style="background:rgba({_GAIN if advantage > 0 else _LOSS},{strength:.2f})"'


def _hint(token: Token) -> str:
    facts = {
        "advantage": token.advantage,
        "reward": token.reward,
        "logprob of engine": token.engine_logprob,
        "of trainer": token.trainer_logprob,
    }
    return ", ".join(f"{name} {value:.3f}" for name, value in facts.items() if value is not None)


def _key(scale: float) -> str:
    return (
        f'advantage of a token:<i style="background:rgba({_LOSS},.63)"></i>&minus;{scale:.2f}'
        f'<i style="background:#eee"></i>0<i style="background:rgba({_GAIN},.63)"></i>+{scale:.2f}'
    )


def _critique(number: int, critique: Critique, wrong: str) -> str:
    if critique.wrong is None:
        tone, words = "none", "called off" if critique.aborted else f"abstained: {critique.cause}"
    elif critique.wrong:
        tone, words = "bad", wrong or "wrong: " + ", ".join(str(step) for step in sorted(critique.wrong))
    else:
        tone, words = "good", "nothing wrong"
    facts = f"{critique.completion_tokens} tokens, {critique.seconds:.2f} s"
    head = f'<b>critique {number}</b> <span class="capo-chip capo-{tone}">{escape(words)}</span> <small>{facts}</small>'
    return f'<div>{head}<div class="capo-reply">{escape(critique.reply)}</div></div>'


def _text(words: str) -> str:
    return f'<div class="capo-text">{escape(words)}</div>'


def _shortened(words: str, length: int = 80) -> str:
    return words if len(words) <= length else words[: length - 1] + "…"
